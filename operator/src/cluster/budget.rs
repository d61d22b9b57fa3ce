//! Requests per second towards Kubernetes, over everything: a bucket of tokens, urgent takers first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// So much may be saved up, as a share of a second's tokens.
const BURST: u32 = 5;

#[derive(Debug)]
pub(crate) struct Budget {
    /// A token's worth of time.
    interval: Duration,
    burst: Duration,
    /// When the bucket was, or will be, empty.
    empty_at: Mutex<Instant>,
    urgent: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: Duration::from_secs(1) / BURST,
            empty_at: Mutex::new(Instant::now()),
            urgent: AtomicUsize::new(0),
        }
    }

    /// Takes a token if there is one; else says when there will be.
    fn try_take(&self, urgent: bool) -> Result<(), Instant> {
        let now = Instant::now();
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not used within the burst is lost.
        let oldest = now.checked_sub(self.burst).unwrap_or(now);
        let next = (*empty_at).max(oldest) + self.interval;
        if next > now {
            return Err(next);
        }
        if !urgent && self.urgent.load(Ordering::Relaxed) > 0 {
            return Err(now + self.interval);
        }
        *empty_at = next;
        Ok(())
    }

    /// Waits for a token.
    pub(crate) async fn take(&self, urgent: bool) {
        let _waiting = urgent.then(|| Waiting::new(&self.urgent));
        while let Err(at) = self.try_take(urgent) {
            sleep_until(at).await;
        }
    }
}

/// Counts an urgent taker, however its wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_rate_and_a_fifth_of_a_second_saved_up() {
        let budget = Budget::new(100);
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..120 {
            budget.take(false).await;
        }
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(990)..Duration::from_millis(1_150)).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_takers_go_first() {
        let budget = Arc::new(Budget::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut takers = tokio::task::JoinSet::new();
        for urgent in [false, false, true] {
            let (budget, order) = (Arc::clone(&budget), Arc::clone(&order));
            takers.spawn(async move {
                budget.take(urgent).await;
                order.lock().unwrap().push(urgent);
            });
        }
        while takers.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [true, false, false]);
    }
}

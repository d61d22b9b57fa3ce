//! Requests per second towards Kubernetes, over everything: a bucket of tokens; transitions first, then other statuses,
//! then Events, which tell what the statuses say already. Rejected: a bucket for each, whose sum would be the rate that the
//! API server sees.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// So much may be saved up, as a share of a second's tokens.
const BURST: u32 = 5;

/// What a token is for; the first wait for nobody but their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Transition,
    Status,
    Event,
}

#[derive(Debug)]
pub(crate) struct Budget {
    /// A token's worth of time.
    interval: Duration,
    burst: Duration,
    /// When the bucket was, or will be, empty.
    empty_at: Mutex<Instant>,
    /// Who waits, by purpose.
    waiting: [AtomicUsize; 3],
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            // Less than one token would never become one.
            burst: (Duration::from_secs(1) / BURST).max(Duration::from_secs(1) / per_second.max(1)),
            empty_at: Mutex::new(Instant::now()),
            waiting: Default::default(),
        }
    }

    /// Takes a token if there is one; else says when there will be.
    fn try_take(&self, purpose: Purpose) -> Result<(), Instant> {
        let now = Instant::now();
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not used within the burst is lost.
        let oldest = now.checked_sub(self.burst).unwrap_or(now);
        let next = (*empty_at).max(oldest) + self.interval;
        if next > now {
            return Err(next);
        }
        let before = &self.waiting[..purpose as usize];
        if before.iter().any(|count| count.load(Ordering::Relaxed) > 0) {
            return Err(now + self.interval);
        }
        *empty_at = next;
        Ok(())
    }

    /// Waits for a token.
    pub(crate) async fn take(&self, purpose: Purpose) {
        let _waiting = Waiting::new(&self.waiting[purpose as usize]);
        while let Err(at) = self.try_take(purpose) {
            sleep_until(at).await;
        }
    }

    /// The API server asked for a rest: nobody takes a token for so long.
    pub(crate) fn rest(&self, pause: Duration) {
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        *empty_at = (*empty_at).max(Instant::now() + pause);
    }
}

/// Counts a waiting taker, however its wait ends.
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
            budget.take(Purpose::Status).await;
        }
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(990)..Duration::from_millis(1_150)).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn transitions_go_first_and_events_last() {
        use Purpose::{Event, Status, Transition};
        let budget = Arc::new(Budget::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut takers = tokio::task::JoinSet::new();
        for purpose in [Event, Status, Event, Status, Transition] {
            let (budget, order) = (Arc::clone(&budget), Arc::clone(&order));
            takers.spawn(async move {
                budget.take(purpose).await;
                order.lock().unwrap().push(purpose);
            });
        }
        while takers.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), [Transition, Status, Status, Event, Event]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_asks_for_a_rest_gets_it() {
        let budget = Budget::new(100);
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        budget.rest(Duration::from_secs(2));
        budget.take(Purpose::Transition).await;
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

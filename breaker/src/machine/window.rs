//! Sliding windows: ten time buckets, or the last N outcomes.
//!
//! Buckets are aligned to the store's clock, so every instance's records fall into the same ones; the effective length
//! is (0.9 W, W]. Rejected: exact timestamps per outcome, whose memory grows with traffic.

use crate::state::Kind;

/// Calls, failing and slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// All outcomes.
    pub calls: u64,
    /// Failures and slow failures.
    pub failing: u64,
    /// Slow successes and slow failures.
    pub slow: u64,
}

impl Sums {
    /// Adds one outcome.
    pub fn add(&mut self, kind: Kind) {
        self.calls += 1;
        self.failing += u64::from(kind.is_failing());
        self.slow += u64::from(kind.is_slow());
    }
}

/// The number of the bucket an instant falls into: ten to a window, counted from the epoch.
#[must_use]
pub fn bucket(now: u64, window_ms: u64) -> u64 {
    10 * now / window_ms
}

/// Milliseconds until the next bucket begins, at least 1.
#[must_use]
pub fn until_next_bucket(now: u64, window_ms: u64) -> u64 {
    let next = (bucket(now, window_ms) + 1) * window_ms / 10;
    next.saturating_sub(now).max(1)
}

/// Time buckets that hold something, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Buckets(pub Vec<(u64, Sums)>);

impl Buckets {
    /// Forgets what is ten buckets old or older.
    pub fn expire(&mut self, now: u64, window_ms: u64) {
        let current = bucket(now, window_ms);
        self.0.retain(|(number, _)| number + 10 > current);
    }

    /// Adds an outcome at an instant not before the newest bucket.
    pub fn add(&mut self, now: u64, window_ms: u64, kind: Kind) {
        let current = bucket(now, window_ms);
        if self.0.last().is_none_or(|(number, _)| *number != current) {
            self.0.push((current, Sums::default()));
        }
        if let Some((_, sums)) = self.0.last_mut() {
            sums.add(kind);
        }
    }

    /// The total of all buckets.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.0.iter().fold(Sums::default(), |total, (_, part)| Sums {
            calls: total.calls + part.calls,
            failing: total.failing + part.failing,
            slow: total.slow + part.slow,
        })
    }
}

/// The last outcomes with the instance each came from, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots(pub Vec<(Kind, u64)>);

impl Slots {
    /// Adds an outcome; the oldest leaves when there are more than `size`.
    pub fn push(&mut self, size: u64, kind: Kind, instance: u64) {
        self.0.push((kind, instance));
        if self.0.len() as u64 > size {
            self.0.remove(0);
        }
    }

    /// The total, of one instance or of all.
    #[must_use]
    pub fn sums(&self, instance: Option<u64>) -> Sums {
        let mut sums = Sums::default();
        for (kind, owner) in &self.0 {
            if instance.is_none_or(|wanted| wanted == *owner) {
                sums.add(*kind);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_leaves_at_the_window_s_length_at_the_latest_and_not_before_nine_tenths() {
        for at in [0, 1, 99, 100, 999] {
            let mut buckets = Buckets::default();
            buckets.add(at, 1_000, Kind::Failure);
            for age in 0..=1_000 {
                let mut later = buckets.clone();
                later.expire(at + age, 1_000);
                let kept = later.sums().calls == 1;
                assert!(kept || age > 900, "lost at age {age}");
                assert!(!kept || age < 1_000, "kept at age {age}");
            }
        }
    }

    #[test]
    fn a_count_window_keeps_the_last_outcomes() {
        let mut slots = Slots::default();
        for kind in [Kind::Failure, Kind::Success, Kind::SlowFailure, Kind::SlowSuccess] {
            slots.push(3, kind, 1);
        }
        assert_eq!(
            slots.sums(None),
            Sums {
                calls: 3,
                failing: 1,
                slow: 2
            }
        );
        assert_eq!(slots.sums(Some(2)), Sums::default());
    }
}

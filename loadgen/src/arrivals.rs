//! When calls should start: the *n*th `n ÷ rate` seconds after its phase began.
//!
//! Computed from the start each time, so rounding does not add up. Rejected: Poisson arrivals, which are closer to real
//! traffic but make a short scenario's outcome depend on luck.

use std::time::Duration;

use tokio::time::Instant;

/// The intended starts of one phase.
#[derive(Debug)]
pub(crate) struct Arrivals {
    start: Instant,
    end: Option<Instant>,
    rate: f64,
    next: u64,
}

impl Arrivals {
    /// `rate` calls per second from `start` on, for `duration` or without end. A rate of 0 is no calls.
    pub(crate) fn new(start: Instant, rate: f64, duration: Option<Duration>) -> Self {
        Self {
            start,
            end: duration.map(|duration| start + duration),
            rate,
            next: 0,
        }
    }

    /// Takes the next intended start if it is due by `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.next_start()?;
        if at > now {
            return None;
        }
        self.next += 1;
        Some(at)
    }

    /// When there is something to do: the next call, or the phase's end; `None`: never.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.next_start().or(self.end)
    }

    /// Whether the phase is over at `now`.
    pub(crate) fn over(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now >= end)
    }

    fn next_start(&self) -> Option<Instant> {
        if self.rate <= 0.0 {
            return None;
        }
        // 2^53 calls are 2,800 years at the highest rate; until then the count is exact.
        #[allow(clippy::cast_precision_loss)]
        let offset = Duration::try_from_secs_f64(self.next as f64 / self.rate).ok()?;
        let at = self.start.checked_add(offset)?;
        self.end.is_none_or(|end| at < end).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets_ms(rate: f64, duration_ms: u64) -> Vec<u128> {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start, rate, Some(Duration::from_millis(duration_ms)));
        std::iter::from_fn(|| arrivals.take_due(start + Duration::from_secs(60)))
            .map(|at| (at - start).as_millis())
            .collect()
    }

    #[test]
    fn starts_are_evenly_spaced_and_end_with_the_phase() {
        assert_eq!(offsets_ms(10.0, 500), [0, 100, 200, 300, 400]);
        assert_eq!(offsets_ms(0.5, 3_000), [0, 2_000]);
        assert_eq!(offsets_ms(0.0, 3_000), [0; 0]);
        assert_eq!(
            offsets_ms(3.0, 10_000).len(),
            30,
            "thirds do not add up to an extra call"
        );
    }

    #[test]
    fn nothing_is_due_before_its_time_and_a_stall_makes_all_of_it_due() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start, 10.0, None);
        assert_eq!(arrivals.take_due(start), Some(start));
        assert_eq!(arrivals.take_due(start + Duration::from_millis(99)), None);
        assert_eq!(arrivals.wake(), Some(start + Duration::from_millis(100)));
        let later = start + Duration::from_millis(350);
        assert_eq!(std::iter::from_fn(|| arrivals.take_due(later)).count(), 3);
    }

    #[test]
    fn a_phase_without_calls_still_ends() {
        let start = Instant::now();
        let arrivals = Arrivals::new(start, 0.0, Some(Duration::from_secs(1)));
        let end = start + Duration::from_secs(1);
        assert_eq!(arrivals.wake(), Some(end));
        assert!(!arrivals.over(start) && arrivals.over(end));
    }
}

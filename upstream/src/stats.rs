//! What was answered, and how many requests were under way at once.
//!
//! One mutex, held for a few instructions: the numbers in a report belong to one instant, which separate atomics would
//! not give.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts since start or the last reset. `/_faults` and `/_stats` themselves are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Requests that arrived.
    pub requests: u64,
    /// Answers by HTTP status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests left without an answer, by `hangPercent`.
    pub hung: u64,
    /// Requests whose connection was reset, by `resetPercent`.
    pub reset: u64,
    /// Requests under way now: arrived, not yet answered, client still there.
    pub in_flight: u64,
    /// The most requests that were under way at once.
    pub max_in_flight: u64,
}

/// Counts requests of all connections.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    stats: Mutex<Stats>,
}

/// One request under way; dropping it, also because the client went, ends that.
#[derive(Debug)]
pub(crate) struct Underway {
    recorder: Arc<Recorder>,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn arrived(self: &Arc<Self>) -> Underway {
        let mut stats = self.lock();
        stats.requests += 1;
        stats.in_flight += 1;
        stats.max_in_flight = stats.max_in_flight.max(stats.in_flight);
        drop(stats);
        Underway {
            recorder: Arc::clone(self),
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        self.lock().clone()
    }

    /// Forgets everything but the requests under way, which are still there.
    pub(crate) fn reset(&self) {
        let mut stats = self.lock();
        let in_flight = stats.in_flight;
        *stats = Stats {
            in_flight,
            max_in_flight: in_flight,
            ..Stats::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        // Nothing panics while holding it; were it otherwise, counters would still be counters.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Underway ===

impl Underway {
    pub(crate) fn answered(&self, status: http::StatusCode) {
        *self.recorder.lock().by_status.entry(status.as_u16()).or_default() += 1;
    }

    pub(crate) fn hung(&self) {
        self.recorder.lock().hung += 1;
    }

    pub(crate) fn reset(&self) {
        self.recorder.lock().reset += 1;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut stats = self.recorder.lock();
        stats.in_flight = stats.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_keeps_the_requests_under_way() {
        let recorder = Arc::new(Recorder::default());
        let first = recorder.arrived();
        let second = recorder.arrived();
        first.answered(http::StatusCode::OK);
        drop(first);
        assert_eq!(recorder.snapshot().max_in_flight, 2);
        recorder.reset();
        assert_eq!(
            recorder.snapshot(),
            Stats {
                in_flight: 1,
                max_in_flight: 1,
                ..Stats::default()
            }
        );
        drop(second);
        assert_eq!(recorder.snapshot().in_flight, 0);
    }
}

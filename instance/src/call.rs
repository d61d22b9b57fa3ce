//! A permit whose end is also a measurement.

use crate::histogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tiebar::guard::{Permit, Presented, Verdict};
use tiebar::state::Kind;

/// Durations of calls, by outcome.
#[derive(Debug)]
pub(crate) struct Durations([Histogram; 5]);

/// Upper bounds, in microseconds: from a call on loopback to one that hangs.
const BOUNDS: &[u64] = &[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

impl Default for Durations {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::new(BOUNDS, 1e6)))
    }
}

impl Durations {
    /// In the order of the outcomes' names.
    pub(crate) fn all(&self) -> &[Histogram; 5] {
        &self.0
    }
}

/// What is counted per breaker besides what its guard counts.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) durations: Arc<Durations>,
    /// Calls rejected because this proxy has too many in flight.
    pub(crate) overloaded: AtomicU64,
}

/// One admitted call.
#[derive(Debug)]
pub(crate) struct Call {
    permit: Option<Permit>,
    durations: Option<Arc<Durations>>,
}

impl Call {
    pub(crate) fn new(permit: Permit, durations: &Arc<Durations>) -> Self {
        Self {
            permit: Some(permit.timed()),
            durations: Some(Arc::clone(durations)),
        }
    }

    /// A call that no guard admitted and none hears of: to a fallback.
    pub(crate) fn unguarded() -> Self {
        Self {
            permit: None,
            durations: None,
        }
    }

    pub(crate) fn presented(&self) -> Presented {
        self.permit.as_ref().map_or(Presented::Unconfigured, Permit::presented)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.permit.as_ref().and_then(Permit::elapsed).unwrap_or_default()
    }

    pub(crate) fn pause(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.pause();
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.resume();
        }
    }

    /// Fixes the duration: the headers are there, the outcome is not.
    pub(crate) fn stop_clock(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.resume();
            permit.stop_clock();
        }
    }

    pub(crate) fn record(mut self, verdict: Verdict) {
        self.finish(|permit| permit.record(verdict));
    }

    fn finish(&mut self, end: impl FnOnce(Permit) -> Kind) {
        if let Some(permit) = self.permit.take() {
            let took = permit.elapsed().unwrap_or_default();
            let kind = end(permit);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            if let Some(histogram) = self.durations.as_ref().and_then(|all| all.0.get(kind.code() as usize)) {
                histogram.observe(micros);
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Permit::cancel);
    }
}

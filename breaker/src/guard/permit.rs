//! The right to make one call, and what becomes of it.

use super::inner::{Done, Inner, Route};
use super::{Presented, Verdict};
use crate::state::{Cause, Kind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// The right to make one call. Dropping it unrecorded cancels it: no evidence, unless the call ran past the slow
/// threshold or past half of its timeout, which counts as slow.
#[must_use = "a permit that is dropped cancels its call"]
#[derive(Debug)]
pub struct Permit {
    pub(super) inner: Arc<Inner>,
    pub(super) route: Route,
    pub(super) presented: Presented,
    pub(super) generation: u64,
    pub(super) started: Instant,
    /// The call's place among the running ones that are watched for slowness, plus one; 0: none.
    pub(super) slot: u16,
    pub(super) open: bool,
    /// Milliseconds at which the call's duration was fixed.
    pub(super) took_ms: Option<u64>,
}

impl Permit {
    /// The state that admitted the call, for `x-circuit-state`.
    #[must_use]
    pub fn presented(&self) -> Presented {
        self.presented
    }

    /// The number of the state that admitted the call; the instance's own numbers while it acts without the store.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Fixes the call's duration now, when its outcome becomes known later: a streamed answer is as slow as its headers.
    pub fn stop_clock(&mut self) {
        self.took_ms = Some(self.elapsed_ms());
        self.inner.release(std::mem::take(&mut self.slot));
    }

    /// Records how the call ended, now, and returns how it was counted.
    pub fn record(mut self, verdict: Verdict) -> Kind {
        let (kind, cause) = match verdict {
            Verdict::Success => (Kind::of(false, self.is_slow()), Cause::None),
            Verdict::Failure(cause) => (Kind::of(true, self.is_slow()), cause),
            Verdict::Ignored => (Kind::Ignored, Cause::None),
        };
        self.end(kind, cause);
        kind
    }

    fn elapsed_ms(&self) -> u64 {
        self.took_ms
            .unwrap_or_else(|| self.started.elapsed().as_millis() as u64)
    }

    fn is_slow(&self) -> bool {
        let threshold = self.inner.slow_ms.load(Ordering::Relaxed);
        threshold > 0 && self.elapsed_ms() >= threshold
    }

    fn end(&mut self, kind: Kind, cause: Cause) {
        self.open = false;
        self.inner.release(self.slot);
        self.inner.finished(Done {
            route: self.route,
            generation: self.generation,
            kind,
            cause,
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.open {
            let threshold = self.inner.slow_ms.load(Ordering::Relaxed);
            let timeout = self.inner.timeout_ms.load(Ordering::Relaxed);
            let hung = timeout > 0 && threshold > 0 && self.elapsed_ms() >= timeout / 2;
            self.end(
                if hung || self.is_slow() {
                    Kind::SlowSuccess
                } else {
                    Kind::Ignored
                },
                Cause::None,
            );
        }
    }
}

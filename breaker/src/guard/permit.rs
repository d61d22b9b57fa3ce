//! The right to make one call, and what becomes of it.

use super::inner::{Done, Route};
use super::lanes::Lane;
use super::{Presented, Verdict};
use crate::state::{Cause, Kind};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// The right to make one call. Dropping it unrecorded cancels it: no evidence, unless the call ran past the slow
/// threshold or past half of its timeout, which counts as slow.
#[must_use = "a permit that is dropped cancels its call"]
#[derive(Debug)]
pub struct Permit {
    pub(super) lane: Lane,
    pub(super) route: Route,
    pub(super) presented: Presented,
    pub(super) generation: u64,
    /// When the call began; none while nothing is judged by how long it takes.
    pub(super) started: Option<Instant>,
    /// The call's place among the running ones that are watched for slowness, plus one; 0: none.
    pub(super) slot: u16,
    pub(super) open: bool,
    /// The call's duration, once it is fixed.
    pub(super) took: Option<Duration>,
    /// Since when the clock stands still, and whether the call was watched before.
    pub(super) paused: Option<(Instant, bool)>,
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

    /// Measures the call even while no rule asks how long it takes.
    pub fn timed(mut self) -> Self {
        self.started.get_or_insert_with(Instant::now);
        self
    }

    /// Fixes the call's duration now, when its outcome becomes known later: a streamed answer is as slow as its headers.
    pub fn stop_clock(&mut self) {
        self.took = self.elapsed();
        self.lane.release(std::mem::take(&mut self.slot));
    }

    /// Stops the clock while the caller is waited for, whose slowness says nothing about the dependency.
    pub fn pause(&mut self) {
        if self.paused.is_none() && self.took.is_none() {
            self.paused = Some((Instant::now(), self.slot > 0));
            self.lane.release(std::mem::take(&mut self.slot));
        }
    }

    /// Lets the clock go on after [`Self::pause`].
    pub fn resume(&mut self) {
        if let Some((since, watched)) = self.paused.take()
            && let Some(started) = &mut self.started
        {
            *started += since.elapsed();
            if watched {
                self.slot = self.lane.watch(*started, self.generation);
            }
        }
    }

    /// How long the call has taken, without pauses; none if nobody measures: the rules judge no slowness, and the permit
    /// is not [`Self::timed`].
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        let until = || self.paused.map_or_else(Instant::now, |(since, _)| since);
        self.took
            .or_else(|| Some(until().saturating_duration_since(self.started?)))
    }

    /// Cancels the call, as dropping the permit does, and returns how it was counted.
    pub fn cancel(mut self) -> Kind {
        self.abandon()
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
        self.elapsed().map_or(0, |elapsed| elapsed.as_millis() as u64)
    }

    fn is_slow(&self) -> bool {
        let threshold = self.lane.slow_ms.load(Ordering::Relaxed);
        threshold > 0 && self.elapsed_ms() >= threshold
    }

    fn abandon(&mut self) -> Kind {
        let threshold = self.lane.slow_ms.load(Ordering::Relaxed);
        let timeout = self.lane.timeout_ms.load(Ordering::Relaxed);
        let hung = timeout > 0 && threshold > 0 && self.elapsed_ms() >= timeout / 2;
        let kind = if hung || self.is_slow() {
            Kind::SlowSuccess
        } else {
            Kind::Ignored
        };
        self.end(kind, Cause::None);
        kind
    }

    fn end(&mut self, kind: Kind, cause: Cause) {
        self.open = false;
        self.lane.release(self.slot);
        self.lane.finished(Done {
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
            self.abandon();
        }
    }
}

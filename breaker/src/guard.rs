//! What calls use: admission without I/O, outcomes recorded in the background.
#![allow(unused_variables, clippy::todo, dead_code, missing_docs)]

use crate::id::ServiceId;
use crate::policy::Config;
use crate::state::{Cause, Reason, State};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// Settings of one process' guards.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[A-Za-z0-9._:-]`, at most 128 bytes; unique in the fleet.
    pub instance: String,
    /// Pause between resyncs. Default 1 s.
    pub resync: Duration,
    /// Without a reply for so long, the store counts as lost. Default 1 s.
    pub store_patience: Duration,
    /// Pause between heartbeats. Default 10 s.
    pub heartbeat: Duration,
}

/// All guards of one process: one store, one identity, one subscription.
#[derive(Clone)]
pub struct Breakers {}

impl Breakers {
    /// Must be called inside a tokio runtime; starts the background task.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        todo!()
    }
    /// The guard of an id; the same one every time. `fallback` is what it judges by while the store has no configuration.
    pub fn guard(&self, id: &ServiceId, fallback: Option<Config>) -> Guard {
        todo!()
    }
    pub fn guards(&self) -> Vec<Guard> {
        todo!()
    }
    /// Whether the store answers now.
    pub fn store_up(&self) -> bool {
        todo!()
    }
    /// Resolves once the first attempt to reach the store is over, well or badly.
    pub async fn first_attempt(&self) {
        todo!()
    }
    /// Drains what is recorded (bounded by `patience`), says goodbye.
    pub async fn shutdown(&self, patience: Duration) {
        todo!()
    }
}

/// Why a call was rejected; the names are those of the `reason` field in DESIGN §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    Open,
    ProbeLimit,
    Ramp,
    Forced,
    Isolated,
    Store,
    Overload,
}

impl RejectReason {
    pub fn as_str(self) -> &'static str {
        todo!()
    }
}

/// A rejected call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// As shown in `x-circuit-state` (an isolated instance says open).
    pub state: Presented,
    pub reason: RejectReason,
    /// Milliseconds to the next chance; none: unknown (forced without expiry).
    pub retry_after_ms: Option<u64>,
}

/// The state a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presented {
    State(State),
    Unconfigured,
}

impl Presented {
    /// The value of `x-circuit-state`.
    pub fn as_str(self) -> &'static str {
        todo!()
    }
}

/// The configuration a guard acts by.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    pub config: Config,
    /// The spec's JSON from the store; none when the rules come from code or a local file.
    pub spec: Option<Arc<str>>,
}

/// Guards the calls to one dependency.
#[derive(Clone)]
pub struct Guard {}

/// The verdict on a finished call; slowness is measured by the permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Success,
    Failure(Cause),
    Ignored,
}

/// What the guard knows, for admin pages.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardStatus {
    pub state: Presented,
    pub generation: u64,
    /// The window's totals as the store last told.
    pub calls: u64,
    pub failing: u64,
    pub slow: u64,
    pub in_flight: u64,
    pub degraded: bool,
    pub isolated: bool,
    pub revision: u64,
}

/// Counters since start; read at scrape time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GuardCounters {
    /// In the order success, failure, slow_success, slow_failure, ignored, rejected.
    pub calls: [u64; 6],
    pub late: u64,
    pub dropped: u64,
    /// (from, to, reason) → count, of transitions this instance caused; from is none for the first state.
    pub transitions: Vec<((Option<State>, State, Reason), u64)>,
}

impl Guard {
    pub fn id(&self) -> &ServiceId {
        todo!()
    }
    /// The configuration in force; none while unconfigured. Cheap (an `Arc` clone); `Arc::ptr_eq` tells a change.
    pub fn effective(&self) -> Option<Arc<Effective>> {
        todo!()
    }
    /// Asks to make one call. Resolves at once unless the circuit is half-open or at its very threshold.
    ///
    /// # Errors
    /// The call must not be made.
    pub async fn acquire(&self) -> Result<Permit, Rejected> {
        todo!()
    }
    /// Makes one call; `judge` turns its result into a verdict.
    ///
    /// # Errors
    /// The call was not made.
    pub async fn call<T, F: Future<Output = T>>(
        &self,
        call: impl FnOnce() -> F,
        judge: impl FnOnce(&T) -> Verdict,
    ) -> Result<T, Rejected> {
        todo!()
    }
    pub fn status(&self) -> GuardStatus {
        todo!()
    }
    pub fn counters(&self) -> GuardCounters {
        todo!()
    }
}

/// The right to make one call. Dropping it unrecorded cancels: it is no evidence, unless it ran past the slow
/// threshold or half of the call's timeout.
#[must_use]
pub struct Permit {}

impl Permit {
    /// The state that admitted the call: for `x-circuit-state`.
    pub fn presented(&self) -> Presented {
        todo!()
    }
    /// Records how the call ended, now. Returns the outcome's kind as counted.
    pub fn record(self, verdict: Verdict) -> crate::state::Kind {
        todo!()
    }
}

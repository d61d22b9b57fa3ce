//! What a run looks like from outside while it goes on.

use std::time::Duration;

use crate::answer::CircuitState;
use crate::histogram::Latency;
use crate::tally::Counts;

/// A run at one moment. Counts are since its start, latencies since the snapshot before.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Since the run began.
    pub elapsed: Duration,
    /// The phase that is on; after the last one it stays the last.
    pub phase: PhaseProgress,
    /// Over all targets.
    pub total: Counts,
    /// Over all targets.
    pub latency: Latency,
    /// Calls that have started and not ended.
    pub in_flight: usize,
    /// Calls whose intended start has passed, waiting for one of those to end.
    pub waiting: usize,
    /// In the plan's order.
    pub targets: Vec<TargetSnapshot>,
}

/// How far a phase has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseProgress {
    /// Its name.
    pub name: String,
    /// Its place in the plan, from 0.
    pub index: usize,
    /// Since it began.
    pub elapsed: Duration,
    /// How long it lasts; `None`: until shutdown.
    pub duration: Option<Duration>,
}

/// One target at one moment.
#[derive(Debug, Clone)]
pub struct TargetSnapshot {
    /// Its URL as in the plan.
    pub target: String,
    /// Since the run began.
    pub counts: Counts,
    /// What its last answer that named a state said.
    pub state: Option<CircuitState>,
    /// Since the snapshot before.
    pub latency: Latency,
}

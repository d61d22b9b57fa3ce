//! Counts and latencies of calls, by target, by phase and by kind.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::answer::{Answer, CircuitState, Kind};
use crate::histogram::Latencies;

/// Calls by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Calls that ended: the sum of the next four.
    pub calls: u64,
    /// Answered with a status below 500.
    pub ok: u64,
    /// Answered with a status of 500 or above, not by a breaker's rejection.
    pub failed: u64,
    /// Rejected by a breaker.
    pub blocked: u64,
    /// Without an answer: no connection, lost connection, or timeout.
    pub unanswered: u64,
    /// Never started, because too many calls were in flight or waiting.
    pub overdue: u64,
}

/// How often each state was seen in `x-circuit-state`. In JSON: a map of the states that were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct States {
    seen: [u64; CircuitState::ALL.len()],
}

/// What is kept of a set of calls.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    pub(crate) states: States,
    pub(crate) latencies: Latencies,
}

// === impl Counts ===

impl Counts {
    /// Calls that were answered by anyone.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.calls - self.unanswered
    }

    fn add(&mut self, kind: Kind) {
        self.calls += 1;
        *match kind {
            Kind::Ok => &mut self.ok,
            Kind::Failed => &mut self.failed,
            Kind::Blocked => &mut self.blocked,
            Kind::Unanswered => &mut self.unanswered,
        } += 1;
    }
}

// === impl States ===

impl States {
    /// How many answers named `state`.
    #[must_use]
    pub fn count(&self, state: CircuitState) -> u64 {
        CircuitState::ALL
            .iter()
            .zip(self.seen)
            .find(|(each, _)| **each == state)
            .map_or(0, |(_, count)| count)
    }

    /// The states that were seen, in the order of [`CircuitState::ALL`].
    pub fn seen(&self) -> impl Iterator<Item = CircuitState> {
        CircuitState::ALL
            .into_iter()
            .zip(self.seen)
            .filter(|(_, count)| *count > 0)
            .map(|(state, _)| state)
    }

    fn add(&mut self, state: CircuitState) {
        for (each, count) in CircuitState::ALL.iter().zip(&mut self.seen) {
            *count += u64::from(*each == state);
        }
    }
}

impl Serialize for States {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for state in self.seen() {
            map.serialize_entry(state.name(), &self.count(state))?;
        }
        map.end()
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn ended(&mut self, answer: Answer, latency: Duration) {
        self.counts.add(answer.kind);
        if let Some(state) = answer.state {
            self.states.add(state);
        }
        self.latencies.record(latency);
    }
}

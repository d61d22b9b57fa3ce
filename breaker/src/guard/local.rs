//! The machine an instance runs by itself: always warm with its own outcomes, in charge only while the store is gone or
//! this instance is open alone. What happens here never reaches the store.

use crate::id::ServiceId;
use crate::machine::{self, Row};
use crate::policy::{Config, Policy};
use crate::state::{Kind, State};
use crate::store::{Acquire, Batch, Exchange, Memory, Outcome, ProbeResult, Reply, View};
use tokio::time::Instant;

/// One instance's own breaker.
#[derive(Debug)]
pub(super) struct Local {
    id: ServiceId,
    row: Row,
    epoch: Instant,
    batches: u64,
    token: u64,
}

/// The clock's start: any instant but 0, which stands for "never" in stored state.
const EPOCH_MS: u64 = 1_000_000;

impl Local {
    pub(super) fn new(id: ServiceId) -> Self {
        Self {
            id,
            row: Row::default(),
            epoch: Instant::now(),
            batches: 0,
            token: 0,
        }
    }

    /// The rules of an instance alone: nobody has to agree, and its share of the fleet's calls suffices.
    pub(super) fn rules(policy: &Policy, live: u64) -> Policy {
        let share = policy.minimum_calls.div_ceil(live.max(1)).max(5);
        Policy {
            minimum_instances: 1,
            minimum_calls: policy.minimum_calls.min(share),
            ..policy.clone()
        }
    }

    /// The same window, judged by nothing: for keeping warm.
    fn unjudged(policy: &Policy) -> Policy {
        Policy {
            consecutive_failures: 0,
            failure_rate_bp: 0,
            slow_rate_bp: 0,
            minimum_instances: 1,
            ..policy.clone()
        }
    }

    fn now(&self) -> u64 {
        EPOCH_MS + self.epoch.elapsed().as_millis() as u64
    }

    fn exchange(&mut self, config: &Config, request: Exchange) -> Reply {
        let request = Exchange {
            instance: "local".to_owned(),
            boot: "local".to_owned(),
            carried: Some(config.clone()),
            seed: true,
            ..request
        };
        let now = self.now();
        machine::exchange(&mut self.row, &self.id, &request, now).0
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.row = Row::default();
    }

    /// Counts own outcomes without judging them.
    pub(super) fn keep_warm(&mut self, config: &Config, outcomes: Vec<Outcome>) {
        let config = Config {
            policy: Self::unjudged(&config.policy),
            ..config.clone()
        };
        self.batch(&config, outcomes, Vec::new());
    }

    /// Whether the own window alone would trip now.
    pub(super) fn would_trip(&mut self, policy: &Policy) -> bool {
        let now = self.now();
        machine::would_trip(&self.row, policy, now)
    }

    /// Takes over from a remembered state; a closed one goes on with the warm window.
    pub(super) fn take_over(&mut self, config: &Config, memory: Option<Memory>) -> Option<View> {
        let state = memory.as_ref().and_then(|memory| State::from_code(memory.state));
        if !matches!(state, None | Some(State::Closed | State::ForcedClosed)) {
            self.clear();
        }
        self.exchange(
            config,
            Exchange {
                memory,
                ..Exchange::default()
            },
        )
        .view
    }

    /// Opens alone, now.
    pub(super) fn open(&mut self, config: &Config) -> Option<View> {
        self.clear();
        let open_ms = config.policy.open_ms;
        let memory = Memory {
            generation: 1,
            state: State::Open.code(),
            remaining_ms: open_ms,
            round: 1,
            streak: 1,
            last_open_ms: open_ms,
            lease_remaining_ms: 0,
        };
        self.exchange(
            config,
            Exchange {
                memory: Some(memory),
                ..Exchange::default()
            },
        )
        .view
    }

    /// Judges outcomes of its own generation.
    pub(super) fn batch(&mut self, config: &Config, outcomes: Vec<Outcome>, probes: Vec<ProbeResult>) -> Option<View> {
        self.batches += 1;
        let generation = self.row.data.as_ref().map_or(0, |data| data.core.generation);
        let batch = Batch {
            number: self.batches,
            generation,
            outcomes,
            probes,
            ..Batch::default()
        };
        self.exchange(
            config,
            Exchange {
                batch: Some(batch),
                ..Exchange::default()
            },
        )
        .view
    }

    /// Asks for probes.
    pub(super) fn acquire(&mut self, config: &Config, want: u64) -> Reply {
        self.token += 1;
        self.exchange(
            config,
            Exchange {
                acquire: Some(Acquire {
                    token: self.token,
                    want,
                }),
                ..Exchange::default()
            },
        )
    }

    /// Lets time act.
    pub(super) fn look(&mut self, config: &Config) -> Option<View> {
        self.exchange(config, Exchange::default()).view
    }

    /// The state as of the last decision.
    pub(super) fn state(&self) -> Option<State> {
        self.row.data.as_ref().map(|data| data.core.state)
    }
}

/// An outcome for the local machine, which keeps no causes.
pub(super) fn bare(kind: Kind) -> Outcome {
    Outcome { kind, cause: 0 }
}

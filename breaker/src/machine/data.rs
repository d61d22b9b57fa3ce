//! What is stored for one breaker, field by field as in the script's header.

use super::window::{Buckets, Slots, Sums};
use crate::policy::{Config, Mode, Policy, Window};
use crate::state::{Reason, State};
use crate::store::{Bucket, Event, InstanceShare, Leader, Programmed, Snapshot, StoredConfig, View};
use std::collections::{BTreeMap, VecDeque};

/// Two decisions are further apart only when the store's clock was set or nobody called, milliseconds: instances resync
/// each second, at most every four when their fleet is large.
const LEAP_MS: u64 = 20_000;

/// Everything under one service id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// What the operator programmed, or its tombstone.
    pub config: Option<ConfigRow>,
    /// The state.
    pub data: Option<Data>,
    /// The last transitions, oldest first, at most 100.
    pub events: VecDeque<Event>,
}

/// The `…:config` hash.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigRow {
    /// None: a tombstone.
    pub config: Option<Config>,
    /// The spec's JSON; empty under a tombstone.
    pub spec: String,
    /// Who wrote it.
    pub leader: Leader,
    /// When the owner last wrote, real milliseconds.
    pub seen_at: u64,
    /// The last reset carried out.
    pub last_reset: String,
    /// Memory at or below is void.
    pub floor: u64,
}

impl ConfigRow {
    /// For its readers.
    #[must_use]
    pub fn stored(self) -> StoredConfig {
        StoredConfig {
            programmed: self.config.map(|config| Programmed {
                config,
                spec: self.spec,
            }),
            leader: self.leader,
            owner_seen_at: self.seen_at,
            last_reset: self.last_reset,
            floor: self.floor,
        }
    }
}

/// The `…:data` hash.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// The field `core`.
    pub core: Core,
    /// The fields `i:<instance>`.
    pub instances: BTreeMap<String, Record>,
    /// The fields `b:<boot>`.
    pub boots: BTreeMap<String, Marker>,
}

/// The machine itself. All instants are of the breaker's own clock: the store's, never stepping back (see [`Core::tick`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Core {
    /// Decisions made.
    pub seq: u64,
    /// Number of the state.
    pub generation: u64,
    /// The state.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: u64,
    /// Open: until when; else 0.
    pub open_until: u64,
    /// The last open duration, jitter included.
    pub last_open_ms: u64,
    /// 0 while closed.
    pub round: u64,
    /// The backoff's count.
    pub streak: u64,
    /// The clock at the last decision.
    pub clock: u64,
    /// Clock minus the store's.
    pub offset: u64,
    /// Transitions made.
    pub transitions: u64,
    /// The state before.
    pub previous: Option<State>,
    /// The mode judged under.
    pub mode: Mode,
    /// When the ramp began; 0: none.
    pub ramp_from: u64,
    /// What the window holds.
    pub window: Window,
    /// Which emptying of the window the instances' parts belong to.
    pub window_id: u64,
    /// The revision judged by.
    pub revision: u64,
    /// Time window.
    pub buckets: Buckets,
    /// Count window.
    pub slots: Slots,
    /// Failures in a row.
    pub run: u64,
    /// When the last outcome came.
    pub run_at: u64,
    /// The first m instances of the run.
    pub run_instances: Vec<String>,
    /// Running slow calls, all instances.
    pub gauge: u64,
    /// Failures as they were when the state left closed or half-open.
    pub frozen: u64,
    /// When a failure was last applied; 0: never.
    pub last_failure: u64,
    /// Half-open: the first grant; 0: none yet.
    pub granted_at: u64,
    /// Half-open: probes of this round, as configured when it began.
    pub permitted: u64,
    /// Half-open: finished.
    pub finished: u64,
    /// Half-open: failed.
    pub failed: u64,
    /// Half-open: slow.
    pub slow: u64,
    /// Half-open: the next lease's number.
    pub next_lease: u64,
    /// Half-open: live leases, oldest first.
    pub leases: Vec<Lease>,
    /// Names of causes, at most 16.
    pub causes: Vec<String>,
    /// The last failures' causes as indexes, oldest first, at most 256.
    pub recent: Vec<u8>,
    /// Observe: trips.
    pub shadow_trips: u64,
    /// Observe: the last one; 0: none.
    pub shadow_last_trip: u64,
    /// Observe: calls that would have been rejected.
    pub shadow_rejected: u64,
    /// The second that is being counted.
    pub second: u64,
    /// Decisions in it.
    pub in_second: u64,
    /// Decisions in the one before.
    pub before: u64,
    /// The last sweep.
    pub swept_at: u64,
    /// When the clock last leapt by more than 20 s; nobody is forgotten on the strength of that.
    pub leapt_at: u64,
    /// Instances known at the last sweep, and new ones since.
    pub known: u64,
    /// The next instance's number.
    pub next_index: u64,
    /// The last trip's evidence.
    pub last_trip: String,
}

/// One probe's right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its number in the round.
    pub id: u64,
    /// Who holds it.
    pub instance: String,
    /// When it ends.
    pub deadline: u64,
}

/// One instance's part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Its number, which stands for it in a count window.
    pub index: u64,
    /// When it was last heard.
    pub seen: u64,
    /// Running slow calls …
    pub gauge: u64,
    /// … of this generation.
    pub gauge_generation: u64,
    /// The generation in which it opened alone, plus one; 0: it did not.
    pub isolated: u64,
    /// When it last rejected; 0: not in this window.
    pub rejected_at: u64,
    /// Which emptying of the window the rest belongs to.
    pub window_id: u64,
    /// Its part of a time window.
    pub buckets: Buckets,
}

/// What makes retries of one boot harmless.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marker {
    /// When it was last used.
    pub at: u64,
    /// The last batch applied.
    pub number: u64,
    /// The last wish answered …
    pub token: u64,
    /// … in this generation …
    pub generation: u64,
    /// … with leases from this number …
    pub first: u64,
    /// … so many.
    pub count: u64,
}

impl Core {
    /// A new machine that has decided nothing yet.
    #[must_use]
    pub fn new(now: u64, policy: &Policy, revision: u64) -> Self {
        Self {
            seq: 0,
            generation: 0,
            state: State::Closed,
            reason: Reason::Seeded,
            since: now,
            open_until: 0,
            last_open_ms: 0,
            round: 0,
            streak: 0,
            clock: now,
            offset: 0,
            transitions: 0,
            previous: None,
            mode: policy.mode,
            ramp_from: 0,
            window: policy.window,
            window_id: 0,
            revision,
            buckets: Buckets::default(),
            slots: Slots::default(),
            run: 0,
            run_at: 0,
            run_instances: Vec::new(),
            gauge: 0,
            frozen: 0,
            last_failure: 0,
            granted_at: 0,
            permitted: 0,
            finished: 0,
            failed: 0,
            slow: 0,
            next_lease: 1,
            leases: Vec::new(),
            causes: Vec::new(),
            recent: Vec::new(),
            shadow_trips: 0,
            shadow_last_trip: 0,
            shadow_rejected: 0,
            second: 0,
            in_second: 0,
            before: 0,
            swept_at: now,
            leapt_at: 0,
            known: 0,
            next_index: 1,
            last_trip: String::new(),
        }
    }

    /// Advances the breaker's clock. When the store's steps back, the offset grows by as much, which shifts every
    /// stored instant at once; rewriting them was rejected as a change of every field.
    pub fn tick(&mut self, now: u64) {
        let reading = now + self.offset;
        if reading < self.clock {
            self.offset += self.clock - reading;
        } else {
            if reading - self.clock >= LEAP_MS {
                self.leapt_at = reading;
            }
            self.clock = reading;
        }
    }

    /// The window's totals, as of the clock.
    #[must_use]
    pub fn sums(&self) -> Sums {
        match self.window {
            Window::Time(_) => self.buckets.sums(),
            Window::Count(_) => self.slots.sums(None),
        }
    }

    /// What the companion key `…:failures` says.
    #[must_use]
    pub fn failures(&self) -> u64 {
        match self.state {
            State::Closed | State::ForcedClosed => self.sums().failing,
            State::HalfOpen => self.failed,
            State::Open | State::ForcedOpen => self.frozen,
        }
    }

    /// The causes of the last `failures` failures with their counts, most first, at most five.
    #[must_use]
    pub fn ranked_causes(&self, failures: u64) -> Vec<(String, u64)> {
        let mut counts = vec![0_u64; self.causes.len()];
        let skip = (self.recent.len() as u64).saturating_sub(failures) as usize;
        for index in &self.recent[skip..] {
            if let Some(count) = counts.get_mut(usize::from(*index)) {
                *count += 1;
            }
        }
        let mut ranked: Vec<usize> = (0..counts.len()).filter(|index| counts[*index] > 0).collect();
        ranked.sort_by(|a, b| counts[*b].cmp(&counts[*a]).then(a.cmp(b)));
        let named = ranked.iter().take(5);
        named
            .map(|index| (self.causes[*index].clone(), counts[*index]))
            .collect()
    }

    /// An instant of the breaker's clock on the store's.
    #[must_use]
    pub fn visible(&self, instant: u64) -> u64 {
        instant.saturating_sub(self.offset)
    }

    /// What the companion key `…:last_failure` says; none before the first failure.
    #[must_use]
    pub fn last_failure_text(&self) -> Option<String> {
        (self.last_failure > 0).then(|| {
            let at = self.visible(self.last_failure);
            format!("{}.{:02}", at / 1_000, at % 1_000 / 10)
        })
    }

    /// Milliseconds until the last lease ends.
    #[must_use]
    pub fn lease_remaining(&self) -> u64 {
        self.leases
            .iter()
            .map(|lease| lease.deadline.saturating_sub(self.clock))
            .max()
            .unwrap_or(0)
    }

    /// The state as instances receive it. `stored` is the configuration in the store.
    #[must_use]
    pub fn view(&self, policy: &Policy, forced_until: u64, stored_revision: u64) -> View {
        let ramp_age = self.clock.saturating_sub(self.ramp_from);
        let remaining = match self.state {
            State::Open => self.open_until.saturating_sub(self.clock),
            State::ForcedOpen | State::ForcedClosed => forced_until.saturating_sub(self.visible(self.clock)),
            State::Closed | State::HalfOpen => 0,
        };
        View {
            generation: self.generation,
            state: self.state,
            reason: self.reason,
            age_ms: self.clock.saturating_sub(self.since),
            remaining_ms: remaining,
            round: self.round,
            streak: self.streak,
            last_open_ms: self.last_open_ms,
            lease_remaining_ms: self.lease_remaining(),
            ramp_age_ms: (self.ramp_from > 0 && ramp_age < policy.ramp_ms).then_some(ramp_age),
            mode: self.mode,
            revision: stored_revision,
            seq: self.seq,
        }
    }
}

impl Data {
    /// One instance's share of the window; an older window's part is empty.
    #[must_use]
    pub fn share(&self, record: &Record) -> Sums {
        match self.core.window {
            Window::Count(_) => self.core.slots.sums(Some(record.index)),
            Window::Time(_) if record.window_id != self.core.window_id => Sums::default(),
            Window::Time(ms) => {
                let mut buckets = record.buckets.clone();
                buckets.expire(self.core.clock, ms);
                buckets.sums()
            }
        }
    }

    /// Whether an instance opened alone, in this generation.
    #[must_use]
    pub fn is_isolated(&self, record: &Record) -> bool {
        record.isolated == self.core.generation + 1
    }

    /// The state for people under what is programmed, at `now`, without changing it.
    #[must_use]
    pub fn snapshot(&self, row: Option<&ConfigRow>, now: u64) -> Snapshot {
        let config = row.and_then(|row| row.config.as_ref());
        let policy = &config.map_or_else(Policy::default, |config| config.policy.clone());
        let forced_until = config
            .and_then(|config| config.forced)
            .map_or(0, |forced| forced.expires_at);
        let stored_revision = config.map_or(0, |config| config.revision);
        let mut data = self.clone();
        data.core.tick(now);
        if let Window::Time(ms) = data.core.window {
            data.core.buckets.expire(data.core.clock, ms);
        }
        let core = &data.core;
        let sums = core.sums();
        let view = core.view(policy, forced_until, stored_revision);
        Snapshot {
            since: core.visible(core.since),
            open_until: if core.state == State::Open {
                core.visible(core.open_until)
            } else {
                0
            },
            ramp_until: view
                .ramp_age_ms
                .map_or(0, |_| core.visible(core.ramp_from + policy.ramp_ms)),
            previous: core.previous,
            transitions: core.transitions,
            calls: sums.calls,
            failing: sums.failing,
            slow: sums.slow,
            leases: core.leases.iter().filter(|lease| lease.deadline > core.clock).count() as u64,
            finished: core.finished,
            failed: core.failed,
            permitted: core.permitted,
            round_until: if core.granted_at > 0 {
                core.visible(core.granted_at + policy.half_open_ms)
            } else {
                0
            },
            run: core.run,
            last_failure: if core.last_failure > 0 {
                core.visible(core.last_failure)
            } else {
                0
            },
            causes: core.ranked_causes(match core.state {
                State::HalfOpen => core.failed,
                _ => sums.failing.max(core.run),
            }),
            buckets: match core.window {
                Window::Count(_) => Vec::new(),
                Window::Time(_) => {
                    let part = |(number, sums): &(u64, Sums)| Bucket {
                        number: *number,
                        calls: sums.calls,
                        failing: sums.failing,
                        slow: sums.slow,
                    };
                    core.buckets.0.iter().map(part).collect()
                }
            },
            last_trip: core.last_trip.clone(),
            shadow_trips: core.shadow_trips,
            shadow_last_trip: if core.shadow_last_trip > 0 {
                core.visible(core.shadow_last_trip)
            } else {
                0
            },
            shadow_rejected: core.shadow_rejected,
            instances: data
                .instances
                .iter()
                .map(|(name, record)| {
                    let share = data.share(record);
                    InstanceShare {
                        instance: name.clone(),
                        calls: share.calls,
                        failing: share.failing,
                        slow: share.slow,
                        isolated: data.is_isolated(record),
                    }
                })
                .collect(),
            now,
            view,
        }
    }
}

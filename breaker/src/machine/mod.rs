//! The machine: one pure function from stored state, request and time to stored state, reply and announcements.
//!
//! It is the memory store, the local fallback of every instance, and the model that the Redis script is checked
//! against step by step (`tests/twin.rs`). The script in `redis/breaker.lua` follows it function by function; change
//! both. Rejected: generating one from the other – the checked twin is smaller than a generator and readable in both.

mod admin;
pub mod data;
mod judge;
pub mod window;

pub use admin::{configure, reset, tombstone};
pub use data::{ConfigRow, Core, Data, Marker, Record, Row};

use crate::id::ServiceId;
use crate::policy::{Config, Mode, Override, Policy, Window};
use crate::state::{Kind, Reason, State};
use crate::store::{
    Batch, Event, Exchange, MAX_BATCH, MAX_CAUSES, MAX_INSTANCES, Memory, Programmed, Reply, Status, View,
};
use data::Lease;

/// Events kept per breaker.
pub const MAX_EVENTS: usize = 100;
/// Causes of failures kept per window.
pub(crate) const MAX_RECENT: usize = 256;
/// An instance without outcomes in the window is forgotten after so long, milliseconds; so is a boot's marker.
const FORGET_MS: u64 = 60_000;
/// A refusal never asks for more patience than this, milliseconds.
const MAX_RETRY_MS: u64 = 500;
/// Deadlines further away than the longest open duration are a damaged memory.
const MAX_OPEN_MS: u64 = 2 * 86_400_000;
/// Longest half-open round, milliseconds.
const MAX_LEASE_MS: u64 = 3_600_000;
/// Decisions per second on one breaker, above which pauses are advised; more instances than that make as many by themselves,
/// and those that speak in step would leave every other second empty …
const BUSY_PER_SECOND: u64 = 100;
/// … that keep it at 500 a second: so many milliseconds per instance.
const PAUSE_PER_INSTANCE_MS: u64 = 2;

/// One decision's surroundings.
struct Turn<'a> {
    id: &'a ServiceId,
    /// The store's clock, Unix milliseconds.
    now: u64,
    policy: Policy,
    /// The override in force now.
    forced: Option<Override>,
    /// The revision judged by; 0 for rules from code.
    revision: u64,
    stored_revision: u64,
    floor: u64,
    instance: &'a str,
    events: Vec<Event>,
    views: Vec<View>,
}

/// What a decision leaves behind besides the stored state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects {
    /// Each new generation, for the channel.
    pub views: Vec<View>,
}

/// The rules in force: the store's, else those the caller carries.
fn effective<'a>(row: &'a Row, carried: Option<&'a Config>) -> Option<&'a Config> {
    match &row.config {
        Some(stored) => stored.config.as_ref(),
        None => carried,
    }
}

fn forced_now(config: &Config, now: u64) -> Option<Override> {
    config
        .forced
        .filter(|forced| config.policy.mode != Mode::Disabled && (forced.expires_at == 0 || now < forced.expires_at))
}

impl<'a> Turn<'a> {
    fn new(id: &'a ServiceId, now: u64, row: &Row, config: &Config, instance: &'a str) -> Self {
        Self {
            id,
            now,
            policy: config.policy.clone(),
            forced: forced_now(config, now),
            revision: config.revision,
            stored_revision: row.config.as_ref().map_or(0, |_| config.revision),
            floor: row.config.as_ref().map_or(0, |stored| stored.floor),
            instance,
            events: Vec::new(),
            views: Vec::new(),
        }
    }

    fn forced_until(&self) -> u64 {
        self.forced.map_or(0, |forced| forced.expires_at)
    }

    fn view(&self, core: &Core) -> View {
        core.view(&self.policy, self.forced_until(), self.stored_revision)
    }

    /// Rules that are older than the ones last judged by keep the mode and the window they find.
    fn respect_newer(&mut self, core: &Core) {
        if self.revision < core.revision {
            self.policy.mode = core.mode;
            self.policy.window = core.window;
        }
    }

    /// The one place where the state changes. I1: a new generation, an event, an announcement.
    fn enter(
        &mut self,
        core: &mut Core,
        from: Option<State>,
        to: State,
        reason: Reason,
        generation: u64,
        evidence: String,
    ) {
        let keeps = reason == Reason::Reseeded && from == Some(to);
        let failures = core.failures();
        core.generation = generation;
        core.state = to;
        core.reason = reason;
        core.gauge = 0;
        if !keeps {
            core.previous = from;
            core.since = core.clock;
            self.clear_window(core);
            core.frozen = failures;
            core.ramp_from = if reason == Reason::ProbesSucceeded && self.policy.ramp_ms > 0 {
                core.clock
            } else {
                0
            };
            core.granted_at = 0;
            core.permitted = if to == State::HalfOpen {
                self.policy.permitted_calls
            } else {
                0
            };
            (core.finished, core.failed, core.slow) = (0, 0, 0);
            core.next_lease = 1;
            core.leases.clear();
            if to != State::Open {
                core.open_until = 0;
            }
            if matches!(to, State::Closed | State::ForcedClosed) {
                core.round = 0;
            }
        }
        core.transitions += 1;
        self.events.push(Event {
            generation,
            from,
            to,
            reason,
            at: core.visible(core.clock),
            instance: self.instance.to_owned(),
            snapshot: evidence,
        });
        self.views.push(self.view(core));
    }

    /// Empties the window. Instances' parts carry the number of the emptying they belong to.
    fn clear_window(&self, core: &mut Core) {
        core.window_id += 1;
        core.buckets.0.clear();
        core.slots.0.clear();
        core.run = 0;
        core.run_at = 0;
        core.run_instances.clear();
        core.causes.clear();
        core.recent.clear();
    }

    fn minted(&self, core: &Core) -> u64 {
        (core.generation + 1).max(self.now).max(self.floor + 1)
    }

    fn change(&mut self, core: &mut Core, to: State, reason: Reason, evidence: String) {
        let generation = self.minted(core);
        let from = core.state;
        self.enter(core, Some(from), to, reason, generation, evidence);
    }

    /// Opens for the next round's duration.
    fn open(&mut self, core: &mut Core, reason: Reason, evidence: String) {
        let rested = self.policy.ramp_ms + core.last_open_ms;
        match core.state {
            State::Closed => {
                core.streak = if core.clock - core.since >= rested {
                    1
                } else {
                    core.streak + 1
                };
                core.round = 1;
            }
            _ => {
                core.streak += 1;
                core.round += 1;
            }
        }
        let generation = self.minted(core);
        let from = core.state;
        core.last_open_ms = self.open_ms(core.streak, generation);
        core.open_until = core.clock + core.last_open_ms;
        self.enter(core, Some(from), State::Open, reason, generation, evidence);
    }

    /// Opens because the evidence says so.
    fn trip(&mut self, data: &mut Data, reason: Reason) {
        let evidence = evidence(data, reason);
        data.core.last_trip.clone_from(&evidence);
        if self.policy.mode == Mode::Observe {
            data.core.shadow_trips += 1;
            data.core.shadow_last_trip = data.core.clock;
        }
        self.open(&mut data.core, reason, evidence);
    }

    fn open_ms(&self, streak: u64, generation: u64) -> u64 {
        let mut duration = self.policy.open_ms;
        let mut doubled = 1;
        while doubled < streak && duration < self.policy.open_max_ms {
            duration = (duration * 2).min(self.policy.open_max_ms);
            doubled += 1;
        }
        let hash = hash(&format!("{}{generation}", self.id));
        duration + duration * (hash % (self.policy.jitter_percent * 100 + 1)) / 10_000
    }

    /// Creates the state that the store lacks; false when there is nothing to create it from.
    fn seed(&mut self, core: &mut Core, memory: Option<&Memory>, may_seed: bool) -> bool {
        let memory = memory.filter(|memory| memory.generation > self.floor);
        if let Some(forced) = self.forced {
            core.generation = memory.map_or(0, |memory| memory.generation);
            let generation = self.minted(core);
            self.enter(
                core,
                None,
                forced_state(forced),
                Reason::Override,
                generation,
                no_evidence(),
            );
        } else if let Some(memory) = memory {
            let generation = memory.generation + 1;
            restore_counts(core, memory);
            match remembered(memory) {
                State::Closed => self.enter(core, None, State::Closed, Reason::Reseeded, generation, no_evidence()),
                _ if self.policy.mode == Mode::Disabled => {
                    self.enter(core, None, State::Closed, Reason::Reseeded, generation, no_evidence());
                }
                _ => {
                    core.open_until = core.clock + remembered_ms(memory);
                    core.round = memory.round.max(1);
                    self.enter(core, None, State::Open, Reason::Reseeded, generation, no_evidence());
                }
            }
        } else if may_seed {
            self.enter(core, None, State::Closed, Reason::Seeded, 0, no_evidence());
        } else {
            return false;
        }
        true
    }

    /// Restores what the store lost, never towards closed.
    fn reseed(&mut self, core: &mut Core, memory: &Memory) {
        let theirs = remembered(memory);
        let newer = memory.generation > core.generation;
        let more_open = memory.generation == core.generation && theirs.openness() > core.state.openness();
        if memory.generation == 0 || memory.generation <= self.floor || !(newer || more_open) {
            return;
        }
        let generation = memory.generation.max(core.generation) + 1;
        let from = core.state;
        let opens = match core.state {
            State::HalfOpen => true,
            State::Closed => theirs != State::Closed && self.policy.mode != Mode::Disabled,
            State::Open | State::ForcedOpen | State::ForcedClosed => false,
        };
        if opens {
            let theirs_ms = if theirs == State::Closed {
                0
            } else {
                remembered_ms(memory)
            };
            core.open_until = core.clock + core.lease_remaining().max(theirs_ms);
            core.round = core.round.max(memory.round).max(1);
            core.streak = core.streak.max(memory.streak);
            core.last_open_ms = core.last_open_ms.max(memory.last_open_ms.min(MAX_OPEN_MS));
            self.enter(
                core,
                Some(from),
                State::Open,
                Reason::Reseeded,
                generation,
                no_evidence(),
            );
        } else {
            self.enter(core, Some(from), from, Reason::Reseeded, generation, no_evidence());
        }
    }

    /// Carries out what the configuration and the clock demand before anything else is looked at.
    fn settle(&mut self, core: &mut Core) {
        self.adopt(core);
        self.advance(core);
    }

    /// Mode, override, window: what a new revision changes about the state.
    fn adopt(&mut self, core: &mut Core) {
        if self.revision >= core.revision {
            core.revision = self.revision;
            if core.mode != self.policy.mode {
                core.mode = self.policy.mode;
                core.streak = 0;
                self.change(core, State::Closed, Reason::ModeChanged, no_evidence());
            }
            match self.forced {
                Some(forced) if core.state != forced_state(forced) => {
                    self.change(core, forced_state(forced), Reason::Override, no_evidence());
                }
                None if core.state == State::ForcedOpen => {
                    core.round = core.round.max(1);
                    core.open_until = core.clock;
                    self.change(core, State::Open, Reason::OverrideLapsed, no_evidence());
                }
                None if core.state == State::ForcedClosed => {
                    self.change(core, State::Closed, Reason::OverrideLapsed, no_evidence());
                }
                _ => {}
            }
            if core.window != self.policy.window {
                core.window = self.policy.window;
                self.clear_window(core);
            }
        }
    }

    /// What time alone does.
    fn advance(&mut self, core: &mut Core) {
        let now = core.clock;
        if let Window::Time(ms) = core.window {
            core.buckets.expire(now, ms);
        }
        if core.run > 0 && now - core.run_at >= core.window.silence_ms() {
            core.run = 0;
            core.run_instances.clear();
        }
        if core.state == State::Open && core.mode == Mode::Observe && now >= core.open_until {
            self.change(core, State::HalfOpen, Reason::WaitElapsed, no_evidence());
        }
        if core.state == State::HalfOpen {
            core.leases.retain(|lease| lease.deadline > now);
            if core.granted_at > 0 && now - core.granted_at >= self.policy.half_open_ms {
                self.end_round(core);
            }
        }
    }

    /// The round took as long as it may. I7.
    fn end_round(&mut self, core: &mut Core) {
        if core.finished == 0 {
            self.change(core, State::HalfOpen, Reason::ProbesLost, no_evidence());
        } else if judge::probes_fail(core, &self.policy, core.finished) {
            let evidence = probe_evidence(core);
            self.open(core, Reason::ProbesTimedOut, evidence);
        } else {
            self.close(core);
        }
    }

    fn close(&mut self, core: &mut Core) {
        let evidence = probe_evidence(core);
        self.change(core, State::Closed, Reason::ProbesSucceeded, evidence);
    }

    /// One probe's result. I2, I5: only while its lease exists.
    fn probe(&mut self, core: &mut Core, kind: Kind, cause: Option<&str>) {
        if kind == Kind::Ignored {
            return;
        }
        core.finished += 1;
        core.failed += u64::from(kind.is_failing());
        core.slow += u64::from(kind.is_slow());
        if kind.is_failing() {
            note_failure(core, cause);
        }
        if judge::probes_fail(core, &self.policy, core.permitted) {
            let evidence = probe_evidence(core);
            self.open(core, Reason::ProbesFailed, evidence);
        } else if core.finished >= core.permitted {
            self.close(core);
        }
    }

    /// Counts one outcome of a closed circuit and judges.
    fn outcome(&mut self, data: &mut Data, kind: Kind, cause: Option<&str>) {
        let core = &mut data.core;
        let now = core.clock;
        let record = data.instances.entry(self.instance.to_owned()).or_default();
        match core.window {
            Window::Time(ms) => {
                core.buckets.add(now, ms, kind);
                record.buckets.add(now, ms, kind);
            }
            Window::Count(size) => core.slots.push(size, kind, record.index),
        }
        core.run_at = now;
        if kind.is_failing() {
            note_failure(core, cause);
            core.run += 1;
            let known = core.run_instances.iter().any(|member| member == self.instance);
            if !known && (core.run_instances.len() as u64) < self.policy.minimum_instances {
                core.run_instances.push(self.instance.to_owned());
            }
        } else {
            core.run = 0;
            core.run_instances.clear();
        }
        self.judge(data);
    }

    fn judge(&mut self, data: &mut Data) {
        if data.core.state == State::Closed
            && data.core.mode != Mode::Disabled
            && let Some(reason) = judge::trips(data, &self.policy)
        {
            self.trip(data, reason);
        }
    }

    /// Applies a batch in order; returns (applied, late).
    fn batch(&mut self, data: &mut Data, batch: &Batch) -> (u64, u64) {
        let (mut applied, mut late) = (0, 0);
        let cause = |index: u8| batch.causes.get(usize::from(index)).map(String::as_str);
        for result in &batch.probes {
            let core = &mut data.core;
            let held = core
                .leases
                .iter()
                .position(|lease| lease.id == result.lease && lease.instance == self.instance);
            match held {
                Some(position) if core.state == State::HalfOpen && core.generation == batch.generation => {
                    core.leases.remove(position);
                    applied += 1;
                    self.probe(core, result.kind, cause(result.cause));
                }
                _ => late += 1,
            }
        }
        for outcome in batch.outcomes.iter().take(MAX_BATCH) {
            if data.core.generation != batch.generation || matches!(outcome.kind, Kind::Ignored) {
                late += u64::from(outcome.kind != Kind::Ignored);
                continue;
            }
            match data.core.state {
                State::Closed | State::ForcedClosed if data.core.mode != Mode::Disabled => {
                    applied += 1;
                    self.outcome(data, outcome.kind, cause(outcome.cause));
                }
                State::HalfOpen if data.core.mode == Mode::Observe => {
                    applied += 1;
                    if data.core.granted_at == 0 {
                        data.core.granted_at = data.core.clock;
                    }
                    self.probe(&mut data.core, outcome.kind, cause(outcome.cause));
                }
                _ => late += 1,
            }
        }
        (applied, late)
    }

    /// Grants probes: (first, count, milliseconds until asking again makes sense).
    fn acquire(&mut self, core: &mut Core, want: u64) -> (u64, u64, u64) {
        if core.mode != Mode::Enforce {
            return (0, 0, 0);
        }
        if core.state == State::Open && core.clock >= core.open_until {
            self.change(core, State::HalfOpen, Reason::WaitElapsed, no_evidence());
        }
        match core.state {
            State::Closed | State::ForcedClosed => (0, 0, 0),
            State::ForcedOpen => (0, 0, MAX_RETRY_MS),
            State::Open => (0, 0, (core.open_until - core.clock).min(MAX_RETRY_MS)),
            State::HalfOpen => {
                let taken = core.leases.len() as u64 + core.finished;
                let count = want.min(core.permitted.saturating_sub(taken));
                let first = core.next_lease;
                if count == 0 {
                    let next = core.leases.iter().map(|lease| lease.deadline - core.clock).min();
                    return (0, 0, next.unwrap_or(MAX_RETRY_MS).clamp(1, MAX_RETRY_MS));
                }
                if core.granted_at == 0 {
                    core.granted_at = core.clock;
                }
                let deadline = core.clock + self.policy.lease_ms();
                core.next_lease += count;
                core.leases.extend((first..first + count).map(|id| Lease {
                    id,
                    instance: self.instance.to_owned(),
                    deadline,
                }));
                (first, count, 0)
            }
        }
    }

    /// Forgets the silent, recounts the gauge, and asks whether most instances opened alone.
    fn sweep(&mut self, data: &mut Data) {
        let now = data.core.clock;
        data.core.swept_at = now;
        // I6: a batch may be retried for 10 s of the instance's time, whatever the store's clock does meanwhile.
        let settled = data.core.leapt_at == 0 || now - data.core.leapt_at >= FORGET_MS;
        let silent = |at: u64| settled && now - at >= FORGET_MS;
        let kept: Vec<String> = data
            .instances
            .iter()
            .filter(|(_, record)| !silent(record.seen) || data.share(record).calls > 0)
            .map(|(name, _)| name.clone())
            .collect();
        data.instances.retain(|name, _| kept.contains(name));
        data.boots.retain(|_, marker| !silent(marker.at));
        data.core.known = data.instances.len() as u64;
        data.core.gauge = judge::shares(data).iter().map(|share| share.gauge).sum();
    }
}

/// How often a breaker is swept: each second, less often the more instances there are to look at.
fn sweep_ms(known: u64) -> u64 {
    (10 * known).max(1_000)
}

fn forced_state(forced: Override) -> State {
    if forced.open {
        State::ForcedOpen
    } else {
        State::ForcedClosed
    }
}

/// A remembered state as the machine may restore it: forced ones come from the configuration, never from memory.
fn remembered(memory: &Memory) -> State {
    match State::from_code(memory.state) {
        Some(State::Open | State::ForcedOpen) => State::Open,
        Some(State::HalfOpen) => State::HalfOpen,
        _ => State::Closed,
    }
}

fn remembered_ms(memory: &Memory) -> u64 {
    match State::from_code(memory.state) {
        Some(State::Open) => memory.remaining_ms.min(MAX_OPEN_MS),
        Some(State::HalfOpen) => memory.lease_remaining_ms.min(MAX_LEASE_MS),
        _ => 0,
    }
}

fn restore_counts(core: &mut Core, memory: &Memory) {
    core.streak = memory.streak;
    core.last_open_ms = memory.last_open_ms.min(MAX_OPEN_MS);
}

/// A polynomial hash with exact arithmetic in Lua's doubles.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0, |hash, byte| (hash * 31 + u64::from(byte)) % 2_147_483_647)
}

fn note_failure(core: &mut Core, cause: Option<&str>) {
    core.last_failure = core.clock;
    let cause = cause.unwrap_or("failure");
    let position = core.causes.iter().position(|known| known == cause).or_else(|| {
        let name = if core.causes.len() < MAX_CAUSES - 1 {
            cause
        } else {
            "other"
        };
        core.causes.iter().position(|known| known == name).or_else(|| {
            core.causes.push(name.to_owned());
            Some(core.causes.len() - 1)
        })
    });
    core.recent.push(position.unwrap_or(0) as u8);
    if core.recent.len() > MAX_RECENT {
        core.recent.remove(0);
    }
}

fn no_evidence() -> String {
    "{}".to_owned()
}

/// Counts of the last `failures` causes, most first, at most five, as JSON pairs.
fn causes_json(core: &Core, failures: u64) -> String {
    let pairs: Vec<String> = core
        .ranked_causes(failures)
        .iter()
        .map(|(cause, count)| format!("[\"{cause}\",{count}]"))
        .collect();
    format!("[{}]", pairs.join(","))
}

/// What a trip was judged by.
fn evidence(data: &Data, reason: Reason) -> String {
    let sums = data.core.sums();
    let mut shares = judge::shares(data);
    let gauge: u64 = shares.iter().map(|share| share.gauge).sum();
    let bad = |share: &judge::Share| {
        if reason == Reason::SlowCallRateExceeded {
            share.sums.slow + share.gauge
        } else {
            share.sums.failing
        }
    };
    shares.sort_by(|a, b| {
        bad(b)
            .cmp(&bad(a))
            .then(a.sums.calls.cmp(&b.sums.calls))
            .then(a.instance.cmp(&b.instance))
    });
    let top: Vec<String> = shares
        .iter()
        .take(3)
        .map(|s| format!("[\"{}\",{},{}]", s.instance, s.sums.calls, bad(s)))
        .collect();
    format!(
        "{{\"calls\":{},\"failures\":{},\"slow\":{},\"runningSlow\":{gauge},\"run\":{},\"causes\":{},\"top\":[{}]}}",
        sums.calls,
        sums.failing,
        sums.slow,
        data.core.run,
        causes_json(&data.core, sums.failing.max(data.core.run)),
        top.join(",")
    )
}

/// What a round was judged by.
fn probe_evidence(core: &Core) -> String {
    format!(
        "{{\"finished\":{},\"failed\":{},\"slow\":{},\"causes\":{}}}",
        core.finished,
        core.failed,
        core.slow,
        causes_json(core, core.failed)
    )
}

/// The configuration to send along: when the store's is not the one the caller carries.
fn unknown_config(row: &Row, carried: Option<&Config>) -> Option<Programmed> {
    let stored = row.config.as_ref()?;
    let config = stored.config.as_ref()?;
    (carried.map_or(0, |carried| carried.revision) != config.revision).then(|| Programmed {
        config: config.clone(),
        spec: stored.spec.clone(),
    })
}

/// Whether the evidence in a closed row's window suffices to trip, at `now`, by `policy`.
#[must_use]
pub fn would_trip(row: &Row, policy: &Policy, now: u64) -> bool {
    let Some(data) = row.data.as_ref().filter(|data| data.core.state == State::Closed) else {
        return false;
    };
    let mut data = data.clone();
    data.core.tick(now);
    if let Window::Time(ms) = data.core.window {
        data.core.buckets.expire(data.core.clock, ms);
    }
    judge::trips(&data, policy).is_some()
}

/// Makes one decision at `now`, Unix milliseconds of the store's clock.
pub fn exchange(row: &mut Row, id: &ServiceId, request: &Exchange, now: u64) -> (Reply, Effects) {
    let floor = row.config.as_ref().map_or(0, |stored| stored.floor);
    let Some(config) = effective(row, request.carried.as_ref()) else {
        return (Reply::empty(Status::Unconfigured, floor), Effects::default());
    };
    let mut turn = Turn::new(id, now, row, config, &request.instance);
    let mut data = match row.data.take() {
        Some(mut data) => {
            turn.respect_newer(&data.core);
            data.core.tick(now);
            if !data.instances.contains_key(&request.instance) && data.core.known >= MAX_INSTANCES as u64 {
                row.data = Some(data);
                return (Reply::empty(Status::Full, floor), Effects::default());
            }
            if let Some(memory) = &request.memory {
                turn.reseed(&mut data.core, memory);
            }
            data
        }
        None => {
            let mut core = Core::new(now, &turn.policy, turn.revision);
            if !turn.seed(&mut core, request.memory.as_ref(), request.seed) {
                return (Reply::empty(Status::Missing, floor), Effects::default());
            }
            Data {
                core,
                instances: Default::default(),
                boots: Default::default(),
            }
        }
    };
    turn.settle(&mut data.core);
    let reply = decide(&mut turn, &mut data, request);
    row.data = Some(data);
    let reply = Reply {
        config: unknown_config(row, request.carried.as_ref()),
        ..reply
    };
    (reply, finish(row, turn))
}

/// The part of a decision that concerns the instance asking.
fn decide(turn: &mut Turn<'_>, data: &mut Data, request: &Exchange) -> Reply {
    data.core.seq += 1;
    pace(&mut data.core);
    let now = data.core.clock;
    greet(data, request);
    let mut marker = data.boots.get(&request.boot).cloned().unwrap_or_default();
    marker.at = now;
    let (mut applied, mut late) = (0, 0);
    if let Some(batch) = request.batch.as_ref().filter(|batch| batch.number > marker.number) {
        marker.number = batch.number;
        if batch.rejected > 0 {
            if let Some(record) = data.instances.get_mut(&request.instance) {
                record.rejected_at = now;
            }
            if data.core.mode == Mode::Observe {
                data.core.shadow_rejected += batch.rejected;
            }
        }
        (applied, late) = turn.batch(data, batch);
    }
    gauge(data, request);
    if request.gauge > 0 {
        turn.judge(data);
    }
    let (mut granted, mut retry_ms) = ((0, 0), 0);
    if let Some(wish) = request.acquire {
        if marker.token == wish.token && marker.generation == data.core.generation && marker.count > 0 {
            granted = (marker.first, marker.count);
        } else {
            let (first, count, retry) = turn.acquire(&mut data.core, wish.want);
            (granted, retry_ms) = ((first, count), retry);
            marker = Marker {
                token: wish.token,
                generation: data.core.generation,
                first,
                count,
                ..marker
            };
        }
    }
    data.boots.insert(request.boot.clone(), marker);
    let newly_isolated = isolate(data, request);
    if newly_isolated || now - data.core.swept_at >= sweep_ms(data.core.known) {
        turn.sweep(data);
        if data.core.state == State::Closed
            && data.core.mode == Mode::Enforce
            && judge::mostly_isolated(data, &turn.policy)
        {
            turn.trip(data, Reason::InstancesIsolated);
        }
    }
    summarize(turn, data, request, applied, late, granted, retry_ms)
}

/// Notes that the instance is there; its part of an older window is dropped.
fn greet(data: &mut Data, request: &Exchange) {
    let core = &mut data.core;
    let record = data.instances.entry(request.instance.clone()).or_insert_with(|| {
        core.known += 1;
        core.next_index += 1;
        Record {
            index: core.next_index - 1,
            ..Record::default()
        }
    });
    record.seen = core.clock;
    if record.window_id != core.window_id {
        record.window_id = core.window_id;
        record.buckets.0.clear();
        record.rejected_at = 0;
    }
    if let Window::Time(ms) = core.window {
        record.buckets.expire(core.clock, ms);
    }
}

/// Replaces the instance's running-slow gauge by what it reports, if that is about this generation.
fn gauge(data: &mut Data, request: &Exchange) {
    let core = &mut data.core;
    let Some(record) = data.instances.get_mut(&request.instance) else {
        return;
    };
    let before = if record.gauge_generation == core.generation {
        record.gauge
    } else {
        0
    };
    let counts =
        core.state == State::Closed && core.mode != Mode::Disabled && request.gauge_generation == core.generation;
    record.gauge = if counts { request.gauge } else { 0 };
    record.gauge_generation = core.generation;
    core.gauge = core.gauge.saturating_sub(before) + record.gauge;
}

/// Notes whether the instance opened alone; true when that is news. A shared transition ends isolation.
fn isolate(data: &mut Data, request: &Exchange) -> bool {
    let current = request
        .memory
        .as_ref()
        .is_some_and(|memory| memory.generation == data.core.generation);
    let mark = if request.isolated && current {
        data.core.generation + 1
    } else {
        0
    };
    let Some(record) = data.instances.get_mut(&request.instance) else {
        return false;
    };
    let news = mark > 0 && record.isolated != mark;
    record.isolated = mark;
    news
}

/// Counts decisions per second.
fn pace(core: &mut Core) {
    let second = core.clock / 1_000;
    if second != core.second {
        core.before = if second == core.second + 1 { core.in_second } else { 0 };
        core.second = second;
        core.in_second = 0;
    }
    core.in_second += 1;
}

fn summarize(
    turn: &Turn<'_>,
    data: &Data,
    request: &Exchange,
    applied: u64,
    late: u64,
    granted: (u64, u64),
    retry_ms: u64,
) -> Reply {
    let core = &data.core;
    let sums = core.sums();
    let judged = core.state == State::Closed && core.mode == Mode::Enforce;
    let (headroom, headroom_ms) = if judged {
        judge::headroom(data, &turn.policy, &request.instance)
    } else {
        (None, 0)
    };
    Reply {
        view: Some(turn.view(core)),
        calls: sums.calls,
        failing: sums.failing,
        slow: sums.slow,
        headroom,
        headroom_ms,
        interval_ms: if core.before.max(core.known) > BUSY_PER_SECOND {
            core.known * PAUSE_PER_INSTANCE_MS
        } else {
            0
        },
        granted,
        retry_ms,
        applied,
        late,
        caused: turn
            .events
            .iter()
            .map(|event| (event.from, event.to, event.reason))
            .collect(),
        ..Reply::empty(Status::Ok, turn.floor)
    }
}

/// Keeps the events, hands on the announcements.
fn finish(row: &mut Row, turn: Turn<'_>) -> Effects {
    row.events.extend(turn.events);
    while row.events.len() > MAX_EVENTS {
        row.events.pop_front();
    }
    Effects { views: turn.views }
}

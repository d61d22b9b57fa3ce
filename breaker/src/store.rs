//! What a store does for the guards and the operator: one request, one decision, one reply.
//!
//! A request carries everything the instance knows and wants at that moment – outcomes, probe results, its memory of
//! the shared state, whether it wants probes – so that every decision is one round trip. Rejected: one operation per
//! concern (record, acquire, sync), which doubles the round trips at the very moments that matter.

use crate::id::ServiceId;
use crate::policy::{Config, Mode, Override, Policy};
use crate::state::{Kind, Reason, State};
use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

/// Most outcomes in one batch.
pub const MAX_BATCH: usize = 512;

/// Kinds of causes kept per window.
pub const MAX_CAUSES: usize = 16;

/// Instances a breaker serves; further ones are told [`Status::Full`].
pub const MAX_INSTANCES: usize = 2_000;

/// What an instance remembers of the shared state, to restore it from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The generation it last heard of.
    pub generation: u64,
    /// Its state, as a [`State`] code.
    pub state: u64,
    /// Milliseconds until the open deadline.
    pub remaining_ms: u64,
    /// The round.
    pub round: u64,
    /// The backoff's own count of rounds.
    pub streak: u64,
    /// The last open duration, milliseconds.
    pub last_open_ms: u64,
    /// Milliseconds until the last lease's deadline.
    pub lease_remaining_ms: u64,
}

/// One finished closed call (or shadow probe).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub kind: Kind,
    /// Index into the batch's causes; only read for failing kinds.
    pub cause: u8,
}

/// One finished or cancelled probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeResult {
    /// The lease it ran under.
    pub lease: u64,
    /// How it ended; [`Kind::Ignored`] gives the slot back.
    pub kind: Kind,
    /// Index into the batch's causes.
    pub cause: u8,
}

/// Outcomes of one generation, applied at most once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Rising per boot; a repeated number is not applied again.
    pub number: u64,
    /// The generation that admitted the calls.
    pub generation: u64,
    /// In order of completion, at most [`MAX_BATCH`].
    pub outcomes: Vec<Outcome>,
    /// Probes of the same generation.
    pub probes: Vec<ProbeResult>,
    /// What the cause indexes stand for, at most [`MAX_CAUSES`]; `[A-Za-z0-9_.-]`.
    pub causes: Vec<String>,
    /// Calls this instance rejected itself since its last batch.
    pub rejected: u64,
}

/// A wish for probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquire {
    /// New per wish; the same token gets the same answer again.
    pub token: u64,
    /// How many calls wait.
    pub want: u64,
}

/// Everything an instance tells a store at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchange {
    /// The instance's name, `[A-Za-z0-9._:-]`, at most 128 bytes.
    pub instance: String,
    /// Random per start of the process.
    pub boot: String,
    /// What it remembers; none while it never heard of a state.
    pub memory: Option<Memory>,
    /// Its last known configuration, by which the store judges only while it has none of its own.
    pub carried: Option<Config>,
    /// It has heard nothing for two seconds and may seed generation 0.
    pub seed: bool,
    /// Outcomes; none makes this a resync.
    pub batch: Option<Batch>,
    /// Running slow calls of `gauge_generation`.
    pub gauge: u64,
    /// The generation those calls belong to.
    pub gauge_generation: u64,
    /// It opened alone.
    pub isolated: bool,
    /// It wants probes.
    pub acquire: Option<Acquire>,
}

/// What the reply is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The view is the shared state.
    Ok = 0,
    /// No state, and this instance may not seed one yet. Nothing was applied.
    Missing = 1,
    /// Neither configuration nor rules: admit everything. Nothing was applied.
    Unconfigured = 2,
    /// The stored layout is newer than this script. Nothing was touched.
    Newer = 3,
    /// Too many instances. Nothing was applied.
    Full = 4,
}

impl Status {
    /// The status a number stands for.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Ok, Self::Missing, Self::Unconfigured, Self::Newer, Self::Full]
            .into_iter()
            .find(|s| *s as i64 == code)
    }
}

/// The shared state, in durations, so that no clock is compared with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its number.
    pub generation: u64,
    /// Closed, open, …; the shadow machine's under [`Mode::Observe`].
    pub state: State,
    /// Why it came about.
    pub reason: Reason,
    /// Milliseconds it has lasted.
    pub age_ms: u64,
    /// Open: milliseconds until probes may be asked for. Forced: until expiry, 0 when it has none.
    pub remaining_ms: u64,
    /// 0 while closed.
    pub round: u64,
    /// The backoff's own count.
    pub streak: u64,
    /// The last open duration, milliseconds.
    pub last_open_ms: u64,
    /// Milliseconds until the last lease's deadline.
    pub lease_remaining_ms: u64,
    /// Closed after a passed verdict: milliseconds since the ramp began; none outside a ramp.
    pub ramp_age_ms: Option<u64>,
    /// The mode it was judged under.
    pub mode: Mode,
    /// The configuration's revision; 0 while the store has none.
    pub revision: u64,
    /// The order of decisions.
    pub seq: u64,
}

impl View {
    /// What to remember of it, now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory {
            generation: self.generation,
            state: self.state.code(),
            remaining_ms: if self.state == State::Open {
                self.remaining_ms
            } else {
                0
            },
            round: self.round,
            streak: self.streak,
            last_open_ms: self.last_open_ms,
            lease_remaining_ms: self.lease_remaining_ms,
        }
    }
}

/// A store's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the rest is about.
    pub status: Status,
    /// The state after this decision; none unless [`Status::Ok`].
    pub view: Option<View>,
    /// Memory at or below this generation is void.
    pub floor: u64,
    /// Calls in the window.
    pub calls: u64,
    /// Failing ones.
    pub failing: u64,
    /// Slow ones.
    pub slow: u64,
    /// So many failing and slow outcomes of this instance, now, do not trip; none: no number of them does.
    pub headroom: Option<u64>,
    /// How long the headroom holds, milliseconds.
    pub headroom_ms: u64,
    /// The advised pause before the next routine call, milliseconds.
    pub interval_ms: u64,
    /// Granted leases, first number and count.
    pub granted: (u64, u64),
    /// When refused: milliseconds until asking again makes sense (≤ 500).
    pub retry_ms: u64,
    /// Outcomes applied.
    pub applied: u64,
    /// Outcomes that came too late.
    pub late: u64,
    /// The transitions this very request caused, oldest first, as (from, to, reason); none for from: nothing stored.
    pub caused: Vec<(Option<State>, State, Reason)>,
    /// The configuration, when the store's differs from the one carried.
    pub config: Option<Programmed>,
}

impl Reply {
    /// A reply that says nothing but its status.
    #[must_use]
    pub fn empty(status: Status, floor: u64) -> Self {
        Self {
            status,
            view: None,
            floor,
            calls: 0,
            failing: 0,
            slow: 0,
            headroom: None,
            headroom_ms: 0,
            interval_ms: 0,
            granted: (0, 0),
            retry_ms: 0,
            applied: 0,
            late: 0,
            caused: Vec::new(),
            config: None,
        }
    }
}

/// A configuration as an instance receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programmed {
    /// Revision, rules and override.
    pub config: Config,
    /// The spec the rules were made from, as JSON; what the store does not judge by is read from here.
    pub spec: String,
}

/// What an operator programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programme {
    /// Who.
    pub leader: Leader,
    /// The spec as canonical JSON.
    pub spec: String,
    /// The rules made from it.
    pub policy: Policy,
    /// The override made from it.
    pub forced: Option<Override>,
}

/// The operator's claim on an id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leader {
    /// The cluster, or in file mode host and path.
    pub owner: String,
    /// The Lease's creation, Unix milliseconds; in file mode the store's time at start.
    pub created: u64,
    /// Its `leaseTransitions`; 0 in file mode.
    pub transitions: u64,
}

/// What became of an operator's write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Stored under a new revision.
    Changed(u64),
    /// Already so, under this revision.
    Unchanged(u64),
    /// A live foreign owner holds the id.
    OwnedElsewhere(String),
    /// A newer leader of the same owner wrote here.
    Superseded,
}

/// The stored configuration, for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfig {
    /// What instances receive; none under a tombstone.
    pub programmed: Option<Programmed>,
    /// Who wrote it.
    pub leader: Leader,
    /// Unix milliseconds of the owner's last write or heartbeat.
    pub owner_seen_at: u64,
    /// The last reset carried out, as requested.
    pub last_reset: String,
    /// Memory at or below it is void.
    pub floor: u64,
}

/// One instance's heartbeat for one breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// The instance.
    pub instance: String,
    /// Its boot.
    pub boot: String,
    /// The state it acts by.
    pub state: String,
    /// The generation it acts by.
    pub generation: u64,
    /// Acting without the store.
    pub degraded: bool,
    /// Open alone.
    pub isolated: bool,
    /// Calls running.
    pub in_flight: u64,
    /// Calls admitted since start.
    pub calls: u64,
    /// Calls rejected since start.
    pub rejected: u64,
    /// The revision it acts by.
    pub revision: u64,
    /// Unix milliseconds by the store's clock; set by the store.
    pub seen_at: u64,
}

/// One transition, as kept in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The generation it began.
    pub generation: u64,
    /// What it left; none: nothing stored.
    pub from: Option<State>,
    /// What it entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// Unix milliseconds by the store's clock.
    pub at: u64,
    /// The instance whose request caused it; empty: the operator.
    pub instance: String,
    /// The evidence, as JSON; see `PROTOCOL.md`.
    pub snapshot: String,
}

/// The stored state at a moment, for people and for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// As an instance would receive it.
    pub view: View,
    /// Unix milliseconds since which the state holds.
    pub since: u64,
    /// Unix milliseconds of the open deadline; 0 unless open.
    pub open_until: u64,
    /// Unix milliseconds at which the ramp ends; 0 outside a ramp.
    pub ramp_until: u64,
    /// The state before.
    pub previous: Option<State>,
    /// Transitions since the state was seeded.
    pub transitions: u64,
    /// Calls in the window.
    pub calls: u64,
    /// Failing ones.
    pub failing: u64,
    /// Slow ones.
    pub slow: u64,
    /// Live leases.
    pub leases: u64,
    /// Finished probes of the round.
    pub finished: u64,
    /// Failed probes of the round.
    pub failed: u64,
    /// Probes of the round, as configured when it began; 0 outside half-open.
    pub permitted: u64,
    /// Unix milliseconds at which the round is judged at the latest; 0 before its first grant.
    pub round_until: u64,
    /// Failures in a row.
    pub run: u64,
    /// Unix milliseconds of the last failure; 0: none.
    pub last_failure: u64,
    /// The window's causes of failure with their counts, most first, at most five.
    pub causes: Vec<(String, u64)>,
    /// A time window's parts that hold something, oldest first; none of a count window.
    pub buckets: Vec<Bucket>,
    /// The evidence of the last trip, as JSON; empty before the first.
    pub last_trip: String,
    /// Observe: trips of the shadow machine.
    pub shadow_trips: u64,
    /// Observe: Unix milliseconds of the last one; 0: none.
    pub shadow_last_trip: u64,
    /// Observe: calls that would have been rejected.
    pub shadow_rejected: u64,
    /// Per instance: name, calls, failing and slow in the window, isolated.
    pub instances: Vec<InstanceShare>,
    /// Unix milliseconds by the store's clock at the reading.
    pub now: u64,
}

/// One tenth of a time window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Its number, counted from the epoch.
    pub number: u64,
    /// Calls.
    pub calls: u64,
    /// Failing ones.
    pub failing: u64,
    /// Slow ones.
    pub slow: u64,
}

/// Everything stored about one breaker but its events, read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// As [`Store::config`].
    pub config: Option<StoredConfig>,
    /// As [`Store::snapshot`].
    pub snapshot: Option<Snapshot>,
    /// As [`Store::instances`].
    pub beats: Vec<Beat>,
}

/// One instance's part of the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceShare {
    /// The instance.
    pub instance: String,
    /// Its calls.
    pub calls: u64,
    /// Failing ones.
    pub failing: u64,
    /// Slow ones.
    pub slow: u64,
    /// Open alone.
    pub isolated: bool,
}

/// What the channel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// A new generation.
    Transition(ServiceId, View),
    /// A new configuration, a tombstone or a reset: ask.
    Revision(ServiceId),
    /// Messages may have been missed: resync everything.
    Gap,
}

/// Why a store gave no answer. Every variant means: act by `storeFailurePolicy`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection, or lost before the reply.
    #[error("the store is unreachable: {0}")]
    Unreachable(String),
    /// No reply in time; the request may have been carried out.
    #[error("no reply from the store within {0} ms")]
    TimedOut(u64),
    /// The store cannot serve now: read-only, loading, out of memory, no permission.
    #[error("the store refused: {0}")]
    Refused(String),
    /// A reply this version does not understand.
    #[error("unexpected reply from the store: {0}")]
    Protocol(String),
}

/// The result of a store's operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// One shared breaker per service id.
pub trait Store: Send + Sync + 'static {
    /// Makes one decision.
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>>;

    /// Programs a configuration; unchanged content keeps its revision and refreshes the owner's heartbeat.
    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>>;

    /// Buries an id: instances admit everything and forget.
    fn tombstone<'a>(&'a self, id: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>>;

    /// Resets to closed, once per request text.
    fn reset<'a>(
        &'a self,
        id: &'a ServiceId,
        leader: &'a Leader,
        request: &'a str,
    ) -> BoxFuture<'a, StoreResult<Written>>;

    /// The stored configuration; none when there is neither configuration nor tombstone.
    fn config<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>>;

    /// The stored state; none when nothing is stored.
    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>>;

    /// The last transitions, newest first, at most `count`.
    fn events<'a>(&'a self, id: &'a ServiceId, count: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>>;

    /// Writes heartbeats, all in one round trip.
    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>>;

    /// Says goodbye: the instance ended on purpose.
    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// The heartbeats of a breaker, by instance name.
    fn instances<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>>;

    /// Many breakers at once, in the order of `ids`; what is damaged is an error of its own. For those who watch all of
    /// them: a question each would be a round trip each.
    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>>;

    /// The ids in use.
    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>>;

    /// The store's clock, Unix milliseconds.
    fn now(&self) -> BoxFuture<'_, StoreResult<u64>>;

    /// Whether whoever answers is a replica: it tells what it last heard, and nothing can be decided there. Not every
    /// store can be one.
    fn is_replica(&self) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// What happens from now on.
    fn subscribe(&self) -> broadcast::Receiver<Announcement>;
}

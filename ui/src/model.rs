//! What the dashboard knows at a moment: immutable, shared by every page, stream and answer.

use crate::evidence::Evidence;
use crate::series::Series;
use crds::Stored;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::state::State;
use tiebar::store::{Beat, Event, InstanceShare, Snapshot, StoredConfig, Survey};

/// A heartbeat is late after so long: two were missed. Milliseconds.
const LATE_MS: u64 = 25_000;
/// An instance that went without a goodbye is remembered so long, milliseconds.
const REMEMBER_LOST_MS: u64 = 600_000;
/// The fleet's transitions kept.
pub(crate) const MAX_TIMELINE: usize = 1_000;
/// Data of this age is no longer called live, milliseconds.
pub(crate) const STALE_MS: u64 = 3_000;
/// Without the store for so long, states are unknown; as the operator has it. Milliseconds.
pub(crate) const UNKNOWN_MS: u64 = 10_000;

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// Rises with every publication.
    pub(crate) frame: u64,
    /// Unix milliseconds here, at the last complete reading; 0: none yet.
    pub(crate) read_at: u64,
    /// The store's clock minus this machine's.
    pub(crate) clock_offset: i64,
    /// Why the store does not answer, and since when here; none while it does.
    pub(crate) outage: Option<Outage>,
    /// Whether it tells what it last heard from another, and nothing can be decided there.
    pub(crate) replica: bool,
    /// By id.
    pub(crate) breakers: BTreeMap<ServiceId, Arc<Breaker>>,
    /// The fleet's transitions, newest first.
    pub(crate) timeline: Arc<VecDeque<Entry>>,
}

/// A store that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Unix milliseconds here.
    pub(crate) since: u64,
    /// What it said.
    pub(crate) error: String,
}

/// One transition of one breaker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: ServiceId,
    pub(crate) event: Event,
    /// The publication that first showed it.
    pub(crate) frame: u64,
}

/// One breaker as last read.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    pub(crate) id: ServiceId,
    /// Unix milliseconds here.
    pub(crate) read_at: u64,
    /// What is stored cannot be read.
    pub(crate) damage: Option<String>,
    pub(crate) config: Option<StoredConfig>,
    /// What the configuration's text says.
    pub(crate) stored: Arc<Stored>,
    pub(crate) snapshot: Option<Snapshot>,
    /// By name; lost ones, too.
    pub(crate) instances: Vec<Instance>,
    /// Newest first, at most 100.
    pub(crate) events: Arc<Vec<Event>>,
    pub(crate) series: Series,
    /// The publication in which it last looked different.
    pub(crate) version: u64,
}

/// One instance of a breaker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) name: String,
    boot: String,
    pub(crate) state: String,
    pub(crate) generation: u64,
    pub(crate) degraded: bool,
    pub(crate) isolated: bool,
    pub(crate) in_flight: u64,
    pub(crate) revision: u64,
    /// Unix milliseconds by the store's clock.
    pub(crate) seen_at: u64,
    calls: u64,
    rejected: u64,
    /// Thousandths per second, between its last two heartbeats.
    pub(crate) calls_rate: u64,
    /// Thousandths per second.
    pub(crate) rejected_rate: u64,
    /// Its part of the window: calls, failing, slow.
    pub(crate) share: (u64, u64, u64),
    /// Silent without a goodbye.
    pub(crate) lost: bool,
}

/// How many instances are how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) live: usize,
    pub(crate) lost: usize,
    pub(crate) isolated: usize,
    pub(crate) outdated: usize,
    pub(crate) degraded: usize,
}

impl Model {
    /// The store's clock, from this machine's.
    pub(crate) fn store_time(&self, here: u64) -> u64 {
        here.saturating_add_signed(self.clock_offset)
    }

    /// How old the data is, milliseconds; none before the first reading.
    pub(crate) fn age(&self, here: u64) -> Option<u64> {
        (self.read_at > 0).then(|| here.saturating_sub(self.read_at))
    }

    /// Not to be shown as live.
    pub(crate) fn is_stale(&self, here: u64) -> bool {
        self.outage.is_some() || self.age(here).is_none_or(|age| age > STALE_MS)
    }

    /// So old that it says nothing about now.
    pub(crate) fn is_unknown(&self, here: u64) -> bool {
        self.age(here).is_none_or(|age| age > UNKNOWN_MS)
    }
}

impl Breaker {
    /// Takes over a reading: rates from the difference to the one before.
    pub(crate) fn absorb(before: Option<&Self>, id: &ServiceId, survey: Survey, here: u64, now: u64) -> Self {
        let mut series = before.map(|before| before.series.clone()).unwrap_or_default();
        let old_snapshot = before.and_then(|before| before.snapshot.as_ref());
        let shares: &[InstanceShare] = survey.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.instances);
        let instances = meet(
            before.map_or(&[], |before| &before.instances),
            &survey.beats,
            shares,
            now,
        );
        let slot = series.at(now);
        if let Some(snapshot) = &survey.snapshot {
            slot.state = Some(snapshot.view.state);
            slot.window_calls = snapshot.calls;
            slot.window_failing = snapshot.failing;
            slot.window_slow = snapshot.slow;
            // A trip empties the window before anybody can read it; its evidence is what the window held.
            let tripped =
                snapshot.view.state == State::Open && old_snapshot.is_some_and(|old| old.view.state == State::Closed);
            if let Some(evidence) = Evidence::read(&snapshot.last_trip).filter(|_| tripped) {
                slot.window_calls = evidence.calls;
                slot.window_failing = evidence.failures;
                slot.window_slow = evidence.slow;
            }
        }
        let since_last = before
            .map_or(0, |before| here.saturating_sub(before.read_at))
            .min(10_000);
        let live = || instances.iter().filter(|instance| !instance.lost);
        let by_beats = |rate: fn(&Instance) -> u64| live().map(rate).sum::<u64>() * since_last / 1_000;
        match survey.snapshot.as_ref().and_then(|new| growth(old_snapshot, new)) {
            Some((calls, failed)) => {
                slot.calls += calls * 1_000;
                slot.failed += failed * 1_000;
            }
            None => slot.calls += by_beats(|instance| instance.calls_rate),
        }
        slot.rejected += by_beats(|instance| instance.rejected_rate);
        let text = |config: &StoredConfig| config.programmed.as_ref().map(|programmed| programmed.spec.clone());
        let spec = survey.config.as_ref().and_then(text);
        let unchanged = before.filter(|before| before.config.as_ref().and_then(text) == spec);
        Self {
            id: id.clone(),
            read_at: here,
            damage: None,
            stored: match unchanged {
                Some(before) => Arc::clone(&before.stored),
                None => Arc::new(spec.and_then(|spec| Stored::read(&spec)).unwrap_or_default()),
            },
            config: survey.config,
            snapshot: survey.snapshot,
            instances,
            events: before.map(|before| Arc::clone(&before.events)).unwrap_or_default(),
            series,
            version: before.map_or(0, |before| before.version),
        }
    }

    /// What could not be read: the last good reading, and why there is none now.
    pub(crate) fn damaged(before: Option<&Self>, id: &ServiceId, damage: String, here: u64) -> Self {
        let empty = || Self {
            id: id.clone(),
            read_at: here,
            damage: None,
            config: None,
            stored: Arc::default(),
            snapshot: None,
            instances: Vec::new(),
            events: Arc::default(),
            series: Series::default(),
            version: 0,
        };
        Self {
            damage: Some(damage),
            ..before.cloned().unwrap_or_else(empty)
        }
    }

    /// The rules in force; the defaults while nobody programmed any.
    pub(crate) fn policy(&self) -> Policy {
        let programmed = self.config.as_ref().and_then(|config| config.programmed.as_ref());
        programmed.map_or_else(Policy::default, |programmed| programmed.config.policy.clone())
    }

    /// The stored revision; 0 while nobody programmed any.
    pub(crate) fn revision(&self) -> u64 {
        let programmed = self.config.as_ref().and_then(|config| config.programmed.as_ref());
        programmed.map_or(0, |programmed| programmed.config.revision)
    }

    /// Somebody programmed it.
    pub(crate) fn is_configured(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.programmed.is_some())
    }

    pub(crate) fn counts(&self) -> Counts {
        let revision = self.revision();
        let mut counts = Counts::default();
        for instance in &self.instances {
            if instance.lost {
                counts.lost += 1;
                continue;
            }
            counts.live += 1;
            counts.isolated += usize::from(instance.isolated);
            counts.degraded += usize::from(instance.degraded);
            counts.outdated += usize::from(instance.revision != revision);
        }
        counts
    }

    /// A number that differs when anything looks different, but for what the passing of time alone changes.
    pub(crate) fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.damage.hash(&mut hasher);
        self.revision().hash(&mut hasher);
        self.is_configured().hash(&mut hasher);
        self.events.first().map(|event| event.generation).hash(&mut hasher);
        if let Some(snapshot) = &self.snapshot {
            let view = &snapshot.view;
            (view.generation, view.state, view.mode as u8, snapshot.since).hash(&mut hasher);
            (
                snapshot.open_until,
                snapshot.ramp_until,
                snapshot.round_until,
                view.round,
            )
                .hash(&mut hasher);
            (snapshot.calls, snapshot.failing, snapshot.slow, snapshot.run).hash(&mut hasher);
            (snapshot.leases, snapshot.finished, snapshot.failed, &snapshot.causes).hash(&mut hasher);
            (snapshot.shadow_trips, snapshot.shadow_rejected).hash(&mut hasher);
        }
        for instance in &self.instances {
            // When it was last heard ticks by itself.
            let seen_at = if instance.lost { instance.seen_at } else { 0 };
            Instance {
                seen_at,
                calls: 0,
                rejected: 0,
                ..instance.clone()
            }
            .hash(&mut hasher);
        }
        for drawn in self.series.drawn() {
            drawn.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Calls and failures applied between two readings; none when the window cannot tell.
fn growth(old: Option<&Snapshot>, new: &Snapshot) -> Option<(u64, u64)> {
    use tiebar::policy::Mode;
    use tiebar::state::Reason;
    // Where calls pass uncounted, the window tells nothing of them.
    let watched = new.view.mode == Mode::Observe && new.view.state != State::Closed;
    if new.view.mode == Mode::Disabled || watched || new.view.state.is_forced() {
        return None;
    }
    if new.view.state == State::HalfOpen {
        let before = old.filter(|old| old.view.generation == new.view.generation);
        let since = |now: u64, then: fn(&Snapshot) -> u64| now.saturating_sub(before.map_or(0, then));
        return Some((since(new.finished, |s| s.finished), since(new.failed, |s| s.failed)));
    }
    // A window by count does not tell how many outcomes it let go; without any bucket nothing was added either way.
    if new.buckets.is_empty() && new.calls > 0 {
        return None;
    }
    // The first reading's window is no growth of a moment.
    let old = old?;
    let same = old.view.generation == new.view.generation || new.view.reason == Reason::Reseeded;
    let mut total = (0, 0);
    for bucket in &new.buckets {
        let known = old.buckets.iter().find(|known| same && known.number == bucket.number);
        let (calls, failing) = known.map_or((0, 0), |known| (known.calls, known.failing));
        total.0 += bucket.calls.saturating_sub(calls);
        total.1 += bucket.failing.saturating_sub(failing);
    }
    Some(total)
}

/// The instances of now, with rates since their last heartbeat, and those that went without a goodbye.
fn meet(before: &[Instance], beats: &[Beat], shares: &[InstanceShare], now: u64) -> Vec<Instance> {
    let old = |name: &str| before.iter().find(|known| known.name == name);
    let mut instances: Vec<Instance> = beats
        .iter()
        .map(|beat| {
            let known = old(&beat.instance).filter(|known| known.boot == beat.boot && !known.lost);
            let (calls_rate, rejected_rate) = match known {
                Some(known) if beat.seen_at > known.seen_at => {
                    let over =
                        |new: u64, old: u64| new.saturating_sub(old) * 1_000_000 / (beat.seen_at - known.seen_at);
                    (over(beat.calls, known.calls), over(beat.rejected, known.rejected))
                }
                Some(known) => (known.calls_rate, known.rejected_rate),
                None => (0, 0),
            };
            let share = shares.iter().find(|share| share.instance == beat.instance);
            Instance {
                name: beat.instance.clone(),
                boot: beat.boot.clone(),
                state: beat.state.clone(),
                generation: beat.generation,
                degraded: beat.degraded,
                // The window knows at once, the heartbeat within its pause.
                isolated: beat.isolated || share.is_some_and(|share| share.isolated),
                in_flight: beat.in_flight,
                revision: beat.revision,
                seen_at: beat.seen_at,
                calls: beat.calls,
                rejected: beat.rejected,
                calls_rate,
                rejected_rate,
                share: share.map_or((0, 0, 0), |share| (share.calls, share.failing, share.slow)),
                lost: now.saturating_sub(beat.seen_at) > LATE_MS,
            }
        })
        .collect();
    let gone = before.iter().filter(|known| {
        known.lost
            && now.saturating_sub(known.seen_at) < REMEMBER_LOST_MS
            && !beats.iter().any(|beat| beat.instance == known.name)
    });
    instances.extend(gone.cloned());
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    instances
}

//! What the threads that make calls share with the recorder.

use super::outbox::Outbox;
use super::permit::Permit;
use super::stripes::{STRIPES, Stripes, mine};
use super::word::{Gate, HESITATE, Word};
use super::{Effective, Presented, Rejected, Transition};
use crate::id::ServiceId;
use crate::state::{Cause, Kind, State};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

/// Calls waiting for a probe; more are rejected.
pub(super) const WAITERS: usize = 1_000;
/// Running calls watched for slowness; further ones are not.
const SLOTS: usize = 1_024;
/// Places looked at before a call goes unwatched.
const SLOT_TRIES: usize = 8;
/// A share of calls, in parts of this.
pub(super) const RAMP_ONE: u64 = 1 << 32;

/// How the recorder sleeps: not at all, until anything happens, until something happens that cannot wait. Collecting
/// outcomes costs little, being woken for each costs as much as the rest of a proxied call's guarding together.
pub(super) const AWAKE: u8 = 0;
pub(super) const LIGHTLY: u8 = 1;
pub(super) const DEEPLY: u8 = 2;

/// Where an outcome goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the store.
    Shared,
    /// A probe of the store's.
    Probe(u64),
    /// To the local machine.
    Local,
    /// A probe of the local machine's.
    LocalProbe(u64),
    /// Nowhere.
    Nowhere,
}

/// One finished call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) route: Route,
    pub(super) generation: u64,
    pub(super) kind: Kind,
    pub(super) cause: Cause,
}

impl Done {
    /// Brings the shared circuit nearer to a trip.
    pub(super) fn is_harmful(&self) -> bool {
        self.route == Route::Shared && (self.kind.is_failing() || self.kind.is_slow())
    }
}

/// What the recorder tells a waiting call.
#[derive(Debug)]
pub(super) enum Answer {
    /// A probe. The permit itself travels, so that a caller that is gone cancels it.
    Probe(Permit),
    /// The circuit closed: look again.
    LookAgain,
    /// Not now.
    Rejected(Rejected),
}

/// The details behind [`Gate::Ask`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Details {
    pub(super) state: State,
    pub(super) isolated: bool,
    /// The store is gone and the policy says to reject.
    pub(super) denied: bool,
    pub(super) open_until: Instant,
    /// Forced with an end: until then.
    pub(super) forced_until: Option<Instant>,
    /// Probes were refused until then.
    pub(super) refused_until: Instant,
}

/// What the status page shows besides the word.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) generation: u64,
    pub(super) calls: u64,
    pub(super) failing: u64,
    pub(super) slow: u64,
}

/// Shared between callers and recorder.
pub(super) struct Inner {
    pub(super) id: ServiceId,
    pub(super) word: AtomicU64,
    pub(super) details: Mutex<Details>,
    pub(super) effective: RwLock<Option<Arc<Effective>>>,
    pub(super) slow_ms: AtomicU64,
    pub(super) timeout_ms: AtomicU64,
    pub(super) outbox: Outbox,
    pub(super) sleep: AtomicU8,
    pub(super) wake: Notify,
    /// Failing and slow outcomes the store has not answered for, and how many it said do no harm.
    pub(super) unanswered: AtomicU64,
    pub(super) headroom: AtomicU64,
    pub(super) answered: Notify,
    pub(super) waiting: mpsc::Sender<oneshot::Sender<Answer>>,
    pub(super) ramp_debt: AtomicU64,
    /// The share admitted in a ramp, in parts of [`RAMP_ONE`].
    pub(super) ramp_share: AtomicU64,
    slots: Box<[AtomicU64]>,
    epoch: Instant,
    pub(super) stripes: Stripes,
    pub(super) shadow_rejected: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) degraded: AtomicBool,
    pub(super) isolated: AtomicBool,
    pub(super) live: AtomicU64,
    pub(super) closing: AtomicBool,
    pub(super) told: Mutex<Told>,
    pub(super) transitions: Mutex<HashMap<Transition, u64>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A lock that outlives a panic elsewhere: every value behind these is whole at all times.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(super) fn new(id: ServiceId) -> (Self, mpsc::Receiver<oneshot::Sender<Answer>>) {
        let (waiting, waiters) = mpsc::channel(WAITERS);
        let now = Instant::now();
        let word = Word {
            gate: Gate::Free,
            hesitate: false,
            local: false,
            gauge: false,
            presented: Presented::Unconfigured,
            generation: 0,
        };
        let inner = Self {
            id,
            word: AtomicU64::new(word.pack()),
            details: Mutex::new(Details {
                state: State::Closed,
                isolated: false,
                denied: false,
                open_until: now,
                forced_until: None,
                refused_until: now,
            }),
            effective: RwLock::default(),
            slow_ms: AtomicU64::new(0),
            timeout_ms: AtomicU64::new(0),
            outbox: Outbox::new(),
            sleep: AtomicU8::new(AWAKE),
            wake: Notify::new(),
            unanswered: AtomicU64::new(0),
            headroom: AtomicU64::new(u64::MAX),
            answered: Notify::new(),
            waiting,
            ramp_debt: AtomicU64::new(0),
            ramp_share: AtomicU64::new(RAMP_ONE),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            epoch: now,
            stripes: Stripes::default(),
            shadow_rejected: AtomicU64::new(0),
            late: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
            isolated: AtomicBool::new(false),
            live: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            told: Mutex::default(),
            transitions: Mutex::default(),
        };
        (inner, waiters)
    }

    /// Takes a place among the watched calls, away from where other threads look.
    pub(super) fn watch(&self, started: Instant, generation: u64) -> u16 {
        let mark = (generation & 0xF_FFFF) << 44 | (started.duration_since(self.epoch).as_millis() as u64 + 1);
        let first = mine() * (SLOTS / STRIPES) + self.stripes.begun() as usize % SLOTS;
        for index in first..first + SLOT_TRIES {
            let index = index % SLOTS;
            if self.slots[index]
                .compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return index as u16 + 1;
            }
        }
        0
    }

    pub(super) fn release(&self, slot: u16) {
        if slot > 0 {
            self.slots[usize::from(slot) - 1].store(0, Ordering::Relaxed);
        }
    }

    /// Running calls of a generation past the slow threshold.
    pub(super) fn running_slow(&self, generation: u64) -> u64 {
        let threshold = self.slow_ms.load(Ordering::Relaxed);
        let now = self.epoch.elapsed().as_millis() as u64;
        let is_slow = |mark: u64| {
            mark != 0
                && mark >> 44 == generation & 0xF_FFFF
                && now.saturating_sub((mark & ((1 << 44) - 1)) - 1) >= threshold
        };
        self.slots
            .iter()
            .filter(|slot| is_slow(slot.load(Ordering::Relaxed)))
            .count() as u64
    }

    /// Takes a finished call.
    pub(super) fn finished(&self, done: Done) {
        self.stripes.end(done.kind);
        let probe = matches!(done.route, Route::Probe(_) | Route::LocalProbe(_));
        if done.route == Route::Nowhere || (done.kind == Kind::Ignored && !probe) {
            return;
        }
        let harmful = done.is_harmful();
        let mut urgent = done.route != Route::Shared;
        if harmful {
            let unanswered = self.unanswered.fetch_add(1, Ordering::AcqRel) + 1;
            if unanswered > self.headroom.load(Ordering::Acquire) {
                self.word.fetch_or(HESITATE, Ordering::AcqRel);
                urgent = true;
            }
        }
        let (room, much) = self.outbox.put(done, &self.word);
        if !room {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if harmful {
                self.unanswered.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.nudge(urgent || much);
    }

    /// The recorder's sleep, until [`Inner::nudge`] ends it. Whoever wakes for another reason sets [`AWAKE`] himself.
    pub(super) async fn roused(&self, depth: u8) {
        self.sleep.store(depth, Ordering::SeqCst);
        if self.outbox.is_empty() {
            self.wake.notified().await;
        }
    }

    /// Wakes the recorder, unless it is awake or this can wait.
    pub(super) fn nudge(&self, urgent: bool) {
        let can_wait = match self.sleep.load(Ordering::SeqCst) {
            AWAKE => true,
            DEEPLY => !urgent,
            _ => false,
        };
        if !can_wait && self.sleep.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            self.wake.notify_one();
        }
    }
}

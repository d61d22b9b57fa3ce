//! What calls use: admission without I/O, outcomes recorded in the background.
//!
//! A [`Guard`] admits a call by one atomic load (`word.rs`, `admit.rs`) and takes its outcome by counting it, or by one push
//! onto a bounded queue (`outbox.rs`). One task per guard (`recorder/`) does the rest: batches, probes, re-seeding, fallback. It alone
//! decides, so there is no lock to hold while deciding.

mod admit;
mod inner;
mod lanes;
mod local;
mod outbox;
mod permit;
mod recorder;
mod stripes;
#[cfg(test)]
mod turns;
mod word;

pub use permit::Permit;

use crate::id::ServiceId;
use crate::policy::Config;
use crate::state::{Cause, Reason, State};
use crate::store::{Beat, Store};
use inner::{Inner, lock};
use lanes::Lanes;
use recorder::Recorder;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use word::Word;

/// Settings of one process' guards.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[A-Za-z0-9._:-]`, at most 128 bytes; unique in the fleet.
    pub instance: String,
    /// This start of the process, unlike every other; random. Only a simulation sets it, to be replayable.
    pub boot: String,
    /// Pause between resyncs. Default 1 s.
    pub resync: Duration,
    /// Without a reply for so long, the store counts as lost. Default 1 s.
    pub store_patience: Duration,
    /// Pause between heartbeats. Default 10 s.
    pub heartbeat: Duration,
}

impl Settings {
    /// The defaults, under this name. Characters that may not be in a name become `-`.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() || "._:-".contains(c) {
                c
            } else {
                '-'
            }
        };
        Self {
            instance: instance.chars().take(128).map(allowed).collect(),
            boot: format!("{:016x}", random()),
            resync: Duration::from_secs(1),
            store_patience: Duration::from_secs(1),
            heartbeat: Duration::from_secs(10),
        }
    }
}

/// All guards of one process: one store, one identity. Cheap to clone.
#[derive(Clone)]
pub struct Breakers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Breakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Breakers")
            .field("instance", &self.shared.settings.instance)
            .finish_non_exhaustive()
    }
}

struct Shared {
    store: Arc<dyn Store>,
    settings: Settings,
    /// The last number of a batch or wish. One for all guards: a guard that ended and is made again must not begin anew,
    /// or the store would take its batches for old ones.
    numbers: Arc<AtomicU64>,
    guards: Mutex<HashMap<ServiceId, (Guard, JoinHandle<()>)>>,
    store_up: Arc<AtomicBool>,
    attempted: watch::Sender<bool>,
    heart: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for (_, task) in lock(&self.guards).values() {
            task.abort();
        }
        if let Some(heart) = lock(&self.heart).take() {
            heart.abort();
        }
    }
}

/// A number that no other start of a process has, from the randomness of the standard hasher.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Breakers {
    /// Must be called inside a tokio runtime, in which the background tasks will run.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        let shared = Arc::new(Shared {
            store,
            settings,
            numbers: Arc::default(),
            guards: Mutex::default(),
            store_up: Arc::new(AtomicBool::new(false)),
            attempted: watch::channel(false).0,
            heart: Mutex::default(),
        });
        let heart = tokio::spawn(beat(Arc::downgrade(&shared)));
        *lock(&shared.heart) = Some(heart);
        Self { shared }
    }

    /// The guard of an id; the same one every time. `fallback` is what it judges by while the store has no
    /// configuration; it counts only at the first call.
    #[must_use]
    pub fn guard(&self, id: &ServiceId, fallback: Option<Config>) -> Guard {
        let mut guards = lock(&self.shared.guards);
        if let Some((guard, _)) = guards.get(id) {
            return guard.clone();
        }
        let (inner, waiters) = Inner::new(id.clone());
        let inner = Arc::new(Lanes::new(inner));
        if let Some(config) = &fallback {
            *inner.effective.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Effective {
                config: config.clone(),
                spec: None,
            }));
        }
        let recorder = Recorder::new(
            inner.first().clone(),
            Arc::clone(&self.shared.store),
            self.shared.settings.clone(),
            Arc::clone(&self.shared.numbers),
            waiters,
            Arc::clone(&self.shared.store_up),
            self.shared.attempted.clone(),
            fallback,
        );
        let guard = Guard { inner };
        guards.insert(id.clone(), (guard.clone(), tokio::spawn(recorder.run())));
        guard
    }

    /// All guards so far.
    #[must_use]
    pub fn guards(&self) -> Vec<Guard> {
        lock(&self.shared.guards)
            .values()
            .map(|(guard, _)| guard.clone())
            .collect()
    }

    /// The name under which this process reports.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.shared.settings.instance
    }

    /// Whether the store answered last time.
    #[must_use]
    pub fn store_up(&self) -> bool {
        self.shared.store_up.load(Ordering::Relaxed)
    }

    /// Resolves once the first attempt to reach the store is over, well or badly. Without a guard there is none.
    pub async fn first_attempt(&self) {
        let mut attempted = self.shared.attempted.subscribe();
        // An error would mean that the sender is gone, and we hold it.
        let _ = attempted.wait_for(|attempted| *attempted).await;
    }

    /// Sends what is recorded, for at most `patience`, and says goodbye. The guards admit nothing sensible afterwards.
    pub async fn shutdown(&self, patience: Duration) {
        let guards = lock(&self.shared.guards).drain().map(|(_, entry)| entry).collect();
        self.close(guards, patience).await;
    }

    /// Ends, as [`Self::shutdown`] does, the guards that nobody holds: no clone, no permit. For processes whose
    /// dependencies come and go; whoever asks [`Self::guard`] anew for each call would lose them in between.
    pub async fn sweep(&self, patience: Duration) {
        let unused: Vec<_> = {
            // Under the lock nobody gets a clone from here, and nobody else has one to clone.
            let mut guards = lock(&self.shared.guards);
            let unused =
                guards.extract_if(|_, (guard, _)| Arc::strong_count(&guard.inner) == 1 && !guard.inner.are_used());
            unused.map(|(_, entry)| entry).collect()
        };
        if !unused.is_empty() {
            self.close(unused, patience).await;
        }
    }

    async fn close(&self, guards: Vec<(Guard, JoinHandle<()>)>, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        for (guard, _) in &guards {
            guard.inner.closing.store(true, Ordering::Release);
            guard.inner.wake.notify_one();
        }
        let mut ids = Vec::new();
        for (guard, mut task) in guards {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                tracing::warn!(breaker = %guard.id(), "outcomes were not sent in time");
                task.abort();
            }
            ids.push(guard.id().clone());
        }
        let goodbye = self.shared.store.goodbye(&ids, &self.shared.settings.instance);
        // Without a goodbye the instance counts as lost for a while, which is true enough.
        let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
    }
}

/// Tells the store that this process is there, and learns how many are.
async fn beat(shared: std::sync::Weak<Shared>) {
    let mut pause = Duration::from_millis(100);
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        pause = shared.settings.heartbeat;
        let guards: Vec<Guard> = lock(&shared.guards).values().map(|(guard, _)| guard.clone()).collect();
        let beats: Vec<(ServiceId, Beat)> = guards
            .iter()
            .map(|guard| (guard.id().clone(), guard.beat(&shared.settings)))
            .collect();
        if guards.is_empty() || shared.store.beat(&beats).await.is_err() {
            pause = pause.min(Duration::from_secs(1));
            continue;
        }
        for guard in &guards {
            if let Ok(live) = shared.store.instances(guard.id()).await {
                guard.inner.live.store(live.len().max(1) as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Why a call was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The circuit is open.
    Open,
    /// Half-open, and all probes are under way.
    ProbeLimit,
    /// Closed, but the recovery ramp admits only a share.
    Ramp,
    /// Forced open.
    Forced,
    /// This instance opened alone.
    Isolated,
    /// The store did not answer and the policy is to reject.
    Store,
    /// Too many calls at once; never the guard's own verdict.
    Overload,
}

impl RejectReason {
    /// Its name in rejections and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::ProbeLimit => "probe_limit",
            Self::Ramp => "ramp",
            Self::Forced => "forced",
            Self::Isolated => "isolated",
            Self::Store => "store",
            Self::Overload => "overload",
        }
    }
}

/// A rejected call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rejected by the circuit breaker: {} ({})", .state.as_str(), .reason.as_str())]
pub struct Rejected {
    /// As shown in `x-circuit-state`; an isolated instance says open.
    pub state: Presented,
    /// Why.
    pub reason: RejectReason,
    /// Milliseconds to the next chance; none: unknown (forced without an end).
    pub retry_after_ms: Option<u64>,
}

/// The state a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presented {
    /// A state.
    State(State),
    /// Nobody has configured a breaker.
    Unconfigured,
}

impl Presented {
    /// The value of `x-circuit-state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Unconfigured => "unconfigured",
        }
    }
}

/// The configuration a guard acts by.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Revision, rules, override.
    pub config: Config,
    /// The spec's JSON from the store; none when the rules come from code or a local file.
    pub spec: Option<Arc<str>>,
}

/// The verdict on a finished call. Slowness is measured by the permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It went well.
    Success,
    /// It went badly, because of this.
    Failure(Cause),
    /// It says nothing about the dependency.
    Ignored,
}

/// What the guard knows, for admin pages.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardStatus {
    /// The state it acts by.
    pub state: Presented,
    /// That state's number, in the store.
    pub generation: u64,
    /// Calls in the window as the store last told.
    pub calls: u64,
    /// Failing ones.
    pub failing: u64,
    /// Slow ones.
    pub slow: u64,
    /// Calls running here.
    pub in_flight: u64,
    /// Acting without the store.
    pub degraded: bool,
    /// Open alone.
    pub isolated: bool,
    /// The configuration's revision; 0 for rules from code, or none.
    pub revision: u64,
}

/// A transition: from (none: nothing was stored), to, reason.
pub type Transition = (Option<State>, State, Reason);

/// Counters since start, read at scrape time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GuardCounters {
    /// In the order success, failure, slow_success, slow_failure, ignored, rejected.
    pub calls: [u64; 6],
    /// Outcomes of a generation that was over.
    pub late: u64,
    /// Outcomes lost: the queue was full, or the store silent for too long.
    pub dropped: u64,
    /// Transitions this instance caused, with their counts.
    pub transitions: Vec<(Transition, u64)>,
}

/// Guards the calls to one dependency. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    inner: Arc<Lanes>,
}

impl Guard {
    /// The dependency.
    #[must_use]
    pub fn id(&self) -> &ServiceId {
        &self.inner.id
    }

    /// The configuration in force; none while unconfigured. Cheap; `Arc::ptr_eq` tells a change.
    #[must_use]
    pub fn effective(&self) -> Option<Arc<Effective>> {
        self.inner
            .effective
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks to make one call. Resolves at once unless the circuit is half-open or at its very threshold.
    ///
    /// # Errors
    /// The call must not be made.
    pub async fn acquire(&self) -> Result<Permit, Rejected> {
        self.inner.mine().admit().await
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
        let permit = self.acquire().await?;
        let result = call().await;
        permit.record(judge(&result));
        Ok(result)
    }

    /// What the guard knows now.
    #[must_use]
    pub fn status(&self) -> GuardStatus {
        let inner = &self.inner;
        let told = *lock(&inner.told);
        GuardStatus {
            state: Word::unpack(inner.word.load(Ordering::Acquire)).presented,
            generation: told.generation,
            calls: told.calls,
            failing: told.failing,
            slow: told.slow,
            in_flight: inner.stripes.in_flight(),
            degraded: inner.degraded.load(Ordering::Relaxed),
            isolated: inner.isolated.load(Ordering::Relaxed),
            revision: self.effective().map_or(0, |effective| effective.config.revision),
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> GuardCounters {
        let inner = &self.inner;
        GuardCounters {
            calls: inner.stripes.counts(),
            late: inner.late.load(Ordering::Relaxed),
            dropped: inner.dropped.load(Ordering::Relaxed),
            transitions: lock(&inner.transitions)
                .iter()
                .map(|(transition, count)| (*transition, *count))
                .collect(),
        }
    }

    fn beat(&self, settings: &Settings) -> Beat {
        let status = self.status();
        let counters = self.counters();
        Beat {
            instance: settings.instance.clone(),
            boot: settings.boot.clone(),
            state: status.state.as_str().to_owned(),
            generation: status.generation,
            degraded: status.degraded,
            isolated: status.isolated,
            in_flight: status.in_flight,
            calls: counters.calls[..5].iter().sum(),
            rejected: counters.calls[5],
            revision: status.revision,
            seen_at: 0,
        }
    }
}

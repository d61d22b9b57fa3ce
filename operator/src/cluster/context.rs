//! What the parts of the operator share, and when each of them does its work.

use super::budget::Budget;
use super::due::Due;
use super::lease::{Term, Timing};
use super::notes::Notes;
use super::world::{Key, StatusText, Touched, World};
use crate::health::Health;
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::redis::Keys;
use tiebar::store::{Leader, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often things happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Periods {
    /// Everything is compared with the store: half a minute is the promise, the work itself takes a while.
    pub(crate) resync: Duration,
    /// Between two writes of one status.
    pub(crate) status: Duration,
    /// Between two refreshes of what changes all the time.
    pub(crate) refresh: Duration,
    /// Between two looks whether the store serves: what is wrong shows within two seconds.
    pub(crate) probe: Duration,
    /// Between two rounds over everything because news were missed.
    pub(crate) gap: Duration,
}

impl Periods {
    /// The usual ones, divided: tests need not wait for a minute to see an idle one.
    pub(crate) fn divided_by(pace: u32) -> Self {
        let pace = pace.max(1);
        Self {
            resync: Duration::from_secs(20) / pace,
            status: Duration::from_secs(1),
            refresh: Duration::from_secs(30) / pace,
            probe: Duration::from_secs(1) / pace,
            gap: Duration::from_secs(5) / pace,
        }
    }
}

/// What is remembered of an id between attempts to program it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Programmed {
    /// The resource and generation the store was last seen to hold.
    pub(crate) of: Option<(String, i64)>,
    /// It may be written at any time, which shows whether the store takes writes.
    pub(crate) proves: bool,
    pub(crate) error: Option<String>,
    pub(crate) failures: u32,
}

/// What is remembered of a resource between two reports.
#[derive(Debug, Default, Clone)]
pub(crate) struct Reported {
    pub(crate) refreshed: Option<Instant>,
    pub(crate) failures: u32,
    /// The window's calls and failing ones, for metrics.
    pub(crate) window: Option<(u64, u64)>,
    /// What was written last and what came of it, when that differs.
    pub(crate) settled: Option<(StatusText, StatusText)>,
}

pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    /// This operator's name in the store.
    pub(crate) owner: String,
    pub(crate) periods: Periods,
    pub(crate) timing: Timing,
    pub(crate) programs: Arc<Due<ServiceId>>,
    pub(crate) reports: Arc<Due<Key>>,
    pub(crate) budget: Budget,
    pub(crate) notes: Notes,
    pub(crate) metrics: Metrics,
    pub(crate) term: watch::Receiver<Option<Term>>,
    pub(crate) world: Mutex<World>,
    pub(crate) health: Mutex<Health>,
    pub(crate) programmed: Mutex<HashMap<ServiceId, Programmed>>,
    pub(crate) reported: Mutex<HashMap<Key, Reported>>,
}

/// The guard of one of the context's maps; none of its holders can leave it half-changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// The claim to write under, while this replica leads.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let term = (*self.term.borrow()).filter(|term| term.until > Instant::now())?;
        Some(Leader {
            owner: self.owner.clone(),
            created: term.created,
            transitions: term.transitions,
        })
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.world)
    }

    /// Has a change of the world acted upon.
    pub(crate) fn touch(&self, touched: Touched) {
        if self.leader().is_none() {
            // Whoever leads does it; nothing is to be caught up on later but by comparing everything.
            let vacated = self.world().take_vacated();
            locked(&self.programmed).retain(|id, _| !vacated.contains(id));
            return;
        }
        for id in touched.ids {
            self.programs.now(id, false);
        }
        for key in touched.reports {
            self.reports.now(key, false);
        }
    }

    /// Has everything programmed, and so reported.
    pub(crate) fn resync(&self) {
        let (ids, nameless): (Vec<ServiceId>, Vec<Key>) = {
            let world = self.world();
            let nameless = world.declared().filter(|declared| declared.id.is_none());
            (world.ids(), nameless.map(|declared| declared.key.clone()).collect())
        };
        for id in ids {
            self.programs.now(id, false);
        }
        for key in nameless {
            self.reports.now(key, false);
        }
    }

    /// Has everyone who claims an id reported.
    pub(crate) fn report(&self, id: &ServiceId) {
        for key in self.world().claimants(id) {
            self.reports.now(key, false);
        }
    }

    /// Has a change of state reported.
    pub(crate) fn report_transition(&self, id: &ServiceId) {
        let claimants = self.world().claimants(id);
        if claimants.first().is_some_and(|key| self.reports.is_held(key)) {
            self.metrics.status_writes_coalesced.inc();
        }
        for key in claimants {
            self.reports.now(key, true);
        }
    }

    /// Has everything reported.
    pub(crate) fn report_all(&self) {
        let keys: Vec<Key> = self.world().declared().map(|declared| declared.key.clone()).collect();
        for key in keys {
            self.reports.now(key, false);
        }
    }
}

/// When to try again after so many failures: 1 s, doubled up to 30 s.
pub(crate) fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(5)).min(Duration::from_secs(30))
}

/// Takes what is due and works on it, so many at a time, until dropped; what runs then is stopped.
pub(crate) async fn dispatch<K, F>(due: Arc<Due<K>>, urgent_only: bool, at_once: usize, job: impl Fn(K, bool) -> F)
where
    K: Clone + Eq + Hash + Ord + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        while running.len() >= at_once {
            running.join_next().await;
        }
        let taken = due.next(urgent_only).await;
        let work = job(taken.key.clone(), taken.urgent);
        running.spawn(async move {
            work.await;
            drop(taken);
        });
        while running.try_join_next().is_some() {}
    }
}

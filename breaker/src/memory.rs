//! The machine behind a mutex: the store of `cargo run` without Redis, and of tests.

use crate::id::ServiceId;
use crate::machine::{self, Effects, Row};
use crate::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Reply, Snapshot, Store, StoreError, StoreResult,
    StoredConfig, Survey, Written,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;

/// A clock: Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Heartbeats this old are gone, milliseconds.
const FORGET_MS: u64 = 60_000;
/// Announcements a slow receiver may lag behind before it is told of a gap.
const ANNOUNCEMENTS: usize = 4_096;

/// Breakers in this process.
pub struct MemoryStore {
    clock: Clock,
    reachable: AtomicBool,
    shelf: Mutex<Shelf>,
    announcements: broadcast::Sender<Announcement>,
}

#[derive(Default)]
struct Shelf {
    rows: HashMap<ServiceId, Row>,
    beats: HashMap<ServiceId, BTreeMap<String, Beat>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64)
        }))
    }

    /// An empty store on another clock.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            clock,
            reachable: AtomicBool::new(true),
            shelf: Mutex::default(),
            announcements: broadcast::channel(ANNOUNCEMENTS).0,
        }
    }

    /// Cuts the store off, or gives it back: while cut off, every operation fails.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
        if reachable {
            self.announce(Announcement::Gap);
        }
    }

    /// Loses everything, as FLUSHALL does.
    pub fn wipe(&self) {
        *self.shelf() = Shelf::default();
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, announcement: Announcement) {
        if self.reachable.load(Ordering::SeqCst) {
            // Nobody listening is not an error.
            let _ = self.announcements.send(announcement);
        }
    }

    fn announce_all(&self, id: &ServiceId, effects: Effects) {
        for view in effects.views {
            self.announce(Announcement::Transition(id.clone(), view));
        }
    }

    fn announce_written(&self, id: &ServiceId, written: &Written) {
        if matches!(written, Written::Changed(_)) {
            self.announce(Announcement::Revision(id.clone()));
        }
    }

    /// One operation, at once or not at all.
    fn operate<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&'a Self) -> T + Send + 'a,
    ) -> BoxFuture<'a, StoreResult<T>> {
        async move {
            if !self.reachable.load(Ordering::SeqCst) {
                return Err(StoreError::Unreachable("cut off".to_owned()));
            }
            Ok(work(self))
        }
        .boxed()
    }
}

impl Shelf {
    fn config(&self, id: &ServiceId) -> Option<StoredConfig> {
        Some(self.rows.get(id)?.config.clone()?.stored())
    }

    fn snapshot(&self, id: &ServiceId, now: u64) -> Option<Snapshot> {
        let row = self.rows.get(id)?;
        Some(row.data.as_ref()?.snapshot(row.config.as_ref(), now))
    }

    fn live_beats(&self, id: &ServiceId, now: u64) -> Vec<Beat> {
        let beats = self.beats.get(id).into_iter().flat_map(|beats| beats.values());
        beats
            .filter(|beat| now.saturating_sub(beat.seen_at) < FORGET_MS)
            .cloned()
            .collect()
    }
}

impl Store for MemoryStore {
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        self.operate(move |store| {
            let (reply, effects) = {
                let mut shelf = store.shelf();
                let row = shelf.rows.entry(id.clone()).or_default();
                machine::exchange(row, id, request, (store.clock)())
            };
            store.announce_all(id, effects);
            reply
        })
    }

    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        self.operate(move |store| {
            let (written, effects) = {
                let mut shelf = store.shelf();
                machine::configure(
                    shelf.rows.entry(id.clone()).or_default(),
                    id,
                    programme,
                    (store.clock)(),
                )
            };
            store.announce_all(id, effects);
            store.announce_written(id, &written);
            written
        })
    }

    fn tombstone<'a>(&'a self, id: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        self.operate(move |store| {
            let written = {
                let mut shelf = store.shelf();
                shelf.beats.remove(id);
                machine::tombstone(shelf.rows.entry(id.clone()).or_default(), leader, (store.clock)())
            };
            store.announce_written(id, &written);
            written
        })
    }

    fn reset<'a>(
        &'a self,
        id: &'a ServiceId,
        leader: &'a Leader,
        request: &'a str,
    ) -> BoxFuture<'a, StoreResult<Written>> {
        self.operate(move |store| {
            let (written, effects) = {
                let mut shelf = store.shelf();
                machine::reset(
                    shelf.rows.entry(id.clone()).or_default(),
                    id,
                    leader,
                    request,
                    (store.clock)(),
                )
            };
            store.announce_all(id, effects);
            store.announce_written(id, &written);
            written
        })
    }

    fn config<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        self.operate(move |store| store.shelf().config(id))
    }

    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        self.operate(move |store| store.shelf().snapshot(id, (store.clock)()))
    }

    fn events<'a>(&'a self, id: &'a ServiceId, count: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        self.operate(move |store| {
            let shelf = store.shelf();
            shelf
                .rows
                .get(id)
                .map_or_else(Vec::new, |row| row.events.iter().rev().take(count).cloned().collect())
        })
    }

    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        self.operate(move |store| {
            let now = (store.clock)();
            let mut shelf = store.shelf();
            for (id, beat) in beats {
                let known = shelf.beats.entry(id.clone()).or_default();
                known.retain(|_, beat| now.saturating_sub(beat.seen_at) < FORGET_MS);
                known.insert(
                    beat.instance.clone(),
                    Beat {
                        seen_at: now,
                        ..beat.clone()
                    },
                );
            }
        })
    }

    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.operate(move |store| {
            let mut shelf = store.shelf();
            for id in ids {
                if let Some(beats) = shelf.beats.get_mut(id) {
                    beats.remove(instance);
                }
            }
        })
    }

    fn instances<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
        self.operate(move |store| store.shelf().live_beats(id, (store.clock)()))
    }

    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        self.operate(move |store| {
            let now = (store.clock)();
            let shelf = store.shelf();
            ids.iter()
                .map(|id| {
                    Ok(Survey {
                        config: shelf.config(id),
                        snapshot: shelf.snapshot(id, now),
                        beats: shelf.live_beats(id, now),
                    })
                })
                .collect()
        })
    }

    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>> {
        self.operate(|store| {
            let shelf = store.shelf();
            let live = |row: &Row| row.config.as_ref().is_none_or(|stored| stored.config.is_some());
            let mut ids: Vec<ServiceId> = shelf
                .rows
                .iter()
                .filter(|(_, row)| live(row))
                .map(|(id, _)| id.clone())
                .collect();
            ids.extend(shelf.beats.keys().filter(|id| !shelf.rows.contains_key(id)).cloned());
            ids.sort();
            ids
        })
    }

    fn now(&self) -> BoxFuture<'_, StoreResult<u64>> {
        self.operate(|store| (store.clock)())
    }

    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.announcements.subscribe()
    }
}

//! Measures a store from outside: how long its operations take, how full batches are, how late news arrive.
//!
//! A wrapper rather than hooks in the recorder, which has enough to do.

use crate::histogram::Histogram;
use futures_util::future::{BoxFuture, FutureExt as _};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tiebar::id::ServiceId;
use tiebar::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Reply, Snapshot, Store, StoreResult, StoredConfig, Survey,
    Written,
};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// In microseconds.
const OPERATIONS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
];
/// In milliseconds, the resolution of a view's age.
const PROPAGATION: &[u64] = &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_000, 5_000];
/// In outcomes; a batch holds at most 512.
const BATCHES: &[u64] = &[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// The operations an instance uses.
#[derive(Debug, Clone, Copy)]
enum Op {
    Exchange,
    Beat,
    Instances,
    Goodbye,
}

/// The names in the label `op`, in that order.
pub(crate) const OPS: [&str; 4] = ["exchange", "beat", "instances", "goodbye"];

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measures {
    operations: [Histogram; 4],
    pub(crate) batches: Histogram,
    pub(crate) propagation: Histogram,
    known: Mutex<HashMap<ServiceId, Known>>,
}

/// The newest generation an instance knows of.
#[derive(Debug, Clone, Copy)]
struct Known {
    generation: u64,
    /// When it was announced, until a reply has told how old it was.
    announced: Option<Instant>,
}

impl Measures {
    pub(crate) fn new() -> Self {
        Self {
            operations: std::array::from_fn(|_| Histogram::new(OPERATIONS, 1e6)),
            batches: Histogram::new(BATCHES, 1.0),
            propagation: Histogram::new(PROPAGATION, 1e3),
            known: Mutex::default(),
        }
    }

    /// The histograms of [`OPS`].
    pub(crate) fn operation(index: usize) -> fn(&Self) -> &Histogram {
        match index {
            0 => |measures| &measures.operations[0],
            1 => |measures| &measures.operations[1],
            2 => |measures| &measures.operations[2],
            _ => |measures| &measures.operations[3],
        }
    }

    fn announced(&self, id: &ServiceId, generation: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the first reply there is nothing to compare with.
        if let Some(known) = known.get_mut(id)
            && generation > known.generation
        {
            *known = Known {
                generation,
                announced: Some(Instant::now()),
            };
        }
    }

    /// A reply tells the age of its state by the store's clock alone, so no two clocks are compared: what it says is
    /// late by at most its own round trip.
    fn replied(&self, id: &ServiceId, reply: &Reply) {
        let Some(view) = &reply.view else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(id).copied();
        let fresh = Known {
            generation: view.generation,
            announced: None,
        };
        let late = match before {
            None => None,
            // Its own doing is no news.
            Some(_) if !reply.caused.is_empty() => None,
            Some(before) if view.generation > before.generation => Some(view.age_ms),
            Some(before) if view.generation == before.generation => before.announced.map(|at| {
                let since = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                view.age_ms.saturating_sub(since)
            }),
            Some(_) => return,
        };
        known.insert(id.clone(), fresh);
        drop(known);
        if let Some(late) = late {
            self.propagation.observe(late);
        }
    }
}

/// A store whose use is measured.
pub struct Watched {
    store: Arc<dyn Store>,
    measures: Arc<Measures>,
}

/// The measurements of a [`Watched`] store, for [`crate::Settings`].
#[derive(Clone, Debug)]
pub struct StoreMeasures(pub(crate) Arc<Measures>);

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    /// Watches a store. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> (Arc<Self>, StoreMeasures) {
        let measures = Arc::new(Measures::new());
        let weak = Arc::downgrade(&measures);
        let mut news = store.subscribe();
        tokio::spawn(async move {
            loop {
                match news.recv().await {
                    Ok(Announcement::Transition(id, view)) => match weak.upgrade() {
                        Some(measures) => measures.announced(&id, view.generation),
                        None => return,
                    },
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let watched = Self {
            store,
            measures: Arc::clone(&measures),
        };
        (Arc::new(watched), StoreMeasures(measures))
    }

    fn timed<'a, T: Send + 'a>(&'a self, op: Op, work: BoxFuture<'a, StoreResult<T>>) -> BoxFuture<'a, StoreResult<T>> {
        async move {
            let started = Instant::now();
            let result = work.await;
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.measures.operations[op as usize].observe(micros);
            result
        }
        .boxed()
    }
}

impl Store for Watched {
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        async move {
            if let Some(batch) = &request.batch {
                self.measures
                    .batches
                    .observe((batch.outcomes.len() + batch.probes.len()) as u64);
            }
            let reply = self.timed(Op::Exchange, self.store.exchange(id, request)).await?;
            self.measures.replied(id, &reply);
            Ok(reply)
        }
        .boxed()
    }

    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        self.store.configure(id, programme)
    }

    fn tombstone<'a>(&'a self, id: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        self.store.tombstone(id, leader)
    }

    fn reset<'a>(
        &'a self,
        id: &'a ServiceId,
        leader: &'a Leader,
        request: &'a str,
    ) -> BoxFuture<'a, StoreResult<Written>> {
        self.store.reset(id, leader, request)
    }

    fn config<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        self.store.config(id)
    }

    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        self.store.snapshot(id)
    }

    fn events<'a>(&'a self, id: &'a ServiceId, count: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        self.store.events(id, count)
    }

    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        self.timed(Op::Beat, self.store.beat(beats))
    }

    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.timed(Op::Goodbye, self.store.goodbye(ids, instance))
    }

    fn instances<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
        self.timed(Op::Instances, self.store.instances(id))
    }

    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        self.store.survey(ids)
    }

    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>> {
        self.store.ids()
    }

    fn now(&self) -> BoxFuture<'_, StoreResult<u64>> {
        self.store.now()
    }

    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.store.subscribe()
    }
}

//! The one subscription of the process: it reads the store and publishes models.
//!
//! Announcements say which breakers to read again at once; everything else is read in turn, so that a lost announcement
//! is harmless. Rejected: reading on request, which makes the store pay for every viewer.

use crate::model::{Breaker, Entry, MAX_TIMELINE, Model, Outage};
use futures_util::StreamExt as _;
use futures_util::stream;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tiebar::id::ServiceId;
use tiebar::store::{Announcement, Event, Store, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Pause between readings of what was announced.
const EAGER: Duration = Duration::from_millis(200);
/// Pause between readings of everything.
const SWEEP: Duration = Duration::from_secs(1);
/// Breakers read in one sweep; more take turns.
const SWEEP_MOST: usize = 2_000;
/// Transitions read per breaker.
const EVENTS: usize = 100;
/// Histories asked for at once.
const EVENTS_AT_ONCE: usize = 16;
/// Histories asked for in one go: the first minute of a big fleet takes turns, too.
const EVENTS_MOST: usize = 500;

/// Unix milliseconds on this machine.
pub(crate) fn here() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Reads the store for everybody.
pub(crate) struct Collector {
    store: Arc<dyn Store>,
    model: Model,
    ids: Vec<ServiceId>,
    /// Where the next sweep goes on.
    turn: usize,
    due: BTreeSet<ServiceId>,
    histories_due: BTreeSet<ServiceId>,
    publish: watch::Sender<Arc<Model>>,
}

impl Collector {
    /// A collector, and where its models appear.
    pub(crate) fn new(store: Arc<dyn Store>) -> (Self, watch::Receiver<Arc<Model>>) {
        let (publish, models) = watch::channel(Arc::default());
        let collector = Self {
            store,
            model: Model::default(),
            ids: Vec::new(),
            turn: 0,
            due: BTreeSet::new(),
            histories_due: BTreeSet::new(),
            publish,
        };
        (collector, models)
    }

    /// Reads on, for ever.
    pub(crate) async fn run(mut self) {
        let mut announcements = self.store.subscribe();
        let mut sweep = interval_at(Instant::now(), SWEEP);
        let mut eager = interval_at(Instant::now() + EAGER, EAGER);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        eager.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = announcements.recv() => match heard {
                    Ok(Announcement::Transition(id, _) | Announcement::Revision(id)) => {
                        self.due.insert(id);
                    }
                    // The next sweep reads everything anyway, within a second.
                    Ok(Announcement::Gap) | Err(RecvError::Lagged(_)) => {}
                    // The store outlives this loop.
                    Err(RecvError::Closed) => return,
                },
                _ = eager.tick(), if !self.due.is_empty() => {
                    let ids: Vec<ServiceId> = std::mem::take(&mut self.due).into_iter().collect();
                    let read = self.read(&ids).await;
                    self.conclude(read, false);
                }
                _ = sweep.tick() => {
                    self.due.clear();
                    let read = self.sweep().await;
                    self.conclude(read, true);
                }
            }
        }
    }

    async fn sweep(&mut self) -> StoreResult<()> {
        let before = here();
        let now = self.store.now().await?;
        let after = here();
        // A user of Redis who may not ask is not told.
        self.model.replica = self.store.is_replica().await.unwrap_or(false);
        // Half of the round trip is the error, which is below what a person sees.
        self.model.clock_offset = now as i64 - (before + (after - before) / 2) as i64;
        self.ids = self.store.ids().await?;
        let gone = |id: &&ServiceId| self.ids.binary_search(id).is_err();
        let gone: Vec<ServiceId> = self.model.breakers.keys().filter(gone).cloned().collect();
        for id in gone {
            self.model.breakers.remove(&id);
        }
        let count = self.ids.len().min(SWEEP_MOST);
        if self.turn >= self.ids.len() {
            self.turn = 0;
        }
        let ids: Vec<ServiceId> = self.ids.iter().cycle().skip(self.turn).take(count).cloned().collect();
        self.turn = (self.turn + count) % self.ids.len().max(1);
        self.read(&ids).await
    }

    async fn read(&mut self, ids: &[ServiceId]) -> StoreResult<()> {
        let surveys = self.store.survey(ids).await?;
        let here = here();
        let now = self.model.store_time(here);
        for (id, survey) in ids.iter().zip(surveys) {
            let before = self.model.breakers.get(id).map(AsRef::as_ref);
            let mut breaker = match survey {
                // Announced, and gone again before it was read: what is neither programmed nor used is no breaker.
                Ok(survey) if survey.config.as_ref().is_some_and(|config| config.programmed.is_none()) => {
                    self.model.breakers.remove(id);
                    continue;
                }
                Ok(survey) => Breaker::absorb(before, id, survey, here, now),
                Err(error) => Breaker::damaged(before, id, error.to_string(), here),
            };
            if before.is_none_or(|before| before.look() != breaker.look()) {
                breaker.version = self.model.frame + 1;
            }
            let latest = |breaker: &Breaker| breaker.snapshot.as_ref().map(|snapshot| snapshot.view.generation);
            if before.is_none_or(|before| latest(before) != latest(&breaker)) {
                self.histories_due.insert(id.clone());
            }
            self.model.breakers.insert(id.clone(), Arc::new(breaker));
        }
        self.read_histories().await
    }

    async fn read_histories(&mut self) -> StoreResult<()> {
        let ids: Vec<ServiceId> = self.histories_due.iter().take(EVENTS_MOST).cloned().collect();
        let store = Arc::clone(&self.store);
        let mut histories = stream::iter(ids)
            .map(|id| {
                let store = Arc::clone(&store);
                async move {
                    let events = store.events(&id, EVENTS).await;
                    (id, events)
                }
            })
            .buffer_unordered(EVENTS_AT_ONCE);
        let mut read = Vec::new();
        while let Some((id, events)) = histories.next().await {
            read.push((id, events?));
        }
        let mut fresh = Vec::new();
        for (id, events) in read {
            self.histories_due.remove(&id);
            if let Some(breaker) = self.model.breakers.get_mut(&id) {
                let breaker = Arc::make_mut(breaker);
                fresh.extend(unseen(&breaker.events, &events).map(|event| Entry {
                    id: id.clone(),
                    event: event.clone(),
                    frame: self.model.frame + 1,
                }));
                breaker.events = Arc::new(events);
                breaker.version = self.model.frame + 1;
            }
        }
        if !fresh.is_empty() {
            self.model.timeline = Arc::new(merge(&self.model.timeline, fresh));
        }
        Ok(())
    }

    /// Publishes what was read, or that nothing could be.
    fn conclude(&mut self, read: StoreResult<()>, complete: bool) {
        let here = here();
        match read {
            Ok(()) => {
                if let Some(outage) = self.model.outage.take() {
                    tracing::info!(seconds = (here - outage.since) / 1_000, "the store is back");
                }
                if complete {
                    self.model.read_at = here;
                }
            }
            Err(error) => {
                let error = error.to_string();
                let outage = self.model.outage.get_or_insert_with(|| {
                    tracing::warn!(%error, "the store does not answer; showing what was last known");
                    Outage {
                        since: here,
                        error: String::new(),
                    }
                });
                outage.error = error;
            }
        }
        self.model.frame += 1;
        self.publish.send_replace(Arc::new(self.model.clone()));
    }
}

/// Those of the newest-first `now` that are not in `before`.
fn unseen<'a>(before: &'a [Event], now: &'a [Event]) -> impl Iterator<Item = &'a Event> {
    now.iter()
        .filter(|event| !before.iter().any(|known| known.generation == event.generation))
}

/// The timeline with newcomers in their places, newest first, bounded.
fn merge(timeline: &VecDeque<Entry>, fresh: Vec<Entry>) -> VecDeque<Entry> {
    let mut all: Vec<Entry> = timeline.iter().cloned().chain(fresh).collect();
    let order = |entry: &Entry| (entry.event.at, entry.event.generation);
    all.sort_by(|a, b| order(b).cmp(&order(a)).then_with(|| a.id.cmp(&b.id)));
    all.truncate(MAX_TIMELINE);
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebar::memory::MemoryStore;
    use tiebar::policy::Policy;
    use tiebar::store::{Exchange, Leader, Programme};

    fn programme(id: &str) -> Programme {
        Programme {
            leader: Leader {
                owner: "test".to_owned(),
                ..Leader::default()
            },
            spec: format!("{{\"serviceName\":\"{id}\"}}"),
            policy: Policy::default(),
            forced: None,
        }
    }

    async fn until(models: &mut watch::Receiver<Arc<Model>>, wanted: impl FnMut(&Arc<Model>) -> bool) -> Arc<Model> {
        let patience = Duration::from_secs(6);
        let found = tokio::time::timeout(patience, models.wait_for(wanted)).await;
        Arc::clone(&found.expect("within six seconds").expect("the collector runs"))
    }

    #[tokio::test]
    async fn what_appears_changes_and_goes_is_published_and_an_outage_keeps_the_last_picture() {
        let store = Arc::new(MemoryStore::new());
        let id = ServiceId::parse("shop/a").unwrap();
        let (collector, mut models) = Collector::new(Arc::clone(&store) as _);
        let task = tokio::spawn(collector.run());
        store.configure(&id, &programme("a")).await.unwrap();
        until(&mut models, |model| model.breakers.contains_key(&id)).await;

        let seed = Exchange {
            instance: "one".to_owned(),
            boot: "1".to_owned(),
            seed: true,
            ..Exchange::default()
        };
        store.exchange(&id, &seed).await.unwrap();
        let model = until(&mut models, |model| !model.timeline.is_empty()).await;
        assert_eq!(model.breakers[&id].events.len(), 1);

        store.set_reachable(false);
        let model = until(&mut models, |model| model.outage.is_some()).await;
        assert!(model.breakers[&id].snapshot.is_some(), "what was known is still shown");
        store.set_reachable(true);
        until(&mut models, |model| model.outage.is_none()).await;

        store.tombstone(&id, &programme("a").leader).await.unwrap();
        until(&mut models, |model| model.breakers.is_empty()).await;
        task.abort();
    }
}

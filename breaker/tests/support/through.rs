//! A store that hands on everything to another, with a test in between where decisions are made.
#![allow(unreachable_pub, missing_docs)]

use futures_util::future::BoxFuture;
use tiebar::id::ServiceId;
use tiebar::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Reply, Snapshot, Store, StoreResult, StoredConfig, Survey,
    Written,
};
use tokio::sync::broadcast;

/// What a test does in between.
pub trait Between: Send + Sync + 'static {
    /// Who answers.
    fn behind(&self) -> &dyn Store;
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>>;
}

pub struct Through<B>(pub B);

impl<B: Between> Store for Through<B> {
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        self.0.exchange(id, request)
    }
    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        self.0.behind().configure(id, programme)
    }
    fn tombstone<'a>(&'a self, id: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        self.0.behind().tombstone(id, leader)
    }
    fn reset<'a>(&'a self, id: &'a ServiceId, by: &'a Leader, text: &'a str) -> BoxFuture<'a, StoreResult<Written>> {
        self.0.behind().reset(id, by, text)
    }
    fn config<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        self.0.behind().config(id)
    }
    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        self.0.behind().snapshot(id)
    }
    fn events<'a>(&'a self, id: &'a ServiceId, count: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        self.0.behind().events(id, count)
    }
    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        self.0.behind().beat(beats)
    }
    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.0.behind().goodbye(ids, instance)
    }
    fn instances<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
        self.0.behind().instances(id)
    }
    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        self.0.behind().survey(ids)
    }
    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>> {
        self.0.behind().ids()
    }
    fn now(&self) -> BoxFuture<'_, StoreResult<u64>> {
        self.0.behind().now()
    }
    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.0.behind().subscribe()
    }
}

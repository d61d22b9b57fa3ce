//! The store behind a bad network: requests and replies are lost, delayed, reordered and doubled, links are cut, the
//! store forgets, falls back in time or jumps its clock. Every decision it makes is handed to [`Evidence`].

use crate::evidence::{Before, Evidence};
use fastrand::Rng;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::machine::{self, Core, Effects, Row};
use tiebar::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Reply, Snapshot, Store, StoreError, StoreResult,
    StoredConfig, Survey, Written,
};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};

/// What a real client waits for a reply.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Decisions that a failover may lose.
const ROLLBACK: usize = 32;
/// The store's clock at the start of every run.
const EPOCH: u64 = 1_764_000_000_000;

/// How often things go wrong, in parts of a thousand of all requests or announcements.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost_request: u32,
    pub(crate) lost_reply: u32,
    /// Carried out after its sender has given up, possibly after later requests.
    pub(crate) late: u32,
    pub(crate) doubled: u32,
    /// A reply takes up to nearly the timeout.
    pub(crate) slow: u32,
    pub(crate) lost_announcement: u32,
    pub(crate) late_announcement: u32,
}

struct World {
    row: Row,
    past: VecDeque<Row>,
    /// Only then is the past kept: copying a row at every decision is half of a run's time.
    falls_back: bool,
    beats: BTreeMap<String, Beat>,
    rng: Rng,
    faults: Faults,
    /// The store's clock minus simulated time, milliseconds.
    skew: i64,
    down: bool,
    cut: Vec<bool>,
    evidence: Evidence,
}

/// The store and its network.
pub(crate) struct Net {
    pub(crate) id: ServiceId,
    start: Instant,
    world: Mutex<World>,
    links: Vec<broadcast::Sender<Announcement>>,
}

enum Fate {
    Unreachable,
    LostRequest,
    LostReply(Duration),
    Late(Duration),
    Served {
        before: Duration,
        after: Duration,
        doubled: bool,
    },
}

impl Net {
    /// A network with links numbered from 0, to a store that may fall back in time.
    pub(crate) fn new(seed: u64, links: usize, falls_back: bool) -> Arc<Self> {
        Arc::new(Self {
            id: ServiceId::parse("shop/inventory").unwrap(),
            start: Instant::now(),
            world: Mutex::new(World {
                row: Row::default(),
                past: VecDeque::new(),
                falls_back,
                beats: BTreeMap::new(),
                rng: Rng::with_seed(seed ^ 0x5EED),
                faults: Faults::default(),
                skew: 0,
                down: false,
                cut: vec![false; links],
                evidence: Evidence::default(),
            }),
            links: (0..links).map(|_| broadcast::channel(1_024).0).collect(),
        })
    }

    /// One end of the network.
    pub(crate) fn link(self: &Arc<Self>, who: usize) -> Arc<Link> {
        Arc::new(Link {
            net: Arc::clone(self),
            who,
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn now(&self, world: &World) -> u64 {
        (EPOCH + self.start.elapsed().as_millis() as u64).saturating_add_signed(world.skew)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.world().down = down;
        if !down {
            self.gap();
        }
    }

    pub(crate) fn set_cut(&self, who: usize, cut: bool) {
        self.world().cut[who] = cut;
        if !cut {
            let _ = self.links[who].send(Announcement::Gap);
        }
    }

    /// Everything works from now on; what was lost stays lost.
    pub(crate) fn heal(&self) {
        {
            let mut world = self.world();
            world.faults = Faults::default();
            world.down = false;
            world.cut.fill(false);
        }
        self.gap();
    }

    fn gap(&self) {
        for link in &self.links {
            let _ = link.send(Announcement::Gap);
        }
    }

    /// FLUSHALL, or the eviction of the state alone.
    pub(crate) fn wipe(&self, config_too: bool) {
        let mut world = self.world();
        world.row.data = None;
        world.row.events.clear();
        world.past.clear();
        if config_too {
            world.row.config = None;
        }
        world.evidence.forgot();
    }

    /// A failover to a replica that lacks the last decisions.
    pub(crate) fn roll_back(&self, decisions: usize) {
        let mut world = self.world();
        for _ in 0..decisions {
            if let Some(row) = world.past.pop_back() {
                world.row = row;
            }
        }
        world.evidence.forgot();
    }

    pub(crate) fn jump(&self, ms: i64) {
        self.world().skew += ms;
    }

    pub(crate) fn row(&self) -> Row {
        self.world().row.clone()
    }

    /// Looks at what is stored, at the breaker's own clock as of now.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Option<&Core>, u64) -> T) -> T {
        let world = self.world();
        let now = self.now(&world);
        let core = world.row.data.as_ref().map(|data| &data.core);
        look(core, core.map_or(now, |core| core.clock.max(now + core.offset)))
    }

    /// The breaker's own clock, as of now.
    pub(crate) fn clock(&self) -> u64 {
        self.look(|_, clock| clock)
    }

    /// A guard let a probe through.
    pub(crate) fn probed(&self, generation: u64) {
        let world = &mut *self.world();
        world.evidence.probed(generation, &world.row);
    }

    pub(crate) fn evidence<T>(&self, work: impl FnOnce(&mut Evidence) -> T) -> T {
        work(&mut self.world().evidence)
    }

    fn fate(&self, who: usize) -> Fate {
        let mut world = self.world();
        if world.down || world.cut[who] {
            return Fate::Unreachable;
        }
        let faults = world.faults;
        let rng = &mut world.rng;
        let brief = |rng: &mut Rng| Duration::from_micros(rng.u64(100..1_500));
        let mut dice = rng.u32(0..1_000);
        let mut falls = |share: u32| {
            let hit = dice < share;
            dice = if hit { u32::MAX } else { dice - share };
            hit
        };
        if falls(faults.lost_request) {
            Fate::LostRequest
        } else if falls(faults.lost_reply) {
            Fate::LostReply(brief(rng))
        } else if falls(faults.late) {
            Fate::Late(Duration::from_millis(rng.u64(201..4_000)))
        } else {
            let doubled = falls(faults.doubled);
            let after = if falls(faults.slow) {
                Duration::from_millis(rng.u64(20..190))
            } else {
                brief(rng)
            };
            Fate::Served {
                before: brief(rng),
                after,
                doubled,
            }
        }
    }

    fn decide(self: &Arc<Self>, request: &Exchange) -> Reply {
        let (reply, effects) = {
            let world = &mut *self.world();
            let now = self.now(world);
            let before = world.begin();
            let (reply, effects) = machine::exchange(&mut world.row, &self.id, request, now);
            world.evidence.decided(&before, &world.row, request, &reply);
            (reply, effects)
        };
        self.announce_all(effects);
        reply
    }

    /// A decision of the operator's.
    fn write(self: &Arc<Self>, work: impl FnOnce(&mut Row, u64) -> (Written, Effects)) -> Written {
        let (written, effects) = {
            let world = &mut *self.world();
            let now = self.now(world);
            let before = world.begin();
            let (written, effects) = work(&mut world.row, now);
            world.evidence.written(&before, &world.row);
            (written, effects)
        };
        self.announce_all(effects);
        if matches!(written, Written::Changed(_)) {
            self.announce(&Announcement::Revision(self.id.clone()));
        }
        written
    }

    fn announce_all(self: &Arc<Self>, effects: Effects) {
        for view in effects.views {
            self.announce(&Announcement::Transition(self.id.clone(), view));
        }
    }

    fn announce(self: &Arc<Self>, news: &Announcement) {
        for who in 0..self.links.len() {
            let delay = {
                let mut world = self.world();
                let faults = world.faults;
                let dice = world.rng.u32(0..1_000);
                if world.down || world.cut[who] || dice < faults.lost_announcement {
                    continue;
                }
                let late = dice < faults.lost_announcement + faults.late_announcement;
                world.rng.u64(if late { 10_000..2_000_000 } else { 50..1_000 })
            };
            let (net, news) = (Arc::clone(self), news.clone());
            tokio::spawn(async move {
                sleep(Duration::from_micros(delay)).await;
                if !net.world().cut[who] {
                    let _ = net.links[who].send(news);
                }
            });
        }
    }
}

impl World {
    /// Before a decision: what it will be compared with.
    fn begin(&mut self) -> Before {
        if self.falls_back {
            self.past.push_back(self.row.clone());
            if self.past.len() > ROLLBACK {
                self.past.pop_front();
            }
        }
        Before {
            data: self.row.data.clone(),
            last_event: self.row.events.back().map(|event| event.generation),
        }
    }
}

/// One client's way to the store.
pub(crate) struct Link {
    net: Arc<Net>,
    who: usize,
}

impl Link {
    /// Carries a request through the network.
    fn carry<'a, T: Send + 'static>(
        &'a self,
        work: impl Fn(&Arc<Net>) -> T + Send + Sync + 'static,
    ) -> BoxFuture<'a, StoreResult<T>> {
        async move {
            let timed_out = || StoreError::TimedOut(TIMEOUT.as_millis() as u64);
            match self.net.fate(self.who) {
                Fate::Unreachable => {
                    sleep(Duration::from_millis(5)).await;
                    Err(StoreError::Unreachable("cut off".to_owned()))
                }
                Fate::LostRequest => {
                    sleep(TIMEOUT).await;
                    Err(timed_out())
                }
                Fate::LostReply(before) => {
                    sleep(before).await;
                    drop(work(&self.net));
                    sleep(TIMEOUT - before).await;
                    Err(timed_out())
                }
                Fate::Late(after) => {
                    let net = Arc::clone(&self.net);
                    tokio::spawn(async move {
                        sleep(after).await;
                        drop(work(&net));
                    });
                    sleep(TIMEOUT).await;
                    Err(timed_out())
                }
                Fate::Served { before, after, doubled } => {
                    sleep(before).await;
                    let reply = work(&self.net);
                    if doubled {
                        drop(work(&self.net));
                    }
                    sleep(after).await;
                    Ok(reply)
                }
            }
        }
        .boxed()
    }
}

impl Store for Link {
    fn exchange<'a>(&'a self, _: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        let request = request.clone();
        self.carry(move |net| net.decide(&request))
    }

    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        let (id, programme) = (id.clone(), programme.clone());
        self.carry(move |net| net.write(|row, now| machine::configure(row, &id, &programme, now)))
    }

    fn tombstone<'a>(&'a self, _: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        let leader = leader.clone();
        self.carry(move |net| net.write(|row, now| (machine::tombstone(row, &leader, now), Effects::default())))
    }

    fn reset<'a>(
        &'a self,
        id: &'a ServiceId,
        leader: &'a Leader,
        request: &'a str,
    ) -> BoxFuture<'a, StoreResult<Written>> {
        let (id, leader, request) = (id.clone(), leader.clone(), request.to_owned());
        self.carry(move |net| net.write(|row, now| machine::reset(row, &id, &leader, &request, now)))
    }

    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        let beats = beats.to_vec();
        self.carry(move |net| {
            let mut world = net.world();
            for (_, beat) in &beats {
                world.beats.insert(beat.instance.clone(), beat.clone());
            }
        })
    }

    fn goodbye<'a>(&'a self, _: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let instance = instance.to_owned();
        self.carry(move |net| {
            net.world().beats.remove(&instance);
        })
    }

    fn instances<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
        self.carry(|net| net.world().beats.values().cloned().collect())
    }

    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.net.links[self.who].subscribe()
    }

    // What neither guard nor this operator asks.
    fn config<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        unreachable!()
    }
    fn snapshot<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        unreachable!()
    }
    fn events<'a>(&'a self, _: &'a ServiceId, _: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        unreachable!()
    }
    fn survey<'a>(&'a self, _: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        unreachable!()
    }
    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>> {
        unreachable!()
    }
    fn now(&self) -> BoxFuture<'_, StoreResult<u64>> {
        unreachable!()
    }
}

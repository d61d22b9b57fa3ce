//! Histories of concurrent guards against a real redis-server, with killed clients and cut connections, checked by
//! replaying every decision through the machine in the order of the script's sequence numbers: each reply must be the
//! machine's own, and so must the stored state at the end.
//!
//! A request without a reply may or may not have been carried out; wherever the numbers leave a gap, one of those must
//! fit, and the replies that follow say whether it did.

mod support;
#[path = "support/through.rs"]
mod through;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::AsyncCommands as _;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::RedisServer;
use through::{Between, Through};
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::machine::{self, Row};
use tiebar::policy::{Policy, Window};
use tiebar::redis::{RedisSettings, RedisStore, SCRIPT, codec};
use tiebar::state::Cause;
use tiebar::store::{Exchange, Leader, Programme, Reply, Status, Store, StoreResult};
use tokio::time::Instant;

/// Kills and cuts per history.
const MISFORTUNES: usize = 40;
/// Calls between two of them.
const CALLS: u64 = 150;

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// One request: when it was sent, by the sender's clock, which the script took for its own, and its reply, if one came.
#[derive(Clone)]
struct Entry {
    at: u64,
    request: Exchange,
    reply: Option<Reply>,
}

type Log = Arc<Mutex<Vec<Entry>>>;

/// A client's store that notes what passes through it.
struct Recorded {
    store: RedisStore,
    at: Arc<AtomicU64>,
    log: Log,
}

impl Recorded {
    fn new(url: &str, script: &str, log: &Log) -> Through<Self> {
        let at = Arc::new(AtomicU64::new(clock()));
        let read = Arc::clone(&at);
        let clock: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(move || read.load(Ordering::SeqCst));
        Through(Self {
            store: RedisStore::with_script(RedisSettings::new(url), script, Some(clock)).unwrap(),
            at,
            log: Arc::clone(log),
        })
    }
}

impl Between for Recorded {
    fn behind(&self) -> &dyn Store {
        &self.store
    }

    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        async move {
            // One exchange is in flight per guard, so this is the time the script will be given.
            let at = clock();
            self.at.store(at, Ordering::SeqCst);
            let entry = Entry {
                at,
                request: request.clone(),
                reply: None,
            };
            let place = {
                let mut log = self.log.lock().unwrap();
                log.push(entry);
                log.len() - 1
            };
            let reply = self.store.exchange(id, request).await?;
            self.log.lock().unwrap()[place].reply = Some(reply.clone());
            Ok(reply)
        }
        .boxed()
    }
}

/// The history, sorted for replay.
struct History {
    id: ServiceId,
    /// Answered requests by sequence number.
    answered: BTreeMap<u64, Entry>,
    /// Requests that may have been carried out.
    unknown: Vec<Entry>,
}

impl History {
    fn new(id: ServiceId, log: Vec<Entry>) -> Self {
        let (mut answered, mut unknown) = (BTreeMap::new(), Vec::new());
        for entry in log {
            match &entry.reply {
                Some(reply) if reply.status == Status::Ok => {
                    let seq = reply.view.as_ref().unwrap().seq;
                    assert!(answered.insert(seq, entry).is_none(), "two decisions numbered {seq}");
                }
                // Nothing was decided.
                Some(_) => {}
                None => unknown.push(entry),
            }
        }
        Self { id, answered, unknown }
    }

    /// Replays from `row` up to the state of `last`; the error is the furthest disagreement.
    fn replay(&self, row: &Row, last: u64, stored: &Row) -> Result<usize, (u64, String)> {
        self.follow(row.clone(), 1, last, stored, &mut vec![false; self.unknown.len()])
    }

    fn follow(
        &self,
        mut row: Row,
        mut seq: u64,
        last: u64,
        stored: &Row,
        used: &mut Vec<bool>,
    ) -> Result<usize, (u64, String)> {
        while seq <= last {
            let Some(entry) = self.answered.get(&seq) else {
                return self.fill(&row, seq, last, stored, used);
            };
            let (reply, _) = machine::exchange(&mut row, &self.id, &entry.request, entry.at);
            if Some(&reply) != entry.reply.as_ref() {
                let told = format!("machine {reply:?}\n  redis {:?}\nto {:?}", entry.reply, entry.request);
                return Err((seq, told));
            }
            seq += 1;
        }
        if row.data != stored.data || row.events != stored.events {
            let told = format!("stored at the end\nmachine {:?}\n  redis {:?}", row.data, stored.data);
            return Err((last, told));
        }
        Ok(used.iter().filter(|used| **used).count())
    }

    /// The decision numbered `seq` has no reply: whose was it?
    fn fill(&self, row: &Row, seq: u64, last: u64, stored: &Row, used: &mut Vec<bool>) -> Result<usize, (u64, String)> {
        let mut furthest = (seq, format!("decision {seq} is nobody's"));
        for index in 0..self.unknown.len() {
            if used[index] {
                continue;
            }
            let mut next = row.clone();
            let entry = &self.unknown[index];
            let (reply, _) = machine::exchange(&mut next, &self.id, &entry.request, entry.at);
            if reply.view.is_none_or(|view| view.seq != seq) {
                continue;
            }
            used[index] = true;
            match self.follow(next, seq + 1, last, stored, used) {
                Ok(fitted) => return Ok(fitted),
                Err(disagreement) if disagreement.0 >= furthest.0 => furthest = disagreement,
                Err(_) => {}
            }
            used[index] = false;
        }
        Err(furthest)
    }
}

/// Calls, with a failing share that comes and goes, until told to stop by being aborted.
async fn call_on(guard: Guard, failing: Arc<AtomicU64>, calls: Arc<AtomicU64>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        if let Ok(permit) = guard.acquire().await {
            tokio::time::sleep(Duration::from_micros(rng.u64(0..2_000))).await;
            if rng.u64(0..100) < failing.load(Ordering::Relaxed) {
                permit.record(Verdict::Failure(Cause::Http(503)));
            } else {
                permit.record(Verdict::Success);
            }
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// A process: its guards, and the calls it makes. Dropping it is kill -9.
struct Process {
    breakers: Breakers,
    callers: Vec<tokio::task::AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        for caller in &self.callers {
            caller.abort();
        }
    }
}

/// Holds the server's replies back until a request is under way, and says whose: killed now, it leaves a decision
/// that nobody hears of.
async fn in_flight(connection: &mut redis::aio::MultiplexedConnection, log: &Log) -> usize {
    let sent = log.lock().unwrap().len();
    let _: () = redis::cmd("CLIENT")
        .arg(&["PAUSE", "100", "ALL"])
        .query_async(connection)
        .await
        .unwrap();
    let bound = Instant::now() + Duration::from_secs(30);
    loop {
        let name = log.lock().unwrap()[sent..]
            .iter()
            .find(|entry| entry.reply.is_none())
            .map(|entry| entry.request.instance.clone());
        if let Some(name) = name {
            return name.trim_start_matches('i').parse().unwrap();
        }
        assert!(Instant::now() < bound, "no instance speaks any more");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

async fn stored(connection: &mut redis::aio::MultiplexedConnection) -> Row {
    let data: HashMap<String, Vec<u8>> = connection.hgetall("cb:shop/inventory:data").await.unwrap();
    let entries: Vec<(String, HashMap<String, String>)> = redis::cmd("XRANGE")
        .arg(&["cb:shop/inventory:events", "-", "+"])
        .query_async(connection)
        .await
        .unwrap();
    Row {
        data: codec::data(&data).unwrap(),
        events: entries
            .iter()
            .map(|(_, fields)| codec::event(fields).unwrap())
            .collect(),
        ..Row::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_the_machine_s() {
    let server = RedisServer::start().await;
    let id = ServiceId::parse("shop/inventory").unwrap();
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let log = Log::default();

    // Programmed once, on both sides, at one instant.
    let operator = Recorded::new(&server.url(), SCRIPT, &log);
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy {
            consecutive_failures: 20,
            failure_rate_bp: 5_000,
            minimum_calls: 20,
            minimum_instances: 2,
            window: Window::Count(60),
            open_ms: 100,
            open_max_ms: 100,
            jitter_percent: 20,
            permitted_calls: 4,
            half_open_ms: 1_000,
            call_timeout_ms: 50,
            ..Policy::default()
        },
        forced: None,
    };
    let at = clock();
    operator.0.at.store(at, Ordering::SeqCst);
    operator.configure(&id, &programme).await.unwrap();
    let mut row = Row::default();
    let _ = machine::configure(&mut row, &id, &programme, at);

    let (failing, calls) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut starts = 0;
    // Half of the fleet is a release ahead, by a script of the same layout.
    let upgraded = format!("{SCRIPT}\n-- The next release.\n");
    let mut start = |who: usize| {
        starts += 1;
        let script = if who.is_multiple_of(2) { SCRIPT } else { &upgraded };
        let store = Arc::new(Recorded::new(&server.url(), script, &log));
        let breakers = Breakers::new(store, Settings::new(&format!("i{who}")));
        let guard = breakers.guard(&id, None);
        let callers = (0..3)
            .map(|n| {
                let seed = starts * 10 + n;
                tokio::spawn(call_on(guard.clone(), Arc::clone(&failing), Arc::clone(&calls), seed)).abort_handle()
            })
            .collect();
        Process { breakers, callers }
    };
    let mut processes: Vec<Process> = (0..4).map(&mut start).collect();
    // The first state is seeded after two seconds of silence.
    let bound = Instant::now() + Duration::from_secs(10);
    while !log
        .lock()
        .unwrap()
        .iter()
        .any(|entry| entry.reply.as_ref().is_some_and(|reply| reply.view.is_some()))
    {
        assert!(Instant::now() < bound, "nobody seeded a state");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut rng = fastrand::Rng::with_seed(17);
    let (mut kills, mut cuts) = (0, 0);
    for _ in 0..MISFORTUNES {
        failing.store([0, 0, 30, 100][rng.usize(0..4)], Ordering::Relaxed);
        let until = calls.load(Ordering::Relaxed) + CALLS;
        let bound = Instant::now() + Duration::from_secs(30);
        while calls.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < bound, "the calls stand still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if rng.bool() {
            kills += 1;
            let who = in_flight(&mut connection, &log).await;
            processes[who] = start(who);
        } else {
            cuts += 1;
            let _: i64 = redis::cmd("CLIENT")
                .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
                .query_async(&mut connection)
                .await
                .unwrap();
        }
    }
    for process in &mut processes {
        for caller in &process.callers {
            caller.abort();
        }
        process.breakers.shutdown(Duration::from_secs(5)).await;
    }
    drop(processes);

    let stored = stored(&mut connection).await;
    let last = stored.data.as_ref().expect("a stored state").core.seq;
    let history = History::new(id, log.lock().unwrap().clone());
    let (answered, unknown) = (history.answered.len(), history.unknown.len());
    match history.replay(&row, last, &stored) {
        Ok(fitted) => println!(
            "{last} decisions, {answered} answered; {kills} kills and {cuts} cuts left {unknown} unanswered, of which \
             {fitted} had been carried out; {} transitions",
            stored.data.as_ref().map_or(0, |data| data.core.transitions)
        ),
        Err((seq, told)) => panic!("decision {seq} of {last}: {told}"),
    }
    assert!(
        unknown > 0,
        "no request was ever left without a reply: the misfortunes miss"
    );
}

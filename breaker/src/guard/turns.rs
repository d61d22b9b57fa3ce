//! The recorder rests. In each state that may govern, it wakes and speaks so often a second and no more, whether calls
//! come or not.
//!
//! Time is simulated and a store answers in no time at all, so a ring – a wake-up that causes itself, an answer that
//! makes one ask again – does not slow anything down but stands still: it ends at [`LIMIT`] instead.

use super::inner::Inner;
use super::lanes::Lanes;
use super::recorder::Recorder;
use super::{Guard, Settings, Verdict};
use crate::id::ServiceId;
use crate::machine::{self, Row};
use crate::policy::{Config, Mode, Policy, StoreFailurePolicy, Window};
use crate::state::{Cause, Kind, State};
use crate::store::{
    Acquire, Announcement, Batch, Beat, Event, Exchange, Leader, Outcome, Programme, Reply, Snapshot, Status, Store,
    StoreError, StoreResult, StoredConfig, Survey, Written,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};

/// Wake-ups or exchanges in a whole run; what needs more never rests.
const LIMIT: u64 = 100_000;
/// Measured, after as long for the state to come about.
const MEASURED: Duration = Duration::from_secs(10);
const EPOCH: u64 = 1_764_000_000_000;

type Answer = Box<dyn Fn(&mut Row, &Exchange, u64) -> StoreResult<Reply> + Send + Sync>;

/// A store that answers what a test says, at once.
struct Scripted {
    answer: Answer,
    row: Mutex<Row>,
    start: Instant,
    exchanges: AtomicU64,
    news: broadcast::Sender<Announcement>,
    deaf: bool,
}

impl Store for Scripted {
    fn exchange<'a>(&'a self, _: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        async move {
            let exchanges = self.exchanges.fetch_add(1, Ordering::Relaxed);
            assert!(exchanges < LIMIT, "a ring of exchanges: {request:?}");
            let now = EPOCH + self.start.elapsed().as_millis() as u64;
            (self.answer)(&mut self.row.lock().unwrap(), request, now)
        }
        .boxed()
    }
    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        if self.deaf {
            broadcast::channel(1).1
        } else {
            self.news.subscribe()
        }
    }
    // What a recorder never asks.
    fn configure<'a>(&'a self, _: &'a ServiceId, _: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        unreachable!()
    }
    fn tombstone<'a>(&'a self, _: &'a ServiceId, _: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        unreachable!()
    }
    fn reset<'a>(&'a self, _: &'a ServiceId, _: &'a Leader, _: &'a str) -> BoxFuture<'a, StoreResult<Written>> {
        unreachable!()
    }
    fn config<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        unreachable!()
    }
    fn snapshot<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        unreachable!()
    }
    fn events<'a>(&'a self, _: &'a ServiceId, _: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        unreachable!()
    }
    fn beat<'a>(&'a self, _: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        unreachable!()
    }
    fn goodbye<'a>(&'a self, _: &'a [ServiceId], _: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        unreachable!()
    }
    fn instances<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
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

fn id() -> ServiceId {
    ServiceId::parse("shop/inventory").unwrap()
}

/// What one second was like.
#[derive(Debug)]
struct Rest {
    calls: u64,
    rejected: u64,
    wakes: u64,
    exchanges: u64,
}

/// One state to be in.
struct Case {
    policy: Policy,
    verdict: Verdict,
    /// Three callers, each a call every ten milliseconds.
    busy: bool,
    deaf: bool,
    /// After how long it is measured.
    warm: Duration,
}

impl Case {
    fn new(policy: Policy, verdict: Verdict) -> Self {
        Self {
            policy,
            verdict,
            busy: true,
            deaf: false,
            warm: MEASURED,
        }
    }

    fn idle(self) -> Self {
        Self { busy: false, ..self }
    }

    /// Runs, then looks at the guard and says how it rested.
    async fn run(
        self,
        name: &str,
        answer: impl Fn(&mut Row, &Exchange, u64) -> StoreResult<Reply> + Send + Sync + 'static,
    ) -> (Guard, Rest) {
        let store = Arc::new(Scripted {
            answer: Box::new(answer),
            row: Mutex::default(),
            start: Instant::now(),
            exchanges: AtomicU64::new(0),
            news: broadcast::channel(16).0,
            deaf: self.deaf,
        });
        let (inner, waiters) = Inner::new(id());
        let inner = Arc::new(Lanes::new(inner));
        let mut recorder = Box::pin(
            Recorder::new(
                inner.first().clone(),
                Arc::clone(&store) as _,
                Settings::new("i0"),
                Arc::default(),
                waiters,
                Arc::default(),
                watch::channel(false).0,
                Some(Config::local(self.policy)),
            )
            .run(),
        );
        let guard = Guard { inner };
        let wakes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&wakes);
        let recorder = tokio::spawn(std::future::poll_fn(move |context| {
            assert!(counter.fetch_add(1, Ordering::Relaxed) < LIMIT, "a ring of wake-ups");
            recorder.as_mut().poll(context)
        }));
        let (calls, rejected) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let callers = if self.busy { 3 } else { 0 };
        for _ in 0..callers {
            let (guard, verdict) = (guard.clone(), self.verdict);
            let (calls, rejected) = (Arc::clone(&calls), Arc::clone(&rejected));
            tokio::spawn(async move {
                loop {
                    sleep(Duration::from_millis(10)).await;
                    calls.fetch_add(1, Ordering::Relaxed);
                    match guard.acquire().await {
                        Ok(permit) => {
                            permit.record(verdict);
                        }
                        Err(_) => {
                            rejected.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let read = || {
            let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            [of(&calls), of(&rejected), of(&wakes), of(&store.exchanges)]
        };
        sleep(self.warm).await;
        let before = read();
        sleep(MEASURED).await;
        let after = read();
        let [calls, rejected, wakes, exchanges]: [u64; 4] =
            std::array::from_fn(|n| (after[n] - before[n]).div_ceil(MEASURED.as_secs()));
        let rest = Rest {
            calls,
            rejected,
            wakes,
            exchanges,
        };
        println!("{name}: {rest:?} a second");
        assert!(!recorder.is_finished(), "{name}: the recorder ended");
        // A call is two events, its admission and its end; each may wake the recorder and make it speak. It may be told
        // to look again.
        assert!(wakes <= 3 * calls + 50, "{name}: {rest:?}");
        assert!(exchanges <= 3 * calls + 8, "{name}: {rest:?}");
        (guard, rest)
    }
}

const FAILURE: Verdict = Verdict::Failure(Cause::Http(503));

fn policy() -> Policy {
    Policy {
        consecutive_failures: 5,
        failure_rate_bp: 0,
        minimum_instances: 1,
        window: Window::Time(10_000),
        open_ms: 1_000,
        permitted_calls: 1,
        half_open_ms: 3_600_000,
        ..Policy::default()
    }
}

fn decide(row: &mut Row, request: &Exchange, now: u64) -> Reply {
    machine::exchange(row, &id(), request, now).0
}

/// Another instance asks something first.
fn other(row: &mut Row, request: &Exchange, now: u64, asked: Exchange) {
    let asked = Exchange {
        instance: "other".to_owned(),
        boot: "other".to_owned(),
        carried: request.carried.clone(),
        ..asked
    };
    decide(row, &asked, now);
}

#[tokio::test(start_paused = true)]
async fn shared() {
    let answer = |row: &mut Row, request: &Exchange, now| Ok(decide(row, request, now));
    let (_, rest) = Case::new(policy(), Verdict::Success)
        .idle()
        .run("shared, idle", answer)
        .await;
    assert!(rest.exchanges <= 2 && rest.wakes <= 4, "{rest:?}");
    Case::new(policy(), Verdict::Success).run("shared", answer).await;
    // Opens, is half-open and fails, over and over.
    Case::new(policy(), FAILURE).run("failing calls", answer).await;
    let slow = Policy {
        slow_rate_bp: 10_000,
        slow_call_ms: 1,
        ..policy()
    };
    Case::new(slow, Verdict::Success)
        .run("watched for slowness", answer)
        .await;
    for mode in [Mode::Observe, Mode::Disabled] {
        let policy = Policy { mode, ..policy() };
        Case::new(policy, FAILURE).run(&format!("{mode:?}"), answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn failing_and_fallback() {
    for store_failure in [
        StoreFailurePolicy::LocalOnly,
        StoreFailurePolicy::Allow,
        StoreFailurePolicy::Deny,
    ] {
        for status in [None, Some(Status::Newer), Some(Status::Full)] {
            let policy = Policy {
                store_failure,
                ..policy()
            };
            let answer = move |_: &mut Row, _: &Exchange, _| {
                status.map_or(Err(StoreError::TimedOut(0)), |status| Ok(Reply::empty(status, 0)))
            };
            let name = format!("{store_failure:?} after {status:?}");
            let (guard, rest) = Case::new(policy.clone(), FAILURE).run(&name, answer).await;
            assert!(guard.status().degraded, "{name}");
            assert!(rest.exchanges <= 3, "{name}: {rest:?}");
            let (_, rest) = Case::new(policy, FAILURE).idle().run(&name, answer).await;
            assert!(rest.wakes <= 30, "{name}: {rest:?}");
        }
    }
    // Before the fallback: the store fails now and then.
    let turn = AtomicU64::new(0);
    let answer = move |row: &mut Row, request: &Exchange, now| {
        if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Err(StoreError::Unreachable(String::new()));
        }
        Ok(decide(row, request, now))
    };
    Case::new(policy(), FAILURE).run("every second one fails", answer).await;
}

#[tokio::test(start_paused = true)]
async fn isolated() {
    let policy = Policy {
        consecutive_failures: 0,
        failure_rate_bp: 5_000,
        minimum_instances: 2,
        minimum_calls: 10,
        open_ms: 60_000,
        ..policy()
    };
    let number = AtomicU64::new(0);
    let answer = move |row: &mut Row, request: &Exchange, now| {
        let generation = row.data.as_ref().map_or(0, |data| data.core.generation);
        let batch = Batch {
            number: number.fetch_add(1, Ordering::Relaxed) + 1,
            generation,
            outcomes: vec![
                Outcome {
                    kind: Kind::Success,
                    cause: 0
                };
                50
            ],
            ..Batch::default()
        };
        let asked = Exchange {
            seed: true,
            batch: Some(batch),
            ..Exchange::default()
        };
        other(row, request, now, asked);
        Ok(decide(row, request, now))
    };
    let (guard, _) = Case::new(policy, FAILURE).run("isolated", answer).await;
    assert!(guard.status().isolated);
}

#[tokio::test(start_paused = true)]
async fn ramp() {
    let policy = Policy {
        ramp_ms: 3_600_000,
        ramp_initial_percent: 50,
        ..policy()
    };
    for busy in [true, false] {
        let answer = |row: &mut Row, request: &Exchange, now| {
            decide(row, request, now);
            if let Some(data) = &mut row.data {
                data.core.ramp_from = EPOCH;
            }
            Ok(decide(row, request, now))
        };
        let case = Case {
            busy,
            ..Case::new(policy.clone(), Verdict::Success)
        };
        let (guard, rest) = case.run("ramp", answer).await;
        assert_eq!(guard.status().state.as_str(), "closed");
        assert_eq!(busy, rest.rejected > 100, "{rest:?}");
        assert!(busy || rest.wakes <= 30, "{rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_refused() {
    let answer = |row: &mut Row, request: &Exchange, now| {
        if row.data.is_none() {
            let mut reply = decide(row, request, now);
            if let Some(data) = &mut row.data {
                data.core.state = State::Open;
                data.core.generation = 7;
                reply = decide(row, request, now);
            }
            return Ok(reply);
        }
        // The other one always has the only probe.
        let asked = Exchange {
            acquire: Some(Acquire { token: now, want: 1 }),
            ..Exchange::default()
        };
        other(row, request, now, asked);
        Ok(decide(row, request, now))
    };
    let (guard, rest) = Case::new(policy(), FAILURE).run("half-open, refused", answer).await;
    assert_eq!(guard.status().state.as_str(), "half_open");
    assert!(rest.rejected >= rest.calls - 1 && rest.exchanges <= 8, "{rest:?}");
}

/// Outcomes that might trip the circuit, and nothing they could be applied to.
#[tokio::test(start_paused = true)]
async fn missing() {
    for busy in [true, false] {
        let answer = |_: &mut Row, _: &Exchange, _| Ok(Reply::empty(Status::Missing, 0));
        let case = Case {
            busy,
            ..Case::new(policy(), FAILURE)
        };
        let (_, rest) = case.run("missing", answer).await;
        assert!(rest.exchanges <= 6 && rest.rejected == 0, "{rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unconfigured() {
    let answer = |_: &mut Row, _: &Exchange, _| Ok(Reply::empty(Status::Unconfigured, 0));
    let (_, rest) = Case::new(policy(), FAILURE).run("unconfigured", answer).await;
    assert!(rest.exchanges <= 2 && rest.rejected == 0, "{rest:?}");
}

/// A store that forgot and does not let itself be reminded: a lower generation is not believed, so a waiting call that
/// is told to look again finds what it found before.
#[tokio::test(start_paused = true)]
async fn a_store_that_contradicts_itself() {
    let answer = |row: &mut Row, request: &Exchange, now| {
        let told = row.events.len() > 3;
        let reminded = Exchange {
            memory: None,
            seed: true,
            ..request.clone()
        };
        let mut reply = decide(row, &reminded, now);
        if !told {
            // Before it forgot.
            let view = reply.view.as_mut().unwrap();
            (view.generation, view.state) = (1_000, State::Open);
            (view.remaining_ms, view.last_open_ms) = (1_000, 1_000);
            let first = row.events[0].clone();
            row.events.push_back(first);
        }
        Ok(reply)
    };
    let (_, rest) = Case::new(policy(), FAILURE).run("contradicted", answer).await;
    assert!(rest.rejected >= rest.calls - 1, "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_without_announcements() {
    let case = Case {
        deaf: true,
        ..Case::new(policy(), Verdict::Success).idle()
    };
    let answer = |row: &mut Row, request: &Exchange, now| Ok(decide(row, request, now));
    let (_, rest) = case.run("deaf", answer).await;
    assert!(rest.wakes <= 4, "{rest:?}");
}

//! Guards over the memory store, in paused time: what a caller sees.

#[path = "support/through.rs"]
mod through;

use futures_util::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use through::{Between, Through};
use tiebar::guard::{Breakers, Guard, RejectReason, Rejected, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::{Config, Mode, Policy, StoreFailurePolicy};
use tiebar::state::{Cause, State};
use tiebar::store::{Exchange, Leader, Programme, Reply, Store, StoreError, StoreResult};
use tokio::time::Instant;

fn id() -> ServiceId {
    ServiceId::parse("shop/inventory").unwrap()
}

/// A memory store whose clock is tokio's.
fn store() -> Arc<MemoryStore> {
    let start = Instant::now();
    Arc::new(MemoryStore::with_clock(Arc::new(move || {
        1_764_000_000_000 + start.elapsed().as_millis() as u64
    })))
}

struct Fleet {
    store: Arc<MemoryStore>,
    breakers: Vec<Breakers>,
    guards: Vec<Guard>,
}

/// `count` instances under a programmed policy, past their first resync.
async fn fleet(count: usize, policy: Policy) -> Fleet {
    let store = store();
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy,
        forced: None,
    };
    store.configure(&id(), &programme).await.unwrap();
    let breakers: Vec<Breakers> = (0..count)
        .map(|n| Breakers::new(Arc::clone(&store) as _, Settings::new(&format!("i{n}"))))
        .collect();
    let guards: Vec<Guard> = breakers.iter().map(|breakers| breakers.guard(&id(), None)).collect();
    let fleet = Fleet {
        store,
        breakers,
        guards,
    };
    fleet
        .until("a first state", || {
            fleet.guards.iter().all(|guard| guard.effective().is_some())
        })
        .await;
    // Past the two seconds of silence after which the first state is seeded.
    pass(3_000).await;
    fleet
}

impl Fleet {
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..2_000 {
            if condition() {
                return;
            }
            pass(5).await;
        }
        panic!(
            "never: {what}; {:?}",
            self.guards.iter().map(Guard::status).collect::<Vec<_>>()
        );
    }

    fn all(&self, state: State) -> bool {
        self.guards
            .iter()
            .all(|guard| guard.status().state.as_str() == state.as_str())
    }

    async fn stored(&self) -> State {
        self.store.snapshot(&id()).await.unwrap().unwrap().view.state
    }
}

/// Lets paused time pass, step by step, so that tasks run at every instant.
async fn pass(ms: u64) {
    for _ in 0..ms.div_ceil(5) {
        tokio::time::advance(Duration::from_millis(5)).await;
        tokio::task::yield_now().await;
    }
}

async fn fail(guard: &Guard) -> Result<(), Rejected> {
    guard.call(|| async {}, |()| Verdict::Failure(Cause::Http(503))).await
}

async fn succeed(guard: &Guard) -> Result<(), Rejected> {
    guard.call(|| async {}, |()| Verdict::Success).await
}

fn three_in_a_row() -> Policy {
    Policy {
        consecutive_failures: 3,
        failure_rate_bp: 0,
        minimum_instances: 1,
        open_ms: 10_000,
        permitted_calls: 3,
        ..Policy::default()
    }
}

/// Runs a future while time passes.
async fn during<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let task = tokio::spawn(future);
    while !task.is_finished() {
        pass(1).await;
    }
    task.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_trips_exactly_at_the_threshold() {
    for threshold in [1, 2, 3, 7, 20] {
        let fleet = fleet(
            1,
            Policy {
                consecutive_failures: threshold,
                ..three_in_a_row()
            },
        )
        .await;
        let guard = fleet.guards[0].clone();
        let made = during(async move {
            let mut made = 0;
            while fail(&guard).await.is_ok() {
                made += 1;
            }
            made
        })
        .await;
        assert_eq!(made, threshold);
        assert_eq!(fleet.stored().await, State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn one_trip_opens_for_all() {
    let fleet = fleet(3, three_in_a_row()).await;
    for guard in &fleet.guards {
        fail(guard).await.unwrap();
        pass(10).await;
    }
    fleet.until("all open", || fleet.all(State::Open)).await;
    for guard in &fleet.guards {
        let rejected = succeed(guard).await.unwrap_err();
        assert_eq!(rejected.reason, RejectReason::Open);
        assert!(
            rejected.retry_after_ms.is_some_and(|ms| ms <= 10_000 && ms > 9_000),
            "{rejected:?}"
        );
    }
}

async fn open(fleet: &Fleet) {
    for _ in 0..3 {
        let _ = fail(&fleet.guards[0]).await;
    }
    fleet.until("all open", || fleet.all(State::Open)).await;
}

#[tokio::test(start_paused = true)]
async fn exactly_the_permitted_probes_pass() {
    let fleet = fleet(3, three_in_a_row()).await;
    open(&fleet).await;
    pass(10_100).await;
    let (running, finish) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    let mut calls = Vec::new();
    for guard in fleet.guards.iter().cycle().take(150) {
        let (guard, running, finish) = (guard.clone(), Arc::clone(&running), Arc::clone(&finish));
        calls.push(tokio::spawn(async move {
            let call = || async move {
                let finished = finish.notified();
                running.fetch_add(1, Ordering::SeqCst);
                finished.await;
            };
            guard.call(call, |()| Verdict::Success).await
        }));
    }
    pass(500).await;
    assert_eq!(running.load(Ordering::SeqCst), 3);
    assert_eq!(calls.iter().filter(|call| !call.is_finished()).count(), 3);
    finish.notify_waiters();
    fleet.until("all closed", || fleet.all(State::Closed)).await;
    let mut blocked = 0;
    for call in calls {
        blocked += u32::from(call.await.unwrap().is_err());
    }
    assert_eq!(blocked, 147);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_frees_its_slot() {
    let fleet = fleet(
        2,
        Policy {
            permitted_calls: 1,
            ..three_in_a_row()
        },
    )
    .await;
    open(&fleet).await;
    pass(10_100).await;
    let probing = fleet.guards[0].clone();
    let permit = during(async move { probing.acquire().await.unwrap() }).await;
    assert_eq!(permit.presented().as_str(), "half_open");
    let other = fleet.guards[1].clone();
    let refused = during(async move { succeed(&other).await.unwrap_err() }).await;
    assert_eq!(refused.reason, RejectReason::ProbeLimit);
    drop(permit);
    pass(1_000).await;
    let other = fleet.guards[1].clone();
    during(async move { succeed(&other).await.unwrap() }).await;
    fleet.until("closed", || fleet.all(State::Closed)).await;
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_never_answers_wedges_nothing() {
    let fleet = fleet(
        2,
        Policy {
            permitted_calls: 1,
            ..three_in_a_row()
        },
    )
    .await;
    open(&fleet).await;
    pass(10_100).await;
    let probing = fleet.guards[0].clone();
    std::mem::forget(during(async move { probing.acquire().await.unwrap() }).await);
    pass(10_600).await;
    let other = fleet.guards[1].clone();
    during(async move { succeed(&other).await.unwrap() }).await;
    fleet.until("closed", || fleet.all(State::Closed)).await;
}

#[tokio::test(start_paused = true)]
async fn losing_the_store_s_memory_does_not_close() {
    let fleet = fleet(3, three_in_a_row()).await;
    open(&fleet).await;
    fleet.store.wipe();
    pass(2_000).await;
    assert_eq!(fleet.stored().await, State::Open);
    assert!(fleet.all(State::Open));
    let left = fleet.store.snapshot(&id()).await.unwrap().unwrap().view.remaining_ms;
    assert!((7_000..8_500).contains(&left), "{left} ms left of 10 s, 2 s on");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_each_goes_on_alone_and_comes_back() {
    let fleet = fleet(2, three_in_a_row()).await;
    fleet.store.set_reachable(false);
    fleet
        .until("fallback", || fleet.guards.iter().all(|guard| guard.status().degraded))
        .await;
    for _ in 0..3 {
        fail(&fleet.guards[0]).await.unwrap();
        pass(10).await;
    }
    assert_eq!(succeed(&fleet.guards[0]).await.unwrap_err().reason, RejectReason::Open);
    succeed(&fleet.guards[1]).await.unwrap();
    fleet.store.set_reachable(true);
    fleet
        .until("no fallback", || {
            fleet.guards.iter().all(|guard| !guard.status().degraded)
        })
        .await;
    // What it found out alone stays its own.
    assert_eq!(
        succeed(&fleet.guards[0]).await.unwrap_err().reason,
        RejectReason::Isolated
    );
    assert_eq!(fleet.stored().await, State::Closed);
    pass(10_500).await;
    for _ in 0..3 {
        let guard = fleet.guards[0].clone();
        during(async move { succeed(&guard).await.unwrap() }).await;
    }
    fleet
        .until("closed again", || {
            !fleet.guards[0].status().isolated && fleet.all(State::Closed)
        })
        .await;
}

/// A store whose decisions take their time.
struct Hanging {
    store: Arc<MemoryStore>,
    /// As long as a connection that hangs while it is made.
    hangs: AtomicBool,
    /// So many milliseconds.
    late: AtomicU64,
}

impl Hanging {
    fn new(store: Arc<MemoryStore>) -> Arc<Through<Self>> {
        Arc::new(Through(Self {
            store,
            hangs: AtomicBool::new(false),
            late: AtomicU64::new(0),
        }))
    }
}

/// Longer than the patience of a second by more than a tick.
const HANG: Duration = Duration::from_millis(2_200);

impl Between for Hanging {
    fn behind(&self) -> &dyn Store {
        &*self.store
    }

    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        Box::pin(async move {
            if self.hangs.load(Ordering::SeqCst) {
                tokio::time::sleep(HANG).await;
                return Err(StoreError::Unreachable("it hangs".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(self.late.load(Ordering::SeqCst))).await;
            self.store.exchange(id, request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_up_neither_the_fallback_nor_what_is_decided_in_it() {
    let store = Hanging::new(fleet(1, three_in_a_row()).await.store);
    let breakers = Breakers::new(Arc::clone(&store) as _, Settings::new("hung"));
    let guard = breakers.guard(&id(), None);
    pass(3_000).await;
    succeed(&guard).await.unwrap();
    store.0.hangs.store(true, Ordering::SeqCst);
    let took = async |what: &str, condition: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !condition() {
            assert!(since.elapsed() < 2 * HANG, "never: {what}; {:?}", guard.status());
            pass(5).await;
        }
        since.elapsed().as_millis()
    };

    // The next question is a resync's, at most two seconds and a half from now.
    fail(&guard).await.unwrap();
    let fallback = took("fallback", &|| guard.status().degraded).await;
    assert!(fallback <= 1_100, "fallback after {fallback} ms");
    for _ in 0..3 {
        // Its own trip is seen by a caller that does not wait for the store.
        fail(&guard).await.unwrap();
    }
    let trip = took("a trip alone", &|| guard.status().state.as_str() == "open").await;
    assert!(trip <= 10, "open {trip} ms after the third failure");
    pass(10_100).await;
    for _ in 0..3 {
        let (guard, since) = (guard.clone(), Instant::now());
        during(async move { succeed(&guard).await.unwrap() }).await;
        let probe = since.elapsed().as_millis();
        assert!(probe <= 20, "a probe of its own machine waited {probe} ms");
    }
    let closed = took("closed alone", &|| guard.status().state.as_str() == "closed").await;
    assert!(closed <= 10, "closed {closed} ms after the last probe");
    store.0.hangs.store(false, Ordering::SeqCst);
    took("the store again", &|| !guard.status().degraded).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_caller_is_gone_goes_back_and_is_no_call() {
    let policy = Policy {
        permitted_calls: 1,
        ..three_in_a_row()
    };
    let other = fleet(1, policy).await;
    let store = Hanging::new(Arc::clone(&other.store));
    let breakers = Breakers::new(Arc::clone(&store) as _, Settings::new("late"));
    let guard = breakers.guard(&id(), None);
    pass(3_000).await;
    open(&other).await;
    pass(10_100).await;
    store.0.late.store(300, Ordering::SeqCst);
    let gone = guard.clone();
    let waited = during(async move { tokio::time::timeout(Duration::from_millis(100), gone.acquire()).await }).await;
    assert!(waited.is_err(), "the store answers after 300 ms");
    pass(1_000).await;
    store.0.late.store(0, Ordering::SeqCst);
    // The only lease is free again long before it would have expired.
    let prober = other.guards[0].clone();
    during(async move { succeed(&prober).await.unwrap() }).await;
    assert_eq!(guard.counters().calls, [0; 6]);
}

#[tokio::test(start_paused = true)]
async fn the_policy_says_what_happens_without_the_store() {
    for (policy, passes) in [(StoreFailurePolicy::Allow, true), (StoreFailurePolicy::Deny, false)] {
        let fleet = fleet(
            1,
            Policy {
                store_failure: policy,
                ..three_in_a_row()
            },
        )
        .await;
        fleet.store.set_reachable(false);
        fleet.until("fallback", || fleet.guards[0].status().degraded).await;
        match succeed(&fleet.guards[0]).await {
            Ok(()) => assert!(passes, "{policy:?}"),
            Err(rejected) => {
                assert!(!passes, "{policy:?}");
                assert_eq!(rejected.reason, RejectReason::Store);
            }
        }
        fleet.store.set_reachable(true);
        fleet.until("no fallback", || !fleet.guards[0].status().degraded).await;
        succeed(&fleet.guards[0]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_sick_instance_of_five_opens_alone() {
    let policy = Policy {
        minimum_calls: 10,
        minimum_instances: 2,
        open_ms: 5_000,
        ..Policy::default()
    };
    let fleet = fleet(5, policy).await;
    let mut rejected = 0;
    for _ in 0..100 {
        for (n, guard) in fleet.guards.iter().enumerate() {
            let result = if n == 0 {
                fail(guard).await
            } else {
                succeed(guard).await
            };
            match result {
                Ok(()) => {}
                Err(why) => {
                    assert_eq!((n, why.reason), (0, RejectReason::Isolated));
                    rejected += 1;
                }
            }
        }
        pass(50).await;
    }
    assert!(rejected > 20, "rejected {rejected} of 100");
    assert_eq!(fleet.stored().await, State::Closed);
    let shares = fleet.store.snapshot(&id()).await.unwrap().unwrap().instances;
    assert_eq!(
        shares
            .iter()
            .filter(|share| share.isolated)
            .map(|share| share.instance.as_str())
            .collect::<Vec<_>>(),
        ["i0"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_ramp_admits_a_growing_share() {
    let policy = Policy {
        ramp_ms: 10_000,
        ramp_initial_percent: 10,
        permitted_calls: 1,
        ..three_in_a_row()
    };
    let fleet = fleet(1, policy).await;
    open(&fleet).await;
    pass(10_100).await;
    let guard = fleet.guards[0].clone();
    during(async move { succeed(&guard).await.unwrap() }).await;
    fleet.until("closed", || fleet.all(State::Closed)).await;
    let mut shares = Vec::new();
    for _ in 0..4 {
        let mut admitted = 0;
        for _ in 0..1_000 {
            admitted += u32::from(succeed(&fleet.guards[0]).await.is_ok());
        }
        shares.push(admitted / 10);
        pass(3_000).await;
    }
    assert!((8..=14).contains(&shares[0]), "{shares:?}");
    assert!(shares.windows(2).all(|pair| pair[1] > pair[0] + 20), "{shares:?}");
    pass(1_000).await;
    for _ in 0..100 {
        succeed(&fleet.guards[0]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_outcome_is_counted_once_however_it_is_batched() {
    let policy = Policy {
        minimum_calls: 100_000,
        ..Policy::default()
    };
    let fleet = fleet(4, policy).await;
    let mut calls = Vec::new();
    for guard in &fleet.guards {
        for _ in 0..250 {
            let guard = guard.clone();
            calls.push(tokio::spawn(async move { fail(&guard).await.unwrap() }));
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    pass(2_000).await;
    let snapshot = fleet.store.snapshot(&id()).await.unwrap().unwrap();
    assert_eq!((snapshot.calls, snapshot.failing), (1_000, 1_000));
}

#[tokio::test(start_paused = true)]
async fn observing_rejects_nothing_and_says_what_it_would_have_done() {
    let fleet = fleet(
        1,
        Policy {
            mode: Mode::Observe,
            ..three_in_a_row()
        },
    )
    .await;
    for _ in 0..50 {
        fail(&fleet.guards[0]).await.unwrap();
        pass(20).await;
    }
    let snapshot = fleet.store.snapshot(&id()).await.unwrap().unwrap();
    assert_eq!(snapshot.shadow_trips, 1);
    assert!(snapshot.shadow_rejected > 20, "{}", snapshot.shadow_rejected);
    assert_eq!(fleet.guards[0].status().state.as_str(), "closed");
}

#[tokio::test(start_paused = true)]
async fn without_any_configuration_everything_passes() {
    let store = store();
    let breakers = Breakers::new(store, Settings::new("i0"));
    let guard = breakers.guard(&id(), None);
    for _ in 0..20 {
        fail(&guard).await.unwrap();
        pass(100).await;
    }
    assert_eq!(guard.status().state.as_str(), "unconfigured");
}

#[tokio::test(start_paused = true)]
async fn rules_from_code_hold_until_the_store_has_some() {
    let store = store();
    let breakers = Breakers::new(store, Settings::new("i0"));
    let guard = breakers.guard(&id(), Some(Config::local(three_in_a_row())));
    pass(3_000).await;
    let made = during(async move {
        let mut made = 0;
        while fail(&guard).await.is_ok() {
            made += 1;
        }
        made
    })
    .await;
    assert_eq!(made, 3);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_sends_what_is_recorded_and_says_goodbye() {
    let fleet = fleet(
        1,
        Policy {
            minimum_calls: 100_000,
            ..Policy::default()
        },
    )
    .await;
    fleet.until("a heartbeat", || true).await;
    for _ in 0..1_500 {
        fail(&fleet.guards[0]).await.unwrap();
    }
    let breakers = fleet.breakers[0].clone();
    during(async move { breakers.shutdown(Duration::from_secs(5)).await }).await;
    assert_eq!(fleet.store.snapshot(&id()).await.unwrap().unwrap().failing, 1_500);
    assert!(fleet.store.instances(&id()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_nobody_holds_is_swept_and_counts_on_when_made_again() {
    let policy = Policy {
        minimum_calls: 100_000,
        ..Policy::default()
    };
    let mut fleet = fleet(1, policy).await;
    fleet.until("a heartbeat", || true).await;
    let breakers = fleet.breakers[0].clone();
    let sweep = || {
        let breakers = breakers.clone();
        during(async move { breakers.sweep(Duration::from_secs(5)).await })
    };
    for _ in 0..3 {
        fail(&fleet.guards[0]).await.unwrap();
    }
    sweep().await;
    assert_eq!(breakers.guards().len(), 1, "somebody holds it");

    let permit = fleet.guards[0].acquire().await.unwrap();
    fleet.guards.clear();
    sweep().await;
    assert_eq!(breakers.guards().len(), 1, "a call is running");
    permit.record(Verdict::Failure(Cause::Http(503)));
    sweep().await;
    assert_eq!(breakers.guards().len(), 0);
    assert_eq!(
        fleet.store.snapshot(&id()).await.unwrap().unwrap().failing,
        4,
        "nothing is lost"
    );
    assert!(fleet.store.instances(&id()).await.unwrap().is_empty(), "it took leave");

    let guard = breakers.guard(&id(), None);
    pass(1_500).await;
    fail(&guard).await.unwrap();
    pass(1_500).await;
    assert_eq!(
        fleet.store.snapshot(&id()).await.unwrap().unwrap().failing,
        5,
        "its batches are not taken for those of before"
    );
}

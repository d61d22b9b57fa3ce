//! What a call costs its caller, beside breakers inside one process and beside a breaker that asks Redis at each call.

use crate::measure::{Contender, Spread, in_turns, timed};
use crate::report::Row;
use crate::support::RedisServer;
use crate::support::servers::free_port;
use failsafe::CircuitBreaker as _;
use futures_util::FutureExt as _;
use redis::aio::MultiplexedConnection;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Guard, Permit, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::Policy;
use tiebar::store::{Leader, Programme, Store as _};
use tokio::runtime::Runtime;
use tower::{Layer as _, Service as _, service_fn};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

/// Calls per turn; below what the guard's queue holds, which the recorder empties between turns.
const CALLS: u64 = 8_000;
/// Round trips per turn.
const TRIPS: u64 = 200;

fn guard(runtime: &Runtime, name: &str, policy: Policy) -> (Breakers, Guard) {
    let _inside = runtime.enter();
    let store = Arc::new(MemoryStore::new());
    let id = ServiceId::parse(name).expect("an id");
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy,
        forced: None,
    };
    runtime.block_on(store.configure(&id, &programme)).expect("configured");
    let breakers = Breakers::new(store, Settings::new("bench"));
    let guard = breakers.guard(&id, None);
    let deadline = Instant::now() + Duration::from_secs(10);
    // The first state is seeded after two seconds.
    while guard.counters().transitions.is_empty() {
        assert!(Instant::now() < deadline, "no state was seeded");
        std::thread::sleep(Duration::from_millis(10));
    }
    (breakers, guard)
}

/// A closed call: nothing in it waits, so it is ready at the first poll.
fn call(guard: &Guard) {
    let permit = guard.acquire().now_or_never().expect("no wait").expect("closed");
    permit.record(Verdict::Success);
}

/// Lets the recorder take what the last turn left.
fn drained() {
    std::thread::sleep(Duration::from_millis(5));
}

fn two_threads(work: impl Fn() + Sync) -> (Duration, u64) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..CALLS / 2).for_each(|_| work()));
        }
    });
    // Each thread's time per call: both ran all the while.
    (start.elapsed(), CALLS / 2)
}

/// The rows of this group, and what a closed call costs.
pub(crate) fn rows(runtime: &Runtime, server: &RedisServer) -> (Vec<Row>, Spread) {
    let (_closed, closed) = guard(runtime, "closed", Policy::default());
    let (_open, open) = guard(
        runtime,
        "open",
        Policy {
            consecutive_failures: 1,
            minimum_instances: 1,
            open_ms: 3_600_000,
            open_max_ms: 3_600_000,
            ..Policy::default()
        },
    );
    trip(&open);
    let (_half_open, half_open) = guard(
        runtime,
        "half-open",
        Policy {
            consecutive_failures: 1,
            minimum_instances: 1,
            open_ms: 100,
            open_max_ms: 100,
            permitted_calls: 1,
            half_open_ms: 3_600_000,
            call_timeout_ms: 3_500_000,
            ..Policy::default()
        },
    );
    trip(&half_open);
    let _probe = probe(runtime, &half_open);
    let (others, ours) = others(runtime, server, &closed);
    let (_watched, watched) = guard(
        runtime,
        "watched",
        Policy {
            slow_rate_bp: 5_000,
            slow_call_ms: 1_000,
            ..Policy::default()
        },
    );
    let watched = in_turns(&mut [Box::new(|| {
        drained();
        timed(CALLS, || call(&watched))
    })])[0];
    let refused = |guard: &Guard| {
        in_turns(&mut [Box::new(|| {
            timed(CALLS, || {
                assert!(guard.acquire().now_or_never().expect("no wait").is_err());
            })
        })])[0]
    };
    let open_refused = refused(&open);
    // A refusal says when asking again makes sense; until then the guard answers by itself, 500 ms at most.
    let half_open_refused = in_turns(&mut [Box::new(|| {
        while half_open.acquire().now_or_never().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        timed(100, || {
            assert!(half_open.acquire().now_or_never().is_none_or(|answer| answer.is_err()));
        })
    })])[0];
    let allocations = allocation_counter::measure(|| (0..CALLS).for_each(|_| call(&closed)));
    let mut rows = others;
    rows.push(Row::alone(
        "closed call with a rule for slow calls, one thread",
        watched.text(),
        "",
        None,
    ));
    rows.push(Row::alone(
        "open call, rejected in process",
        open_refused.text(),
        "",
        None,
    ));
    rows.push(Row::alone(
        "half-open call, refused in process",
        half_open_refused.text(),
        "",
        None,
    ));
    rows.push(Row::alone(
        "allocations per closed call",
        format!("{:.3}", allocations.count_total as f64 / CALLS as f64),
        "0",
        Some(allocations.count_total == 0),
    ));
    (rows, ours)
}

/// The one probe of a circuit whose wait is over.
fn probe(runtime: &Runtime, guard: &Guard) -> Permit {
    runtime.block_on(async {
        loop {
            match guard.acquire().await {
                Ok(permit) => return permit,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

/// The local breaker of the language that has most of them.
pub(crate) fn beside_gobreaker(ours: Spread, peers: &serde_json::Value) -> Vec<Row> {
    let theirs = peers["gobreaker"]["local_ns"].as_f64().unwrap_or(f64::NAN);
    vec![Row {
        measure: "closed call beside gobreaker, local (Go)".to_owned(),
        ours: ours.text(),
        peer: format!("{theirs:.0} ns"),
        ratio: Some(theirs / ours.median),
        target: String::new(),
        held: None,
    }]
}

fn trip(open: &Guard) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(Ok(permit)) = open.acquire().now_or_never() {
        permit.record(Verdict::Failure(tiebar::state::Cause::Http(500)));
        assert!(Instant::now() < deadline, "never opened");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// The same server over TCP on loopback, through the asynchronous connection that services share among their tasks.
async fn over_tcp(server: &RedisServer) -> MultiplexedConnection {
    let open = async |url: String| {
        let client = redis::Client::open(url).expect("a client");
        client.get_multiplexed_async_connection().await.expect("a connection")
    };
    let mut local = open(format!("unix://{}", server.socket())).await;
    let port = free_port();
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "port", &port.to_string()])
        .query_async(&mut local)
        .await
        .expect("a port");
    open(format!("redis://127.0.0.1:{port}")).await
}

/// What a breaker does that keeps its state in Redis: looks before the call, writes after it.
async fn get_and_set(mut connection: MultiplexedConnection) -> (Duration, u64) {
    let start = Instant::now();
    for _ in 0..TRIPS {
        let _: Option<String> = redis::cmd("GET")
            .arg("state")
            .query_async(&mut connection)
            .await
            .expect("a reply");
        let _: () = redis::cmd("SET")
            .arg("state")
            .arg("closed")
            .query_async(&mut connection)
            .await
            .expect("a reply");
    }
    (start.elapsed(), TRIPS)
}

fn others(runtime: &Runtime, server: &RedisServer, closed: &Guard) -> (Vec<Row>, Spread) {
    let resilience = CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .build()
        .expect("valid");
    let mut resilience = resilience.layer(service_fn(|(): ()| std::future::ready(Ok::<(), Infallible>(()))));
    let failsafe = failsafe::Config::new().build();
    let recloser = recloser::Recloser::custom().error_rate(0.5).closed_len(100).build();
    let client = redis::Client::open(format!("unix://{}", server.socket())).expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    let shared = runtime.block_on(over_tcp(server));

    let spreads = in_turns(&mut [
        Box::new(|| {
            drained();
            timed(CALLS, || call(closed))
        }) as Contender<'_>,
        Box::new(|| {
            timed(CALLS, || {
                futures_util::future::poll_fn(|context| resilience.poll_ready(context))
                    .now_or_never()
                    .expect("ready")
                    .expect("closed");
                resilience.call(()).now_or_never().expect("no wait").expect("closed");
            })
        }),
        Box::new(|| {
            timed(CALLS, || {
                failsafe.call(|| Ok::<(), ()>(())).expect("closed");
            })
        }),
        Box::new(|| {
            timed(CALLS, || {
                recloser.call(|| Ok::<(), ()>(())).expect("closed");
            })
        }),
        Box::new(|| {
            timed(TRIPS, || {
                let _: Option<String> = redis::cmd("GET").arg("state").query(&mut connection).expect("a reply");
                let _: () = redis::cmd("SET")
                    .arg("state")
                    .arg("closed")
                    .query(&mut connection)
                    .expect("a reply");
            })
        }),
        Box::new(|| {
            let task = runtime.spawn(get_and_set(shared.clone()));
            runtime.block_on(task).expect("whole")
        }),
    ]);
    let ours = spreads[0];
    let row = |measure: &str, peer: Spread, target: &str, held: Option<bool>| Row {
        measure: measure.to_owned(),
        ours: ours.text(),
        peer: peer.text(),
        ratio: Some(peer.median / ours.median),
        target: target.to_owned(),
        held,
    };
    let _inside = runtime.enter();
    let two = in_turns(&mut [
        Box::new(|| {
            drained();
            two_threads(|| call(closed))
        }) as Contender<'_>,
        Box::new(|| {
            two_threads(|| {
                failsafe.call(|| Ok::<(), ()>(())).expect("closed");
            })
        }),
    ]);
    let rows = vec![
        Row::alone(
            "closed call, one thread",
            ours.text(),
            "≤ 150 ns",
            Some(ours.median <= 150.0),
        ),
        row(
            "closed call beside tower-resilience",
            spreads[1],
            "> 1",
            Some(spreads[1].median > ours.median),
        ),
        row("closed call beside failsafe", spreads[2], "", None),
        row("closed call beside recloser", spreads[3], "", None),
        row(
            "closed call beside GET + SET on Redis, asynchronous over TCP",
            spreads[5],
            "≥ 1000",
            Some(spreads[5].median >= 1_000.0 * ours.median),
        ),
        row(
            "closed call beside GET + SET on Redis, blocking over a Unix socket",
            spreads[4],
            "",
            None,
        ),
        Row {
            measure: "closed call, two threads, beside failsafe".to_owned(),
            ours: two[0].text(),
            peer: two[1].text(),
            ratio: Some(two[1].median / two[0].median),
            target: "≤ 300 ns".to_owned(),
            held: Some(two[0].median <= 300.0),
        },
    ];
    (rows, ours)
}

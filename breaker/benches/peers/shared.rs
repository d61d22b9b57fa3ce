//! Beside breakers of other languages that share their state through Redis, each in its own program (`go/`, `python/`)
//! and as its users run it: what a closed call costs, what sharing does to throughput, how a trip spreads, what is counted.

use crate::measure::Spread;
use crate::programs::{output, tool};
use crate::report::Row;
use crate::support::RedisServer;
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Cause;
use tiebar::store::{Leader, Programme, Store as _};

/// The libraries, and where the programs' answers hold them.
const PEERS: [&str; 3] = ["gobreaker", "pybreaker", "interlock"];

/// Instances of one breaker, all of which know its state.
pub(crate) async fn fleet(server: &RedisServer, name: &str, size: usize, policy: Policy) -> Vec<(Breakers, Guard)> {
    let id = ServiceId::parse(name).expect("an id");
    let store = || {
        Arc::new(
            RedisStore::new(RedisSettings {
                timeout: Duration::from_secs(5),
                ..RedisSettings::new(&server.url())
            })
            .expect("a store"),
        )
    };
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy,
        forced: None,
    };
    store().configure(&id, &programme).await.expect("configured");
    let fleet: Vec<(Breakers, Guard)> = (0..size)
        .map(|n| {
            let breakers = Breakers::new(store(), Settings::new(&format!("i{n}")));
            let guard = breakers.guard(&id, None);
            (breakers, guard)
        })
        .collect();
    until("closed everywhere", || {
        fleet
            .iter()
            .all(|(_, guard)| guard.effective().is_some() && guard.status().state.as_str() == "closed")
    })
    .await;
    // The first state is seeded after two seconds of silence, which the first to come ends.
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Four instances with eight callers each, and an upstream that takes 200 ms.
async fn throughput(server: &RedisServer) -> f64 {
    let members = fleet(server, "four", 4, Policy::default()).await;
    let lasts = Duration::from_secs(3);
    let end = Instant::now() + lasts;
    let mut callers = tokio::task::JoinSet::new();
    for (_, guard) in &members {
        for _ in 0..8 {
            let guard = guard.clone();
            callers.spawn(async move {
                let mut done = 0_u64;
                while Instant::now() < end {
                    let permit = guard.acquire().await.expect("closed");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    permit.record(Verdict::Success);
                    done += u64::from(Instant::now() < end);
                }
                done
            });
        }
    }
    callers.join_all().await.iter().sum::<u64>() as f64 / lasts.as_secs_f64()
}

/// Of 4 × 250 failures, those the store counted.
async fn counted(server: &RedisServer) -> u64 {
    let policy = Policy {
        minimum_calls: 100_000,
        ..Policy::default()
    };
    let members = fleet(server, "counted", 4, policy).await;
    for _ in 0..250 {
        for (_, guard) in &members {
            let permit = guard.acquire().await.expect("closed");
            permit.record(Verdict::Failure(Cause::Http(503)));
        }
    }
    let store = RedisStore::new(RedisSettings::new(&server.url())).expect("a store");
    let failures = || async {
        let snapshot = store.snapshot(members[0].1.id()).await.expect("an answer");
        snapshot.map_or(0, |snapshot| snapshot.failing)
    };
    let deadline = Instant::now() + Duration::from_secs(3);
    while failures().await < 1_000 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    failures().await
}

/// Of 16 instances that call at once when the wait is over, those let through before the first verdict.
async fn probes(server: &RedisServer) -> u64 {
    let policy = Policy {
        consecutive_failures: 1,
        minimum_instances: 1,
        open_ms: 1_000,
        open_max_ms: 1_000,
        permitted_calls: 1,
        ..Policy::default()
    };
    let members = fleet(server, "probed", 16, policy).await;
    let permit = members[0].1.acquire().await.expect("closed");
    permit.record(Verdict::Failure(Cause::Http(503)));
    until("open everywhere", || {
        members.iter().all(|(_, guard)| guard.status().state.as_str() == "open")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (started, verdict) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = tokio::task::JoinSet::new();
    for (_, guard) in &members {
        let (guard, started, verdict) = (guard.clone(), Arc::clone(&started), Arc::clone(&verdict));
        callers.spawn(async move {
            if let Ok(permit) = guard.acquire().await {
                if !verdict.load(Ordering::SeqCst) {
                    started.fetch_add(1, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                verdict.store(true, Ordering::SeqCst);
                permit.record(Verdict::Success);
            }
        });
    }
    callers.join_all().await;
    started.load(Ordering::SeqCst)
}

/// What the other programs measured, by library.
pub(crate) fn peers(server: &RedisServer) -> Value {
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let go = json(output(Command::new(tool("gobreaker")).arg(server.socket())));
    let mut all = json(output(
        Command::new(tool("python/bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/python/peers.py"))
            .arg(server.socket()),
    ));
    all["gobreaker"] = go;
    all
}

/// The rows of this group; `closed_ns` is what our closed call costs, `trips` how our trips spread.
pub(crate) async fn rows(server: &RedisServer, closed: Spread, trips: &[(usize, f64, f64)], peers: &Value) -> Vec<Row> {
    let (throughput, counted, probes) = (throughput(server).await, counted(server).await, probes(server).await);
    let mut rows = Vec::new();
    for name in PEERS {
        let peer = &peers[name];
        let number = |measure: &str| peer[measure].as_f64().unwrap_or(f64::NAN);
        rows.push(Row {
            measure: format!("closed call beside {name}, shared through Redis"),
            ours: closed.text(),
            peer: format!("{:.1} µs", number("closed_ns") / 1e3),
            ratio: Some(number("closed_ns") / closed.median),
            target: "> 1".to_owned(),
            held: Some(number("closed_ns") > closed.median),
        });
        let calls = number("calls_per_s");
        rows.push(Row {
            measure: format!("calls/s of a fleet of 4 × 8 callers, upstream 200 ms (160 at best), beside {name}"),
            ours: format!("{throughput:.0}"),
            peer: format!("{calls:.0}"),
            ratio: Some(throughput / calls),
            target: ">= 1".to_owned(),
            held: Some(throughput >= 0.99 * calls),
        });
        for (instances, p50, p99) in trips {
            let theirs = &peer[format!("propagation_{instances}")];
            let (their_p50, their_p99) = (theirs[0].as_f64().unwrap_or(0.0), theirs[1].as_f64().unwrap_or(0.0));
            rows.push(Row {
                measure: format!("a trip known by all of {instances} instances, beside {name}, called every 10 ms"),
                ours: format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
                peer: format!("p50 {their_p50:.1} ms, p99 {their_p99:.1} ms"),
                ratio: Some(their_p99 / p99),
                target: "> 1".to_owned(),
                held: Some(their_p99 > *p99),
            });
        }
        rows.push(Row {
            measure: format!("failures counted of 4 × 250, beside {name}"),
            ours: counted.to_string(),
            peer: format!("{:.0}", number("counted")),
            ratio: Some(counted as f64 / number("counted")),
            target: "1000".to_owned(),
            held: Some(counted == 1_000),
        });
        rows.push(Row {
            measure: format!("probes admitted of 16 at once where 1 is permitted, beside {name}"),
            ours: probes.to_string(),
            peer: format!("{:.0}", number("probes")),
            ratio: None,
            target: "1".to_owned(),
            held: Some(probes == 1),
        });
    }
    rows
}

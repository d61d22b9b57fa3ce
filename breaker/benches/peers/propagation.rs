//! How long until everybody knows of a trip: guards with connections of their own, on loopback.

use crate::measure::Spread;
use crate::report::Row;
use crate::support::RedisServer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Cause;
use tiebar::store::{Leader, Programme, Store as _};

/// Trips per fleet.
const TRIPS: usize = 20;

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn is(guard: &Guard, state: &str) -> bool {
    guard.status().state.as_str() == state
}

/// Milliseconds from the failing call's end to each guard's rejection of calls.
async fn trips(server: &RedisServer, instances: usize) -> Vec<f64> {
    let id = ServiceId::parse(&format!("fleet-of-{instances}")).expect("an id");
    let settings = || RedisSettings {
        timeout: Duration::from_secs(5),
        ..RedisSettings::new(&server.url())
    };
    let operator = RedisStore::new(settings()).expect("a store");
    let leader = Leader::default();
    let programme = Programme {
        leader: leader.clone(),
        spec: "{}".to_owned(),
        policy: Policy {
            consecutive_failures: 1,
            minimum_instances: 1,
            open_ms: 600_000,
            open_max_ms: 600_000,
            ..Policy::default()
        },
        forced: None,
    };
    operator.configure(&id, &programme).await.expect("configured");
    let fleet: Vec<(Breakers, Guard)> = (0..instances)
        .map(|n| {
            let store = Arc::new(RedisStore::new(settings()).expect("a store"));
            let breakers = Breakers::new(store, Settings::new(&format!("i{n}")));
            let guard = breakers.guard(&id, None);
            (breakers, guard)
        })
        .collect();
    until("closed everywhere", || {
        fleet
            .iter()
            .all(|(_, guard)| is(guard, "closed") && guard.effective().is_some())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut delays = Vec::new();
    for trip in 0..TRIPS {
        let permit = fleet[trip % instances].1.acquire().await.expect("closed");
        let start = Instant::now();
        permit.record(Verdict::Failure(Cause::Http(503)));
        let mut waiting: Vec<&Guard> = fleet.iter().map(|(_, guard)| guard).collect();
        while !waiting.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "never open everywhere");
            waiting.retain(|guard| {
                let open = is(guard, "open");
                if open {
                    delays.push(start.elapsed().as_secs_f64() * 1e9);
                }
                !open
            });
            tokio::task::yield_now().await;
        }
        operator
            .reset(&id, &leader, &format!("trip {trip}"))
            .await
            .expect("reset");
        until("closed again", || fleet.iter().all(|(_, guard)| is(guard, "closed"))).await;
    }
    delays
}

/// The rows of this group.
pub(crate) async fn rows(server: &RedisServer) -> Vec<Row> {
    let mut rows = Vec::new();
    for instances in [10, 100] {
        let mut delays = trips(server, instances).await;
        delays.sort_by(f64::total_cmp);
        let p99 = delays[(delays.len() - 1) * 99 / 100] / 1e6;
        let spread = Spread::of(delays);
        let p50 = spread.median / 1e6;
        rows.push(Row::alone(
            &format!("a trip known by all of {instances} instances"),
            format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
            "p50 ≤ 1 ms, p99 ≤ 5 ms",
            Some(p50 <= 1.0 && p99 <= 5.0),
        ));
    }
    rows
}

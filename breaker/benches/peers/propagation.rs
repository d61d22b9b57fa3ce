//! How long until everybody knows of a trip: guards with connections of their own, on loopback. All share this process'
//! cores, which a fleet does not.

use crate::measure::Spread;
use crate::report::Row;
use crate::shared::{fleet, until};
use crate::support::RedisServer;
use crate::witness;
use std::time::Instant;
use tiebar::guard::Verdict;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Cause;
use tiebar::store::{Leader, Store as _};

/// Trips per fleet.
const TRIPS: usize = 20;

/// Nanoseconds from the failing call's end to each instance's own word that the circuit is open.
async fn trips(server: &RedisServer, instances: usize) -> Vec<f64> {
    let policy = Policy {
        consecutive_failures: 1,
        minimum_instances: 1,
        open_ms: 600_000,
        open_max_ms: 600_000,
        ..Policy::default()
    };
    let fleet = fleet(server, &format!("fleet-of-{instances}"), instances, policy).await;
    let operator = RedisStore::new(RedisSettings::new(&server.url())).expect("a store");
    let mut delays = Vec::new();
    for trip in 0..TRIPS {
        let (_, guard) = &fleet[trip % instances];
        let permit = guard.acquire().await.expect("closed");
        witness::listen();
        let start = Instant::now();
        permit.record(Verdict::Failure(Cause::Http(503)));
        until("open everywhere", || witness::heard() >= instances).await;
        delays.extend(
            witness::testimony()
                .iter()
                .map(|at| at.saturating_duration_since(start).as_nanos() as f64),
        );
        operator
            .reset(guard.id(), &Leader::default(), &format!("trip {trip}"))
            .await
            .expect("reset");
        until("closed again", || {
            fleet.iter().all(|(_, guard)| guard.status().state.as_str() == "closed")
        })
        .await;
    }
    delays
}

/// (instances, p50, p99) in milliseconds.
pub(crate) async fn measure(server: &RedisServer) -> Vec<(usize, f64, f64)> {
    let mut all = Vec::new();
    for instances in [10, 100] {
        let mut delays = trips(server, instances).await;
        delays.sort_by(f64::total_cmp);
        let p99 = delays[(delays.len() - 1) * 99 / 100] / 1e6;
        all.push((instances, Spread::of(delays).median / 1e6, p99));
    }
    all
}

/// The rows of this group.
pub(crate) fn rows(measured: &[(usize, f64, f64)]) -> Vec<Row> {
    let row = |(instances, p50, p99): &(usize, f64, f64)| {
        Row::alone(
            &format!("a trip known by all of {instances} instances"),
            format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
            "p50 ≤ 1 ms, p99 ≤ 5 ms",
            Some(*p50 <= 1.0 && *p99 <= 5.0),
        )
    };
    measured.iter().map(row).collect()
}

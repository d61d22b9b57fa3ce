//! A store that comes back to a large fleet. The fleet is clients of the library, each with a connection of its own:
//! a hundred processes would measure this machine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::{RedisServer, eventually, holds};
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::policy::{Config, Policy};
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Cause;

const FLEET: usize = 100;
/// What one breaker may ask of its store, calls a second.
const PACE: u64 = 500;
/// What each client had sent to the server that stood still before it gave the connection up, answered all at once.
const WAITED: u64 = 3;

/// The most calls in any second of the next ten, `before` being their count a moment ago.
async fn busiest_second(redis: &RedisServer, before: u64) -> u64 {
    let start = Instant::now();
    let (mut samples, mut most) = (VecDeque::from([(start, before)]), 0);
    while start.elapsed() < Duration::from_secs(10) {
        let calls = redis.calls("fcall").await;
        let now = Instant::now();
        samples.push_back((now, calls));
        while samples
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > Duration::from_secs(1))
        {
            samples.pop_front();
        }
        if let Some((_, before)) = samples.front() {
            most = most.max(calls - before);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_instances_return_without_a_stampede() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut redis = RedisServer::start(folder.path()).await;
    let id = ServiceId::parse("shop/inventory").expect("an id");
    let policy = Policy {
        consecutive_failures: 3,
        minimum_instances: 1,
        open_ms: 600_000,
        open_max_ms: 600_000,
        ..Policy::default()
    };
    let fleet: Vec<(Breakers, Guard)> = (0..FLEET)
        .map(|number| {
            let store = RedisStore::new(RedisSettings::new(&redis.url())).expect("an address");
            let breakers = Breakers::new(Arc::new(store), Settings::new(&format!("i{number}")));
            let guard = breakers.guard(&id, Some(Config::local(policy.clone())));
            (breakers, guard)
        })
        .collect();
    let all = async |state: &str, degraded: bool, bound: Duration| {
        let what = format!("all are {state}, {}", if degraded { "each alone" } else { "together" });
        eventually(bound, &what, async || {
            let others = fleet.iter().filter(|(_, guard)| {
                let status = guard.status();
                status.state.as_str() != state || status.degraded != degraded
            });
            let others = others.count();
            holds(others == 0, others)
        })
        .await;
    };
    eventually(Duration::from_secs(30), "somebody has seeded a state", async || {
        let state = redis.get("cb:shop/inventory:state").await;
        holds(state.as_deref() == Some("closed"), format!("{state:?}"))
    })
    .await;
    all("closed", false, Duration::from_secs(30)).await;
    for _ in 0..20 {
        if let Ok(permit) = fleet[0].1.acquire().await {
            permit.record(Verdict::Failure(Cause::Http(503)));
        }
    }
    all("open", false, Duration::from_secs(15)).await;

    for (what, empty) in [("thawed", false), ("restarted empty", true)] {
        let before = if empty { 0 } else { redis.calls("fcall").await };
        if empty {
            redis.kill().await;
        } else {
            redis.freeze();
        }
        all("open", true, Duration::from_secs(15)).await;
        if empty {
            redis.start_again().await;
        } else {
            redis.thaw();
        }
        let calls = busiest_second(&redis, before).await;
        println!("{what}: {FLEET} instances, at most {calls} calls in a second");
        all("open", false, Duration::from_secs(15)).await;
        assert!(
            calls <= PACE + WAITED * FLEET as u64,
            "{what}: {calls} calls in a second"
        );
    }
    let transitions = redis.transitions("shop/inventory").await;
    assert_eq!(transitions.len(), 1, "one re-seed is enough: {transitions:?}");
}

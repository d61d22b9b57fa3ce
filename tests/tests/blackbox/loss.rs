//! A store that forgets never closes a circuit.

use std::time::{Duration, Instant};
use tests::{Fleet, eventually, holds};

const OPEN: Duration = Duration::from_secs(6);
const SPEC: &str = "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 6s}, \
                    halfOpen: {permittedCalls: 3, maxDuration: 10s}}";

/// Trips the circuit through one instance. Returns an instant right before the call that did: however late this machine
/// looks at its clock, the circuit is open for its full time from then on.
async fn trip(fleet: &Fleet, through: usize) -> Instant {
    fleet.upstream.fail().await;
    for _ in 0..2 {
        fleet.instances[through].call().await;
    }
    let before = Instant::now();
    fleet.instances[through].call().await;
    before
}

/// Calls through every instance until one gets through. None may before the circuit's six seconds are over, and then as
/// a probe.
async fn nothing_passes_before_its_time(fleet: &Fleet, tripped: Instant) {
    let state = eventually(OPEN * 3, "the first call gets through", async || {
        for instance in &fleet.instances {
            let answer = instance.call().await;
            if answer.blocked().is_none() {
                return Ok(answer.state().to_owned());
            }
        }
        Err("all rejected")
    })
    .await;
    assert!(
        tripped.elapsed() >= OPEN,
        "after {:?} already, {state}",
        tripped.elapsed()
    );
    assert_eq!(state, "half_open");
    println!("after the trip: {:.1?}", tripped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_while_open_does_not_close() {
    let fleet = Fleet::with(SPEC).start().await;
    let tripped = trip(&fleet, 0).await;
    fleet.agrees("open").await;
    fleet.upstream.heal().await;
    fleet.upstream.forget().await;

    fleet.redis.ask::<()>(&["FLUSHALL"]).await;
    eventually(Duration::from_secs(6), "open is restored", async || {
        let state = fleet.redis.get(&Fleet::key("state")).await;
        assert_ne!(state.as_deref(), Some("closed"));
        holds(state.as_deref() == Some("open"), format!("{state:?}"))
    })
    .await;
    eventually(Duration::from_secs(15), "the rules are restored", async || {
        let spec: Option<String> = fleet.redis.ask(&["HGET", &Fleet::key("config"), "spec"]).await;
        holds(spec.is_some(), "no config")
    })
    .await;
    assert_eq!(fleet.upstream.requests().await, 0);
    nothing_passes_before_its_time(&fleet, tripped).await;
    let transitions = fleet.redis.transitions(Fleet::ID).await;
    assert!(transitions[0].ends_with("→ open Reseeded"), "{transitions:?}");
    assert!(
        transitions[1..].iter().all(|line| !line.ends_with("Reseeded")),
        "one re-seed is enough: {transitions:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_while_open_does_not_close() {
    let mut fleet = Fleet::with(SPEC).start().await;
    let tripped = trip(&fleet, 1).await;
    fleet.agrees("open").await;
    fleet.upstream.heal().await;
    fleet.redis.kill().await;
    fleet.redis.start_again().await;
    nothing_passes_before_its_time(&fleet, tripped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgets_its_functions_is_taught_again() {
    let fleet = Fleet::with(tests::WALK_THROUGH).start().await;
    fleet.redis.ask::<()>(&["FUNCTION", "FLUSH"]).await;
    assert_eq!(fleet.trip(2).await, 3, "counted as ever");
    fleet.agrees("open").await;
}

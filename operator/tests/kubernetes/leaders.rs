//! Two replicas, one leader.

use crate::support::{Operator, Place, Redis, SOON, holds};
use crds::testing::wait_for;
use std::time::{Duration, Instant};

fn leads(operator: &Operator) -> bool {
    operator.metric("tiebar_operator_leader") == 1.0
}

fn transitions(place: &Place) -> String {
    place
        .kubectl(&[
            "get",
            "lease",
            "tiebar-operator",
            "-o",
            "jsonpath={.spec.leaseTransitions}",
        ])
        .out
}

#[test]
fn a_killed_leader_is_followed_within_twenty_seconds_and_followers_write_nothing() {
    let (place, redis) = (Place::new("killed"), Redis::start(&[]));
    let first = place.operator(&redis, &[]);
    wait_for("a leader", SOON, || leads(&first));
    let second = place.operator(&redis, &[]);
    place.apply("a", "{open: {duration: 11s}}");
    place.until_ready("a");
    assert!(!leads(&second));
    assert_eq!(second.metric("tiebar_operator_status_writes_total{result=\"ok\"}"), 0.0);
    assert!(
        !second.get("/metrics").1.contains("tiebar_breaker_state"),
        "from the leader only"
    );
    assert_eq!(second.get("/readyz").0, 200);

    let begun = Instant::now();
    first.kill();
    wait_for("a new leader", Duration::from_secs(60), || leads(&second));
    println!("taken over after {:?}", begun.elapsed());
    place.apply("a", "{open: {duration: 22s}}");
    wait_for("programmed", SOON, || {
        redis.cli(&["HGET", "cb:killed/a:config", "spec"]).contains("22s")
    });
    place.until("a", "generation 2", SOON, |status| {
        status["observedGeneration"] == 2 && holds(status, "Ready")
    });
    // The store refuses whoever led before.
    assert_eq!(
        transitions(&place),
        redis.cli(&["HGET", "cb:killed/a:config", "transitions"])
    );
}

#[test]
fn a_leader_that_is_asked_to_go_gives_the_lease_back() {
    let (place, redis) = (Place::new("released"), Redis::start(&[]));
    let first = place.operator(&redis, &[]);
    wait_for("a leader", SOON, || leads(&first));
    let second = place.operator(&redis, &[]);
    let begun = Instant::now();
    assert_eq!(first.terminate(), Some(0));
    wait_for("a new leader", SOON, || leads(&second));
    let took = begun.elapsed();
    println!("taken over after {took:?}");
    assert!(
        took < Duration::from_secs(9),
        "waited for the lease to expire: {took:?}"
    );
}

//! How often statuses are written: at once, at most once a second, the last change always, and never for nothing.

use crate::support::{Caller, Place, Redis, SOON, holds};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Settings, Verdict};
use tiebar::state::State;
use tiebar::store::Store as _;

const TRIPS: &str = "{trip: {consecutiveFailures: 1, minimumInstances: 1}, open: {duration: 1h}}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_circuit_is_written_once_a_second_and_its_last_state_lands() {
    let (place, redis) = (Place::new("flapping"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    place.apply("a", TRIPS);
    place.until_ready("a");
    let id = place.id("a");
    let mut caller = Caller::new(&redis, id.clone());
    let leader = redis.store().config(&id).await.unwrap().unwrap().leader;
    let written = || operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}");
    let before = written();
    let begun = Instant::now();
    let mut transitions = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(caller.fail(1).await, State::Open);
        transitions += 1;
        caller
            .store
            .reset(&id, &leader, &format!("{transitions}"))
            .await
            .unwrap();
        transitions += 1;
    }
    assert_eq!(caller.fail(1).await, State::Open);
    let flapped = begun.elapsed();
    let last = caller.generation().await;
    let events = redis.store().events(&id, 1).await.unwrap();
    assert_eq!(events[0].generation, last);
    let status = place.until("a", "the last state", Duration::from_secs(6), |status| {
        status["state"] == "Open" && status["transitionCount"].as_u64() > Some(transitions)
    });
    let writes = written() - before;
    println!("{transitions} transitions in {flapped:?}: {writes} writes");
    assert!(transitions as f64 >= 10.0 * writes, "too few to show anything");
    // The leading edge, one a second, and the trailing edge.
    assert!(writes <= flapped.as_secs_f64().ceil() + 2.0, "{writes} writes");
    assert!(holds(&status, "Flapping"), "{status}");
    assert!(operator.metric("tiebar_operator_status_writes_coalesced_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_when_nothing_changes() {
    let (place, redis) = (Place::new("idle"), Redis::start(&[]));
    let operator = place.operator(&redis, &["--pace", "10"]);
    for name in ["a", "b", "c"] {
        place.apply(name, "{}");
    }
    // With an instance that calls all the time, so that everything but the state changes.
    let breakers = Breakers::new(Arc::new(redis.store()), Settings::new("orders-1"));
    let guard = breakers.guard(&place.id("a"), None);
    let calls = async {
        loop {
            let _ = guard.call(async || (), |()| Verdict::Success).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let watched = async {
        let settled = tokio::task::spawn_blocking({
            let place = Arc::new(place);
            move || {
                for name in ["a", "b", "c"] {
                    place.until_ready(name);
                }
                // The instance seeds the state when it has heard of none for two seconds: before or after its first beat.
                place.until("a", "attached", SOON, |status| {
                    holds(status, "Attached") && status["stateReason"] == "Seeded"
                });
                place
            }
        });
        let place = settled.await.unwrap();
        let objects = || ["a", "b", "c"].map(|name| place.get(name));
        let before = (
            objects(),
            operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}"),
        );
        let looked = operator.metric("tiebar_operator_reconciliations_total{result=\"ok\"}");
        // A minute's worth of looking, and the heartbeat's minute is the store's own.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let after = (
            objects(),
            operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}"),
        );
        for (before, after) in before.0.iter().zip(&after.0) {
            assert_eq!(before, after, "left: when all was told; right: 8 s later");
        }
        assert_eq!(before.1, after.1, "writes");
        let looked = operator.metric("tiebar_operator_reconciliations_total{result=\"ok\"}") - looked;
        println!("{looked} looks, no write");
        assert!(looked >= 6.0, "it did not look: {looked}");
    };
    tokio::select! {
        () = calls => {}
        () = watched => {}
    }
}

#[test]
fn a_status_that_somebody_else_changed_is_restored_and_the_spec_is_never_touched() {
    let (place, redis) = (Place::new("foreign"), Redis::start(&[]));
    let _operator = place.operator(&redis, &[]);
    place.apply("a", "{}");
    place.until_ready("a");
    let patch = r#"{"status": {"state": "Open"}}"#;
    let _ = place
        .kubectl(&["patch", "cb", "a", "--subresource=status", "--type=merge", "-p", patch])
        .expect_ok("patch");
    place.until("a", "restored", SOON, |status| status["state"] == "Closed");
    let managers = place.kubectl(&["get", "cb", "a", "--show-managed-fields", "-o", "json"]);
    let object: serde_json::Value = serde_json::from_str(&managers.out).unwrap();
    for manager in object["metadata"]["managedFields"].as_array().unwrap() {
        if manager["manager"] == "tiebar-operator" {
            assert_eq!(
                (&manager["operation"], &manager["subresource"]),
                (&"Apply".into(), &"status".into())
            );
            assert!(manager["fieldsV1"]["f:spec"].is_null(), "{manager}");
        }
    }
}

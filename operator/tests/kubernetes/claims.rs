//! Who stands for an id: the oldest resource, one cluster; and what annotations ask for.

use crate::support::{Caller, Place, Redis, SOON, condition, holds};
use crds::testing::wait_for;
use tiebar::policy::Policy;
use tiebar::state::State;
use tiebar::store::{Leader, Programme, Store as _};

const TRIPS: &str = "{trip: {consecutiveFailures: 1, minimumInstances: 1}, open: {duration: 1h}}";

fn is(kind: &'static str, status: &'static str, reason: &'static str) -> impl Fn(&serde_json::Value) -> bool {
    move |told| condition(told, kind) == (status.to_owned(), reason.to_owned())
}

#[test]
fn the_oldest_stands_for_an_id_and_the_next_is_promoted() {
    let (place, redis) = (Place::new("conflict"), Redis::start(&[]));
    let _operator = place.operator(&redis, &[]);
    place.apply("first", "{serviceName: payments, open: {duration: 11s}}");
    place.until_ready("first");
    // Ages are in whole seconds; of one age the name decides, and "first" comes before "second".
    place.apply("second", "{serviceName: payments, open: {duration: 22s}}");
    let status = place.until("second", "Conflicted", SOON, is("Accepted", "False", "Conflicted"));
    assert!(holds(&status, "Stalled") && !holds(&status, "Ready"), "{status}");
    assert!(status["state"].is_null(), "{status}");
    assert!(
        redis
            .cli(&["HGET", "cb:conflict/payments:config", "spec"])
            .contains("11s")
    );
    wait_for("the event", SOON, || {
        place.events("second").contains(&"Conflicted".to_owned())
    });
    place.delete("first");
    place.until_ready("second");
    assert!(
        redis
            .cli(&["HGET", "cb:conflict/payments:config", "spec"])
            .contains("22s")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_foreign_owner_is_left_alone_until_it_falls_silent() {
    let (place, redis) = (Place::new("foreigner"), Redis::start(&[]));
    let id = place.id("a");
    let programme = Programme {
        leader: Leader {
            owner: "elsewhere".to_owned(),
            ..Leader::default()
        },
        spec: "{}".to_owned(),
        policy: Policy::default(),
        forced: None,
    };
    redis.store().configure(&id, &programme).await.unwrap();
    let _operator = place.operator(&redis, &["--pace", "10"]);
    place.apply("a", "{open: {duration: 11s}}");
    let status = place.until("a", "OwnedElsewhere", SOON, is("Accepted", "False", "OwnedElsewhere"));
    assert_eq!(
        condition(&status, "Stalled"),
        ("True".to_owned(), "OwnedElsewhere".to_owned())
    );
    assert_eq!(redis.cli(&["HGET", "cb:foreigner/a:config", "owner"]), "elsewhere");
    // Ten minutes pass for the owner's heartbeat.
    let now: u64 = redis.store().now().await.unwrap();
    redis.cli(&["HSET", "cb:foreigner/a:config", "seen_at", &(now - 600_001).to_string()]);
    place.until_ready("a");
    assert!(redis.cli(&["HGET", "cb:foreigner/a:config", "spec"]).contains("11s"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_carried_out_once_and_never_again_even_if_the_store_forgets() {
    let (place, redis) = (Place::new("reset"), Redis::start(&[]));
    let operator = place.operator(&redis, &["--pace", "10"]);
    place.apply("a", TRIPS);
    place.until_ready("a");
    let mut caller = Caller::new(&redis, place.id("a"));
    assert_eq!(caller.fail(1).await, State::Open);
    place.until("a", "Open", SOON, |status| status["state"] == "Open");
    place.apply_with("a", "tiebar.dev/reset-requested-at: '2026-11-25T12:00:00Z'", TRIPS);
    let status = place.until("a", "reset", SOON, |status| {
        status["lastHandledReset"] == "2026-11-25T12:00:00Z"
    });
    assert_eq!(
        (&status["state"], &status["stateReason"]),
        (&"Closed".into(), &"Reset".into())
    );

    assert_eq!(caller.fail(1).await, State::Open);
    redis.cli(&["FLUSHALL"]);
    wait_for("restored", SOON, || redis.cli(&["EXISTS", "cb:reset/a:config"]) == "1");
    assert_eq!(caller.fail(1).await, State::Open);
    let begun = operator.metric("tiebar_operator_reconciliations_total{result=\"ok\"}");
    wait_for("some more looks", SOON, || {
        operator.metric("tiebar_operator_reconciliations_total{result=\"ok\"}") > begun + 3.0
    });
    // Another operator knows as much.
    drop(operator);
    let _operator = place.operator(&redis, &["--pace", "10"]);
    place.until("a", "reported again", SOON, |status| status["state"] == "Open");
    let events = redis.store().events(&place.id("a"), 10).await.unwrap();
    assert!(
        events.iter().all(|event| event.reason.as_str() != "Reset"),
        "replayed: {events:?}"
    );
    assert_eq!(redis.cli(&["HGET", "cb:reset/a:config", "reset"]), "");
    redis.nothing_was_denied();
}

#[test]
fn a_paused_breaker_is_left_alone_and_drift_is_repaired_otherwise() {
    let (place, redis) = (Place::new("drift"), Redis::start(&[]));
    let operator = place.operator(&redis, &["--pace", "10"]);
    place.apply("a", "{open: {duration: 11s}}");
    place.until_ready("a");
    redis.cli(&["DEL", "cb:drift/a:config"]);
    wait_for("restored", SOON, || {
        redis.cli(&["HGET", "cb:drift/a:config", "spec"]).contains("11s")
    });
    wait_for("counted", SOON, || {
        operator.metric("tiebar_operator_drift_corrections_total") >= 1.0
    });
    wait_for("the event", SOON, || {
        place.events("a").contains(&"ConfigDriftCorrected".to_owned())
    });

    place.apply_with("a", "tiebar.dev/reconcile: disabled", "{open: {duration: 22s}}");
    place.until("a", "Paused", SOON, is("Programmed", "False", "Paused"));
    assert!(redis.cli(&["HGET", "cb:drift/a:config", "spec"]).contains("11s"));
    place.apply("a", "{open: {duration: 22s}}");
    let _ = place.kubectl(&["annotate", "cb", "a", "tiebar.dev/reconcile-"]);
    place.until_ready("a");
    assert!(redis.cli(&["HGET", "cb:drift/a:config", "spec"]).contains("22s"));
}

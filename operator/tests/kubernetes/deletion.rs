//! Deletion without a finalizer: nothing hangs, and nothing old comes back.

use crate::support::{Caller, Place, Redis, SOON, holds};
use crds::testing::{Settings, wait_for};
use std::time::Duration;
use tiebar::state::State;
use tiebar::store::Store as _;

const TRIPS: &str = "{trip: {consecutiveFailures: 1, minimumInstances: 1}, open: {duration: 1h}}";

fn is_buried(redis: &Redis, id: &str) -> bool {
    redis.keys_of(id) == [format!("cb:{id}:config")]
        && redis.cli(&["HGET", &format!("cb:{id}:config"), "spec"]).is_empty()
        && redis.cli(&["SISMEMBER", "cb:index", id]) == "0"
}

#[test]
fn what_was_deleted_while_the_operator_was_away_goes_when_it_returns() {
    let (place, redis) = (Place::new("away"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    for name in ["a", "b"] {
        place.apply(name, "{}");
        place.until_ready(name);
    }
    assert_eq!(operator.terminate(), Some(0));
    place.delete("a");
    let _operator = place.operator(&redis, &[]);
    wait_for("buried", SOON, || is_buried(&redis, "away/a"));
    assert!(
        !redis.cli(&["HGET", "cb:away/b:config", "spec"]).is_empty(),
        "the other stays"
    );
}

#[test]
fn what_was_deleted_while_redis_was_away_goes_when_it_returns() {
    let place = Place::new("redis-away");
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let _operator = place.operator(&redis, &["--pace", "10"]);
    place.apply("a", "{}");
    place.until_ready("a");
    redis.stop();
    place.delete("a");
    redis.resume();
    wait_for("buried", SOON, || is_buried(&redis, "redis-away/a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_made_anew_has_nothing_of_the_one_before() {
    let (place, redis) = (Place::new("anew"), Redis::start(&[]));
    let _operator = place.operator(&redis, &[]);
    place.apply("a", TRIPS);
    place.until_ready("a");
    let id = place.id("a");
    let mut caller = Caller::new(&redis, id.clone());
    assert_eq!(caller.fail(1).await, State::Open);
    let before = redis.store().config(&id).await.unwrap().unwrap();
    let revision = before.programmed.unwrap().config.revision;
    place.delete("a");
    place.apply("a", "{open: {duration: 22s}}");
    let status = place.until("a", "made anew", SOON, |status| {
        holds(status, "Ready") && status["configRevision"].as_u64() > Some(revision)
    });
    assert_eq!(status["state"], "Closed", "{status}");
    assert!(status["tripSnapshot"].is_null(), "{status}");
    let after = redis.store().config(&id).await.unwrap().unwrap();
    assert!(after.floor >= revision, "what instances remember is void");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_made_anew_while_the_operator_was_away_has_nothing_of_the_one_before() {
    let (place, redis) = (Place::new("anew-away"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    place.apply_with("a", "tiebar.dev/reset-requested-at: once", TRIPS);
    let status = place.until("a", "reset", SOON, |status| {
        holds(status, "Ready") && status["lastHandledReset"] == "once"
    });
    let revision = status["configRevision"].as_u64();
    let id = place.id("a");
    let mut caller = Caller::new(&redis, id.clone());
    assert_eq!(caller.fail(1).await, State::Open);
    place.until("a", "Open", SOON, |status| status["state"] == "Open");
    assert_eq!(operator.terminate(), Some(0));
    place.delete("a");
    place.apply("a", &TRIPS.replace("1h", "2h"));
    let operator = place.operator(&redis, &[]);
    let status = place.until("a", "made anew", SOON, |status| holds(status, "Ready"));
    assert!(status["configRevision"].as_u64() > revision, "{status}");
    assert_eq!(
        (&status["state"], &status["transitionCount"]),
        (&"Closed".into(), &serde_json::Value::Null),
        "{status}"
    );
    assert!(
        status["tripSnapshot"].is_null() && status["lastHandledReset"].is_null(),
        "{status}"
    );
    let after = redis.store().config(&id).await.unwrap().unwrap();
    assert!(Some(after.floor) >= revision, "what instances remember is void");
    assert_eq!(
        redis.cli(&["EXISTS", "cb:anew-away/a:data", "cb:anew-away/a:events"]),
        "0"
    );

    // An edit while it is away is none of that.
    assert_eq!(caller.fail(1).await, State::Open);
    assert_eq!(operator.terminate(), Some(0));
    place.apply("a", &TRIPS.replace("1h", "3h"));
    let _operator = place.operator(&redis, &[]);
    let status = place.until("a", "edited", SOON, |status| {
        holds(status, "Ready") && status["observedGeneration"] == 2
    });
    assert_eq!(status["state"], "Open", "{status}");
    redis.nothing_was_denied();
}

#[test]
fn a_namespace_goes_with_all_its_breakers() {
    let settings = Settings {
        controllers: true,
        ..Settings::default()
    };
    let (place, redis) = (Place::own("home", settings), Redis::start(&[]));
    let operator = crate::support::Operator::start(&place.account, &redis.url(), &[]);
    place.server().namespace("shop");
    let text = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: a, namespace: shop}\n";
    let _ = place
        .server()
        .kubectl_input(&["apply", "-f", "-"], text)
        .expect_ok("apply");
    wait_for("programmed", SOON, || {
        !redis.cli(&["HGET", "cb:shop/a:config", "spec"]).is_empty()
    });
    let _ = place
        .server()
        .kubectl(&["delete", "namespace", "shop", "--timeout=60s"])
        .expect_ok("the namespace goes");
    wait_for("buried", SOON, || is_buried(&redis, "shop/a"));
    assert_eq!(operator.terminate(), Some(0));
}

#[test]
fn without_the_definition_there_are_no_breakers_and_they_return_with_it() {
    let (place, redis) = (Place::own("home", Settings::default()), Redis::start(&[]));
    let mut operator = place.operator(&redis, &["--pace", "10"]);
    place.apply("a", "{}");
    place.apply("b", "{}");
    place.until_ready("a");
    place.until_ready("b");
    let uninstall = ["delete", "crd", "circuitbreakers.tiebar.dev", "--timeout=60s"];
    let _ = place.server().kubectl(&uninstall).expect_ok("uninstalled");
    wait_for("buried", SOON, || {
        is_buried(&redis, "home/a") && is_buried(&redis, "home/b")
    });
    assert!(operator.is_running());
    place.server().install();
    place.apply("a", "{open: {duration: 22s}}");
    place.until_ready("a");

    // Uninstalled while the operator is away.
    assert_eq!(operator.terminate(), Some(0));
    let _ = place.server().kubectl(&uninstall).expect_ok("uninstalled");
    let _operator = place.operator(&redis, &["--pace", "10"]);
    wait_for("buried", Duration::from_secs(90), || is_buried(&redis, "home/a"));
}

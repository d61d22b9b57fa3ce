//! The ordinary life of a breaker: declared, programmed, open, probing, closed, deleted.

use crate::support::{Place, Redis, SOON, condition, holds};
use crds::testing::wait_for;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Settings, Verdict};
use tiebar::state::Cause;

/// Three times the promised two seconds.
const FOLLOWS: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_follows_the_circuit() {
    let (place, redis) = (Place::new("life"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    let spec =
        "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 3s}, halfOpen: {permittedCalls: 2}}";
    place.apply("inventory", spec);
    let status = place.until_ready("inventory");
    assert_eq!(status["state"], "Closed");
    assert_eq!(status["serviceId"], "life/inventory");
    assert_eq!(status["storeKey"], "cb:life/inventory:state");
    assert_eq!(status["observedGeneration"], 1);
    for condition in status["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 1, "{condition}");
    }
    assert_eq!(condition(&status, "Attached").1, "NoInstances");

    let breakers = Breakers::new(Arc::new(redis.store()), Settings::new("orders-1"));
    let guard = breakers.guard(&place.id("inventory"), None);
    let call = async |well: bool| {
        let judge = |outcome: &bool| {
            if *outcome {
                Verdict::Success
            } else {
                Verdict::Failure(Cause::Http(503))
            }
        };
        guard.call(async || well, judge).await.is_ok()
    };
    let until = async |what: &str, well: bool, admitted: bool| {
        let begun = Instant::now();
        while call(well).await != admitted {
            assert!(begun.elapsed() < SOON, "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until("no trip", false, false).await;
    let status = place.until("inventory", "Open", FOLLOWS, |status| status["state"] == "Open");
    assert_eq!(status["stateReason"], "ConsecutiveFailures");
    assert_eq!(status["previousState"], "Closed");
    assert!(
        status["openUntilTime"].is_string() && holds(&status, "Ready"),
        "{status}"
    );
    assert_eq!(status["tripSnapshot"]["causes"][0]["kind"], "503");
    for condition in ["condition=Ready", "jsonpath={.status.state}=Open"] {
        let condition = format!("--for={condition}");
        let _ = place
            .kubectl(&["wait", "cb/inventory", &condition, "--timeout=5s"])
            .expect_ok("kubectl wait");
    }

    // The state changes when somebody asks: the first of two probes, then the second.
    until("no probe", true, true).await;
    place.until("inventory", "HalfOpen", FOLLOWS, |status| status["state"] == "HalfOpen");
    until("no second probe", true, true).await;
    place.until("inventory", "Closed", FOLLOWS, |status| status["state"] == "Closed");
    place.until("inventory", "Attached", SOON, |status| holds(status, "Attached"));
    for reason in [
        "ConfigProgrammed",
        "CircuitOpened",
        "CircuitHalfOpened",
        "CircuitClosed",
    ] {
        wait_for(reason, SOON, || {
            place.events("inventory").iter().any(|event| event == reason)
        });
    }
    let (code, metrics) = operator.get("/metrics");
    assert_eq!(code, 200);
    for line in [
        "tiebar_operator_leader 1",
        "tiebar_operator_store_up 1",
        "tiebar_operator_drift_corrections_total 0",
        "tiebar_operator_status_writes_coalesced_total",
        "tiebar_operator_status_writes_total{result=\"ok\"}",
        "tiebar_operator_reconciliations_total{result=\"ok\"}",
        "tiebar_operator_reconcile_duration_seconds_count",
        "tiebar_breaker_state{breaker=\"life/inventory\",state=\"closed\"} 1",
        "tiebar_breaker_condition{breaker=\"life/inventory\",type=\"Ready\",status=\"True\"} 1",
        "tiebar_breaker_instances{breaker=\"life/inventory\",kind=\"live\"} 1",
        "tiebar_breaker_failure_ratio{breaker=\"life/inventory\"}",
        "tiebar_breaker_calls{breaker=\"life/inventory\"}",
        "tiebar_build_info",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!((operator.get("/livez").0, operator.get("/readyz").0), (200, 200));

    // Instances are told and forget; every key but the tombstone goes.
    let clients = redis.cli(&["CLIENT", "LIST"]);
    assert!(clients.contains("user=tiebar-operator"), "{clients}");
    place.delete("inventory");
    wait_for("told", SOON, || guard.status().revision == 0);
    drop(breakers);
    wait_for("buried", SOON, || {
        redis.keys_of("life/inventory") == ["cb:life/inventory:config"]
    });
    assert_eq!(operator.terminate(), Some(0));
    redis.nothing_was_denied();
}

#[test]
fn an_override_holds_and_lapses_without_any_instance() {
    let (place, redis) = (Place::new("override"), Redis::start(&[]));
    let _operator = place.operator(&redis, &[]);
    let ends = jiff::Timestamp::now() + Duration::from_secs(8);
    let ends = jiff::Timestamp::from_second(ends.as_second()).unwrap();
    let spec = format!("{{override: {{state: ForcedOpen, reason: CHG-1, expireTime: '{ends}'}}}}");
    place.apply("a", &spec);
    let status = place.until("a", "ForcedOpen", SOON, |status| status["state"] == "ForcedOpen");
    assert_eq!(status["override"]["state"], "ForcedOpen");
    assert!(holds(&status, "Overridden") && holds(&status, "Ready"), "{status}");
    let status = place.until("a", "lapsed", SOON, |status| status["state"] == "Closed");
    assert_eq!(
        condition(&status, "Overridden"),
        ("False".to_owned(), "Expired".to_owned())
    );
    assert_eq!(status["override"]["expired"], true);
    redis.nothing_was_denied();
    for reason in ["OverrideApplied", "OverrideExpired"] {
        wait_for(reason, SOON, || place.events("a").iter().any(|event| event == reason));
    }
}

#[test]
fn what_an_operator_does_not_know_it_says_in_one_line() {
    let (place, redis) = (Place::new("flags"), Redis::start(&[]));
    let run = |kubeconfig: &std::path::Path, arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tiebar-operator"))
            .args(["--redis", &redis.url()])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(std::path::Path::new("/does/not/exist"), &[]);
    assert!(
        said.contains("error: no cluster:") && said.contains("--breakers PATH"),
        "{said}"
    );
    let said = run(&place.account, &["--kube-qps", "0"]);
    assert!(said.contains("--kube-qps"), "{said}");
    let said = run(&place.account, &["--listen", "nowhere"]);
    assert!(said.contains("cannot listen on nowhere (--listen)"), "{said}");
}

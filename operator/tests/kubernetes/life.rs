//! The ordinary life of a breaker: declared, programmed, open, probing, closed, deleted.

use crate::support::{Cluster, Operator, Redis, breaker, condition, holds};
use std::sync::Arc;
use std::time::Duration;
use tiebar::guard::{Breakers, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::state::Cause;

/// Three times the promised two seconds.
const FOLLOWS: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_follows_the_circuit() {
    let (cluster, redis) = (Cluster::start(), Redis::start(&[]));
    let operator = Operator::start(&cluster, &redis, &[]);
    let spec =
        "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 3s}, halfOpen: {permittedCalls: 1}}";
    cluster.apply(&breaker("inventory", spec));
    cluster.until("inventory", "Ready", SOON, |status| holds(status, "Ready"));
    let status = cluster.status("inventory");
    assert_eq!(status["state"], "Closed");
    assert_eq!(status["serviceId"], "shop/inventory");
    assert_eq!(status["storeKey"], "cb:shop/inventory:state");
    assert_eq!(status["observedGeneration"], 1);
    for condition in status["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 1, "{condition}");
    }
    assert_eq!(condition(&status, "Attached").1, "NoInstances");

    let breakers = Breakers::new(Arc::new(redis.store()), Settings::new("orders-1"));
    let guard = breakers.guard(&ServiceId::parse("shop/inventory").unwrap(), None);
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
    while !call(true).await {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        call(false).await;
    }
    cluster.until("inventory", "Open", FOLLOWS, |status| status["state"] == "Open");
    let status = cluster.status("inventory");
    assert_eq!(
        (&status["stateReason"], &status["previousState"]),
        (&"ConsecutiveFailures".into(), &"Closed".into())
    );
    assert!(
        status["openUntilTime"].is_string() && holds(&status, "Ready"),
        "{status}"
    );
    assert_eq!(status["tripSnapshot"]["causes"][0]["kind"], "503");

    for arguments in [
        &[
            "wait",
            "cb/inventory",
            "-n",
            "shop",
            "--for=condition=Ready",
            "--timeout=5s",
        ],
        &[
            "wait",
            "cb/inventory",
            "-n",
            "shop",
            "--for=jsonpath={.status.state}=Open",
            "--timeout=5s",
        ],
    ] {
        let _ = cluster.server.kubectl(arguments).expect_ok("kubectl wait");
    }

    // The state changes only when somebody asks; the one probe passes and closes the circuit.
    let begun = std::time::Instant::now();
    while !call(true).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "no probe");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.until("inventory", "Closed", FOLLOWS, |status| status["state"] == "Closed");
    let events = cluster.events("inventory");
    for reason in ["ConfigProgrammed", "CircuitOpened", "CircuitClosed"] {
        assert!(events.iter().any(|event| event == reason), "{reason} in {events:?}");
    }
    let (code, metrics) = operator.get("/metrics");
    assert_eq!(code, 200);
    for line in [
        "tiebar_operator_leader 1",
        "tiebar_operator_store_up 1",
        "tiebar_breaker_state{breaker=\"shop/inventory\",state=\"closed\"} 1",
        "tiebar_breaker_condition{breaker=\"shop/inventory\",type=\"Ready\",status=\"True\"} 1",
        "tiebar_operator_status_writes_total{result=\"ok\"}",
        "tiebar_operator_reconciliations_total{result=\"ok\"}",
        "tiebar_build_info",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!((operator.get("/livez").0, operator.get("/readyz").0), (200, 200));
    drop(breakers);

    cluster.delete("inventory");
    crds::testing::wait_for("buried", SOON, || {
        redis.keys_of("shop/inventory") == ["cb:shop/inventory:config"]
    });
    assert_eq!(redis.cli(&["SMEMBERS", "cb:index"]), "");
    assert_eq!(operator.terminate(), Some(0));
}

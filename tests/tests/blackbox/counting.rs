//! Every outcome is counted exactly once.

use std::time::Duration;
use tests::{Fleet, PATIENCE, eventually, holds};

/// Counts for an hour and never trips. A thousand connections at once may overflow the upstream's queue of them, and the
/// kernel tries again after a second: that is not what is counted here.
const COUNTING: &str = "{trip: {failureRateThreshold: 100, minimumNumberOfCalls: 100000, minimumInstances: 1, \
                        slidingWindow: {type: TimeBased, duration: 1h}}, call: {connectTimeout: 30s}}";

/// Waits until the store has counted so many failures; more would never become fewer.
async fn counted(fleet: &Fleet, failures: u64) {
    eventually(PATIENCE, &format!("{failures} failures are counted"), async || {
        let count = fleet.redis.get(&Fleet::key("failures")).await;
        holds(count.as_deref() == Some(&*failures.to_string()), format!("{count:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_times_250_concurrent_failures_are_a_thousand() {
    let fleet = Fleet::with(COUNTING).instances(4).start().await;
    fleet.upstream.fail().await;
    fleet.upstream.forget().await;
    let answers = fleet.storm(250).await;
    let others = answers.iter().find(|(_, answer)| answer.status != 500);
    assert!(others.is_none(), "{others:?}");
    assert_eq!(fleet.upstream.requests().await, 1_000);
    counted(&fleet, 1_000).await;
    let mut total = 0.0;
    for instance in &fleet.instances {
        let what = format!("{} was told of all of them", instance.name);
        eventually(Duration::from_secs(6), &what, async || {
            let known = instance.breaker().await;
            holds(known["failures"] == 1_000 && known["calls"] == 1_000, known)
        })
        .await;
        let metrics = instance.metrics().await;
        total += metrics
            .value("tiebar_calls_total", &[("outcome", "failure")])
            .unwrap_or(0.0);
        assert_eq!(metrics.value("tiebar_late_outcomes_total", &[]).unwrap_or(0.0), 0.0);
        assert_eq!(metrics.value("tiebar_dropped_outcomes_total", &[]).unwrap_or(0.0), 0.0);
    }
    assert_eq!(total, 1_000.0);
    counted(&fleet, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_restarted_under_its_name_loses_and_doubles_nothing() {
    let mut fleet = Fleet::with(COUNTING).instances(1).start().await;
    fleet.upstream.fail().await;
    fleet.storm(100).await;
    counted(&fleet, 100).await;

    // Killed: it starts with batch number 1 again, which must not be taken for the old one.
    fleet.instances[0].process.kill().await;
    fleet.instances[0].start_again().await;
    fleet.agrees("closed").await;
    fleet.storm(100).await;
    counted(&fleet, 200).await;

    // Told to go right after the last answer: what is not sent yet goes out first.
    for round in 1..=3 {
        fleet.storm(100).await;
        assert_eq!(fleet.instances[0].process.terminate().await, Some(0));
        counted(&fleet, 200 + 100 * round).await;
        fleet.instances[0].start_again().await;
        fleet.agrees("closed").await;
    }
    fleet.storm(1).await;
    counted(&fleet, 501).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_at_sigterm_end_and_are_counted() {
    let mut fleet = Fleet::with(COUNTING).instances(1).start().await;
    fleet
        .upstream
        .faults(r#"{"errorPercent": 100, "latencyMs": 5000}"#)
        .await;
    let url = fleet.instances[0].url.clone();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { tests::get(&url).await.status })
        })
        .collect();
    eventually(PATIENCE, "all are under way", async || {
        let stats = fleet.upstream.stats().await;
        holds(stats["inFlight"] == 50, stats)
    })
    .await;
    assert_eq!(fleet.instances[0].process.terminate().await, Some(0));
    for call in calls {
        assert_eq!(call.await.expect("the call was answered"), 500);
    }
    counted(&fleet, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_comes_too_late_neither_loses_nor_doubles() {
    let mut fleet = Fleet::with(COUNTING).instances(1).start().await;
    fleet.upstream.fail().await;
    // Longer than a reply is waited for, shorter than the second after which the store counts as lost: what was sent
    // waits at the server, and is sent again.
    let hiccup = Duration::from_millis(500);
    for calls in [50, 100] {
        fleet.redis.freeze();
        let thaw = tokio::time::Instant::now() + hiccup;
        fleet.storm(50).await;
        tokio::time::sleep_until(thaw).await;
        fleet.redis.thaw();
        counted(&fleet, calls).await;
    }
    // Told to go with everything still unsent.
    fleet.redis.freeze();
    let thaw = tokio::time::Instant::now() + hiccup;
    fleet.storm(50).await;
    fleet.instances[0].process.signal(tests::Signal::TERM);
    tokio::time::sleep_until(thaw).await;
    fleet.redis.thaw();
    assert_eq!(fleet.instances[0].process.ended().await.code(), Some(0));
    counted(&fleet, 150).await;
    // Nothing comes after.
    fleet.instances[0].start_again().await;
    fleet.agrees("closed").await;
    counted(&fleet, 150).await;
}

//! One trips, all block; the keys tell the truth.

use std::time::{Duration, Instant};
use tests::{Fleet, WALK_THROUGH, eventually, holds};

/// Half the pause between two resyncs: what arrives within it was pushed.
const PUSHED: Duration = Duration::from_millis(500);

async fn late(fleet: &Fleet, instance: usize) -> f64 {
    let metrics = fleet.instances[instance].metrics().await;
    metrics.value("tiebar_late_outcomes_total", &[]).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_trips_all_block_within_milliseconds() {
    let fleet = Fleet::with(WALK_THROUGH).start().await;
    let mut fewest = f64::MAX;
    for tripper in 0..3 {
        let before = late(&fleet, tripper).await;
        assert_eq!(fleet.trip(tripper).await, 3, "judged at the third failure");
        // A call waits for the store's word on the failures before it, so there should be no fourth; a machine that is
        // busier than the 20 ms it waits may let one by, as a late one.
        fewest = fewest.min(late(&fleet, tripper).await - before);
        let tripped = Instant::now();
        for other in (0..3).filter(|other| *other != tripper) {
            let (tripper, other) = (&fleet.instances[tripper], &fleet.instances[other]);
            // Without a call through it: whose reply would tell it, too.
            eventually(
                PUSHED,
                &format!("{} knows that {} tripped", other.name, tripper.name),
                async || {
                    let known = other.breaker().await;
                    holds(known["state"] == "open", known)
                },
            )
            .await;
            let answer = other.call().await;
            assert_eq!(answer.blocked().as_deref(), Some("open"), "its very first call");
        }
        assert!(tripped.elapsed() < PUSHED, "{:?}", tripped.elapsed());
        fleet.upstream.forget().await;
        for (_, answer) in fleet.storm(10).await {
            assert_eq!((answer.status, answer.state()), (503, "open"), "{}", answer.body);
        }
        assert_eq!(
            fleet.upstream.requests().await,
            0,
            "an open circuit lets nothing through"
        );
        fleet.upstream.heal().await;
        eventually(
            Duration::from_secs(6),
            "closed after the two seconds of open",
            async || {
                let (status, state) = {
                    let answer = fleet.instances[0].call().await;
                    (answer.status, answer.state().to_owned())
                };
                holds(status == 200 && state == "closed", format!("{status} {state}"))
            },
        )
        .await;
        fleet.agrees("closed").await;
    }
    assert_eq!(fewest, 0.0, "sequential calls trip exactly at the threshold");
    let transitions = fleet.redis.transitions(Fleet::ID).await;
    let round = [
        "closed → open ConsecutiveFailures",
        "open → half_open WaitElapsed",
        "half_open → closed ProbesSucceeded",
    ];
    assert_eq!(
        transitions[1..],
        [round, round, round].concat(),
        "nothing but three rounds after the seed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_keys_tell_the_truth() {
    let fleet = Fleet::with(WALK_THROUGH).start().await;
    let keys = async || {
        let [state, failures, last] = ["state", "failures", "last_failure"].map(Fleet::key);
        let redis = &fleet.redis;
        (
            redis.get(&state).await,
            redis.get(&failures).await,
            redis.get(&last).await,
        )
    };
    let (state, failures, last) = keys().await;
    assert_eq!(
        (state.as_deref(), failures.as_deref(), last),
        (Some("closed"), Some("0"), None)
    );

    fleet.upstream.fail().await;
    fleet.instances[0].call().await;
    fleet.instances[1].call().await;
    eventually(Duration::from_secs(3), "two failures are in the store", async || {
        let (state, failures, _) = keys().await;
        holds(
            state.as_deref() == Some("closed") && failures.as_deref() == Some("2"),
            format!("{state:?} {failures:?}"),
        )
    })
    .await;

    let called_at: (u64, u64) = fleet.redis.ask(&["TIME"]).await;
    fleet.instances[2].call().await;
    eventually(Duration::from_secs(3), "the third opens", async || {
        let (state, failures, _) = keys().await;
        holds(
            state.as_deref() == Some("open") && failures.as_deref() == Some("3"),
            format!("{state:?} {failures:?}"),
        )
    })
    .await;
    let now: (u64, u64) = fleet.redis.ask(&["TIME"]).await;
    let last = keys().await.2.expect("there was a failure");
    let (seconds, decimals) = last.split_once('.').expect("a decimal point");
    assert_eq!(decimals.len(), 2, "{last}");
    let seconds: u64 = seconds.parse().expect("Unix seconds");
    assert!(
        (called_at.0..=now.0).contains(&seconds),
        "{last} is not from {called_at:?} to {now:?}"
    );

    // One probe under way, none finished: half-open, no failures in this round.
    fleet.upstream.faults(r#"{"latencyMs": 1500}"#).await;
    let probe = eventually(Duration::from_secs(6), "a call becomes a probe", async || {
        let url = fleet.instances[1].url.clone();
        let call = tokio::spawn(async move { tests::get(&url).await });
        loop {
            if keys().await.0.as_deref() == Some("half_open") {
                return Ok(call);
            }
            if call.is_finished() {
                return Err(call.await.expect("answered").state().to_owned());
            }
        }
    })
    .await;
    assert_eq!(keys().await.1.as_deref(), Some("0"));
    assert_eq!(probe.await.expect("answered").state(), "half_open");
}

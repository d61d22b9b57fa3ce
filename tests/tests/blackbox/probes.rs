//! Half-open: as many probes as permitted, and none that wedges the fleet.

use std::time::Duration;
use tests::{Fleet, PATIENCE, eventually, get, holds};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// One probe at a time, which has three seconds, time enough to kill its instance; its lease therefore four.
const SINGLE: &str = "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 1s}, \
                      halfOpen: {permittedCalls: 1, maxDuration: 5s}, call: {timeout: 3s}}";

/// 3 × 50 calls at once, right after the circuit's time is over. Returns how many were let through as probes, and how many
/// because the circuit had closed again.
async fn a_round(fleet: &Fleet) -> (usize, usize) {
    let rejection = fleet.instances[0].call().await.json();
    let wait = rejection["retryAfterMs"]
        .as_u64()
        .expect("an open circuit says how long");
    tokio::time::sleep(Duration::from_millis(wait + 20)).await;
    let (mut probes, mut free) = (0, 0);
    for (_, answer) in fleet.storm(50).await {
        match (answer.blocked().as_deref(), answer.state()) {
            (None, "half_open") => probes += 1,
            (None, "closed") => free += 1,
            // Open again, for those that came after the verdict.
            (Some("probe_limit"), "half_open") | (Some("open"), "open") => assert_eq!(answer.status, 503),
            _ => panic!("{answer:?}"),
        }
    }
    (probes, free)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_fifty_calls_at_once_become_exactly_the_permitted_probes() {
    let fleet = Fleet::with(tests::WALK_THROUGH).start().await;
    fleet.trip(0).await;

    // Slow enough that all others are rejected while the probes run.
    fleet
        .upstream
        .faults(r#"{"errorPercent": 100, "latencyMs": 500}"#)
        .await;
    fleet.upstream.forget().await;
    assert_eq!(a_round(&fleet).await, (3, 0), "probes that fail");
    assert_eq!(fleet.upstream.requests().await, 3);
    fleet.agrees("open").await;

    fleet.upstream.faults(r#"{"latencyMs": 500}"#).await;
    fleet.upstream.forget().await;
    let (probes, free) = a_round(&fleet).await;
    assert_eq!(probes, 3, "probes that succeed");
    assert_eq!(fleet.upstream.requests().await, 3 + free as u64);
    fleet.agrees("closed").await;
}

/// Calls through an instance until one is under way at the service, as a probe that hangs there. The call goes on by itself.
async fn hanging_probe(fleet: &Fleet, through: usize) -> TcpStream {
    fleet.upstream.faults(r#"{"hangPercent": 100}"#).await;
    let address = fleet.instances[through].url.replace("http://", "");
    let call = eventually(PATIENCE, "a call becomes a probe", async || {
        let mut call = TcpStream::connect(&address).await.map_err(|error| error.to_string())?;
        let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        call.write_all(request.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut first = [0];
        loop {
            if fleet.upstream.stats().await["inFlight"] == 1 {
                return Ok(call);
            }
            // Any answer is a rejection.
            if call.try_read(&mut first).is_ok() {
                return Err("it was answered".to_owned());
            }
        }
    })
    .await;
    let state = fleet.redis.get(&Fleet::key("state")).await;
    assert_eq!(state.as_deref(), Some("half_open"));
    call
}

/// Calls until the circuit has closed; every call until then was rejected for want of a free slot, or was a probe.
async fn closes(fleet: &Fleet, through: usize, bound: Duration, what: &str) {
    let mut refused = 0;
    eventually(bound, what, async || {
        let answer = get(&fleet.instances[through].url).await;
        match answer.blocked().as_deref() {
            None => assert_eq!(answer.status, 200),
            Some("probe_limit") => refused += 1,
            Some(other) => panic!("{other}"),
        }
        holds(answer.state() == "closed", answer.state())
    })
    .await;
    println!("refused meanwhile: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_prober_wedges_nothing() {
    let mut fleet = Fleet::with(SINGLE).start().await;
    fleet.trip(0).await;
    let _call = hanging_probe(&fleet, 0).await;
    fleet.instances[0].process.kill().await;
    fleet.upstream.heal().await;
    let limit = get(&fleet.instances[1].url).await;
    assert_eq!(
        limit.blocked().as_deref(),
        Some("probe_limit"),
        "the dead one's slot is taken"
    );
    // The lease of four seconds and `maxDuration` are nine; three times that.
    closes(&fleet, 1, Duration::from_secs(27), "closed after the prober was killed").await;
    fleet.instances[0].start_again().await;
    fleet.agrees("closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_frees_its_probes_slot() {
    // Without a timeout a lease is ten seconds: only the cancellation can free the slot sooner.
    let long = SINGLE.replace("5s}, call: {timeout: 3s}", "30s}");
    let fleet = Fleet::with(&long).start().await;
    fleet.trip(0).await;
    let call = hanging_probe(&fleet, 0).await;
    fleet.upstream.heal().await;
    let limit = get(&fleet.instances[1].url).await;
    assert_eq!(limit.blocked().as_deref(), Some("probe_limit"), "the slot is taken");
    drop(call);
    closes(
        &fleet,
        1,
        Duration::from_secs(3),
        "closed after the prober's client hung up",
    )
    .await;
    assert_eq!(
        fleet.upstream.stats().await["inFlight"],
        0,
        "the call itself was given up"
    );
}

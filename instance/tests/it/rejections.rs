//! What a rejected caller sees, for each reason.

use crate::support::client::{Seen, full, get, http1, request};
use crate::support::upstream::{Ending, healthy, scripted, stub, text};
use crate::support::{PATIENT, Proxy, THREE, eventually, id};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tiebar::state::Kind;
use tiebar::store::{Batch, Exchange, Outcome, Store as _};

/// Checks everything that every rejection has, and gives back `Retry-After` and `retryAfterMs`.
fn check(seen: &Seen, status: u16, state: &str, reason: &str) -> (u64, u64) {
    assert_eq!(seen.status, status, "{seen:?}");
    assert_eq!(seen.header("x-circuit-state"), state);
    assert_eq!(seen.header("content-type"), "application/problem+json");
    assert_eq!(seen.header("proxy-status"), "tiebar; error=destination_unavailable");
    let body = seen.json();
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "detail",
            "guardedBy",
            "outcome",
            "reason",
            "retryAfterMs",
            "service",
            "state",
            "status",
            "title",
            "type"
        ]
    );
    assert_eq!(body["type"], "https://tiebar.dev/problems/circuit-open");
    assert_eq!(body["title"], "Circuit open");
    assert_eq!(body["status"], status);
    assert_eq!(body["service"], "shop/inventory");
    assert_eq!(body["state"], state);
    assert_eq!(body["outcome"], "blocked");
    assert_eq!(body["reason"], reason, "{body}");
    assert_eq!(body["guardedBy"], "tested");
    let seconds = seen.header("retry-after").parse().expect("whole seconds");
    (seconds, body["retryAfterMs"].as_u64().unwrap())
}

async fn trip(proxy: &Proxy) {
    eventually("the trip", async || {
        let seen = get(proxy.traffic, "/").await;
        (seen.status == 503 && seen.header("x-circuit-state") != "closed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn open_says_when_to_come_again() {
    let upstream = stub(async |_| text(500, "")).await;
    let proxy = Proxy::start(THREE, &upstream.url).await;
    for _ in 0..3 {
        assert_eq!(get(proxy.traffic, "/").await.status, 500);
    }
    // A caller sees its own trip: the very next call is rejected.
    let (seconds, ms) = check(&get(proxy.traffic, "/").await, 503, "open", "open");
    assert!(ms > 25_000 && ms <= 30_000, "{ms} ms of 30 s");
    assert_eq!(seconds, ms.div_ceil(1_000));
    assert_eq!(upstream.count(), 3);
    assert_eq!(proxy.outcomes().await, [0, 3, 0, 0, 0, 1]);
    assert_eq!(proxy.breaker().await.unwrap()["state"], "open");
    let state = proxy
        .metric("tiebar_state{breaker=\"shop/inventory\",state=\"open\"}")
        .await;
    assert!(state > 0.5);
    let tripped = "tiebar_transitions_total{breaker=\"shop/inventory\",from=\"closed\",to=\"open\",reason=\"ConsecutiveFailures\"}";
    assert!(proxy.metric(tripped).await > 0.5);
}

#[tokio::test]
async fn a_rejection_has_the_status_it_is_given_and_no_body_for_head() {
    let upstream = stub(async |_| text(500, "")).await;
    let proxy = Proxy::start(&format!("{THREE}\nrejection: {{httpStatusCode: 429}}"), &upstream.url).await;
    for _ in 0..3 {
        get(proxy.traffic, "/").await;
    }
    check(&get(proxy.traffic, "/").await, 429, "open", "open");
    let mut sender = http1(proxy.traffic).await;
    let head = sender
        .send_request(request("HEAD", "/").body(full("")).unwrap())
        .await
        .unwrap();
    let head = crate::support::client::collect(head).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (429, 0));
}

#[tokio::test]
async fn forced_open_lasts_until_its_end_or_nobody_knows() {
    let upstream = healthy().await;
    let spec = format!("{PATIENT}\noverride: {{state: ForcedOpen, reason: CHG-1}}");
    let proxy = Proxy::start(&spec, &upstream.url).await;
    proxy.wait_state("forced_open").await;
    let (seconds, _) = check(&get(proxy.traffic, "/").await, 503, "forced_open", "forced");
    assert_eq!(seconds, 30);
    let spec = format!("{PATIENT}\noverride: {{state: ForcedOpen, reason: CHG-1, expireTime: '2099-01-01T00:00:00Z'}}");
    let proxy = Proxy::start(&spec, &upstream.url).await;
    proxy.wait_state("forced_open").await;
    let (seconds, ms) = check(&get(proxy.traffic, "/").await, 503, "forced_open", "forced");
    assert!(seconds == 300 && ms > 300_000, "at most 300 s, {seconds} s, {ms} ms");
    let spec = format!("{PATIENT}\noverride: {{state: ForcedClosed, reason: CHG-1}}");
    let proxy = Proxy::start(&spec, &upstream.url).await;
    proxy.wait_state("forced_closed").await;
    assert_eq!(get(proxy.traffic, "/").await.header("x-circuit-state"), "forced_closed");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn while_probes_run_others_are_told_to_come_in_a_second() {
    let upstream = scripted("", Ending::Hang).await;
    let spec = format!("{THREE}\nopen: {{duration: 100ms}}\nhalfOpen: {{permittedCalls: 1}}\ncall: {{timeout: 100ms}}");
    let proxy = Proxy::start(&spec, &upstream.url).await;
    for _ in 0..3 {
        assert_eq!(get(proxy.traffic, "/").await.status, 504);
    }
    // With a long timeout the probe stays under way.
    let calm = format!("{THREE}\nopen: {{duration: 100ms}}\nhalfOpen: {{permittedCalls: 1}}");
    crate::support::program(&proxy.store, &calm).await;
    // Probes hang; what is answered is a rejection.
    let mut probes = Vec::new();
    let seen = eventually("a refusal", async || {
        let traffic = proxy.traffic;
        let mut call = tokio::spawn(async move { get(traffic, "/").await });
        match tokio::time::timeout(std::time::Duration::from_millis(300), &mut call).await {
            Ok(seen) => Some(seen.unwrap()).filter(|seen| seen.json()["reason"] == "probe_limit"),
            Err(_) => {
                probes.push(call);
                None
            }
        }
    })
    .await;
    assert_eq!(probes.len(), 1, "one probe is permitted");
    let (seconds, _) = check(&seen, 503, "half_open", "probe_limit");
    assert_eq!(seconds, 1);
}

#[tokio::test]
async fn a_ramp_admits_a_share() {
    let status = Arc::new(AtomicU16::new(500));
    let now = Arc::clone(&status);
    let upstream = stub(move |_| {
        let status = now.load(Ordering::SeqCst);
        async move { text(status, "") }
    })
    .await;
    let spec = format!(
        "{THREE}\nopen: {{duration: 100ms}}\nhalfOpen: {{permittedCalls: 1}}\nrecovery: {{rampDuration: 1h, initialPercent: 0}}"
    );
    let proxy = Proxy::start(&spec, &upstream.url).await;
    trip(&proxy).await;
    status.store(200, Ordering::SeqCst);
    let probe = eventually("a probe", async || {
        let seen = get(proxy.traffic, "/").await;
        (seen.status == 200).then_some(seen)
    })
    .await;
    assert_eq!(probe.header("x-circuit-state"), "half_open");
    proxy.wait_state("closed").await;
    let seen = get(proxy.traffic, "/").await;
    check(&seen, 503, "closed", "ramp");
}

#[tokio::test]
async fn without_the_store_deny_means_deny() {
    let upstream = healthy().await;
    let proxy = Proxy::start(&format!("{PATIENT}\nstoreFailurePolicy: Deny"), &upstream.url).await;
    assert_eq!(get(proxy.traffic, "/").await.status, 200);
    proxy.store.set_reachable(false);
    let seen = eventually("a rejection", async || {
        let seen = get(proxy.traffic, "/").await;
        (seen.status == 503).then_some(seen)
    })
    .await;
    check(&seen, 503, seen.header("x-circuit-state"), "store");
    assert!(
        proxy
            .metric("tiebar_store_fallback_active{breaker=\"shop/inventory\"}")
            .await
            > 0.5
    );
    assert!(proxy.metric("tiebar_store_up").await < 0.5);
    assert_eq!(proxy.breaker().await.unwrap()["degraded"], true);
    let all = proxy.admin("/breakers").await.json();
    assert_eq!(
        (all["instance"].as_str(), all["storeUp"].as_bool()),
        (Some("tested"), Some(false))
    );
}

#[tokio::test]
async fn one_that_fails_alone_is_open_alone() {
    let upstream = stub(async |_| text(500, "")).await;
    let spec = "trip: {failureRateThreshold: 50, minimumNumberOfCalls: 5}";
    let proxy = Proxy::start(spec, &upstream.url).await;
    let generation = proxy.breaker().await.unwrap()["generation"].as_u64().unwrap();
    let success = Outcome {
        kind: Kind::Success,
        cause: 0,
    };
    let others = Exchange {
        instance: "other".to_owned(),
        boot: "other".to_owned(),
        batch: Some(Batch {
            number: 1,
            generation,
            outcomes: vec![success; 100],
            ..Batch::default()
        }),
        ..Exchange::default()
    };
    proxy.store.exchange(&id(), &others).await.unwrap();
    let seen = eventually("isolation", async || {
        let seen = get(proxy.traffic, "/").await;
        (seen.status == 503).then_some(seen)
    })
    .await;
    check(&seen, 503, "open", "isolated");
    assert!(proxy.metric("tiebar_isolated{breaker=\"shop/inventory\"}").await > 0.5);
}

#[tokio::test]
async fn too_many_calls_at_once_are_no_evidence() {
    let upstream = scripted("", Ending::Hang).await;
    let proxy = Proxy::start_with(PATIENT, &upstream.url, |settings| settings.limits.max_in_flight = 1).await;
    let mut sender = http1(proxy.traffic).await;
    let held = tokio::spawn(sender.send_request(request("GET", "/").body(full("")).unwrap()));
    eventually("the first call", async || (upstream.count() == 1).then_some(())).await;
    let (seconds, _) = check(&get(proxy.traffic, "/").await, 503, "closed", "overload");
    assert_eq!(seconds, 1);
    assert_eq!(proxy.outcomes().await, [0, 0, 0, 0, 0, 1]);
    assert!(proxy.metric("tiebar_in_flight").await > 0.5);
    held.abort();
    drop(sender);
    proxy.wait_outcomes([0, 0, 0, 0, 1, 1]).await;
}

#[tokio::test]
async fn a_rejected_upload_still_sees_its_answer() {
    let upstream = healthy().await;
    let spec = format!("{PATIENT}\noverride: {{state: ForcedOpen, reason: CHG-1}}");
    let proxy = Proxy::start(&spec, &upstream.url).await;
    proxy.wait_state("forced_open").await;
    for _ in 0..20 {
        let body = full(vec![b'x'; 800 * 1_024]);
        let mut sender = http1(proxy.traffic).await;
        let response = sender.send_request(request("POST", "/").body(body).unwrap()).await;
        let response = response.expect("the rejection, not a reset");
        check(
            &crate::support::client::collect(response).await,
            503,
            "forced_open",
            "forced",
        );
    }
}

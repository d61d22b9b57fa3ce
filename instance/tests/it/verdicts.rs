//! Which answer is which outcome, in the metric and in the header.

use crate::support::client::{full, get, http1, request, send};
use crate::support::upstream::{Ending, healthy, scripted, stub, text};
use crate::support::{PATIENT, Proxy, soon};
use http_body_util::BodyExt as _;
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_status_is_judged_by_the_failure_conditions() {
    let upstream = stub(async |request| {
        let status = request.uri().path()[1..].parse().unwrap();
        text(status, "")
    })
    .await;
    let spec = format!(
        "{PATIENT}\nfailureConditions: {{httpStatusCodes: ['500-599', '429'], ignoredHttpStatusCodes: ['501', '404']}}"
    );
    let proxy = Proxy::start(&spec, &upstream.url).await;
    let mut wanted = [0; 6];
    for (status, outcome) in [
        (200, 0),
        (204, 0),
        (302, 0),
        (400, 0),
        (429, 1),
        (500, 1),
        (503, 1),
        (599, 1),
        (501, 4),
        (404, 4),
    ] {
        let seen = get(proxy.traffic, &format!("/{status}")).await;
        assert_eq!(seen.status, status);
        assert_eq!(seen.header("x-circuit-state"), "closed");
        wanted[outcome] += 1;
        assert_eq!(proxy.outcomes().await, wanted, "after {status}");
    }
    let durations = proxy
        .metric("tiebar_call_duration_seconds_count{breaker=\"shop/inventory\",outcome=\"failure\"}")
        .await;
    assert!((durations - 4.0).abs() < 0.1, "{durations} durations of failures");
}

#[tokio::test]
async fn an_upstream_that_gives_no_answer_is_a_failure_of_a_kind() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let hang = scripted("", Ending::Hang).await;
    let reset = scripted("", Ending::Reset).await;
    let close = scripted("", Ending::Close).await;
    let nonsense = scripted("SSH-2.0-OpenSSH\r\n\r\n", Ending::Close).await;
    for (upstream, kind, status, problem, error) in [
        (
            &nobody,
            "ConnectionFailure",
            502,
            "upstream-unreachable",
            "connection_refused",
        ),
        (
            &"http://no.such.host.invalid:1".to_owned(),
            "ConnectionFailure",
            502,
            "upstream-unreachable",
            "dns_error",
        ),
        (&hang.url, "Timeout", 504, "upstream-timeout", "http_response_timeout"),
        (
            &reset.url,
            "Reset",
            502,
            "upstream-unreachable",
            "connection_terminated",
        ),
        (
            &close.url,
            "Reset",
            502,
            "upstream-unreachable",
            "connection_terminated",
        ),
        (
            &nonsense.url,
            "Reset",
            502,
            "upstream-unreachable",
            "connection_terminated",
        ),
    ] {
        for counts in [true, false] {
            let kinds = ["Timeout", "ConnectionFailure", "Reset"];
            let kinds: Vec<&str> = kinds.into_iter().filter(|each| counts || *each != kind).collect();
            let spec = format!(
                "{PATIENT}\ncall: {{timeout: 300ms, connectTimeout: 5s}}\nfailureConditions: {{errorKinds: [{}]}}",
                kinds.join(", ")
            );
            let proxy = Proxy::start(&spec, upstream).await;
            let seen = get(proxy.traffic, "/").await;
            assert_eq!(seen.status, status, "{kind}: {seen:?}");
            assert_eq!(seen.header("x-circuit-state"), "closed");
            assert_eq!(seen.header("content-type"), "application/problem+json");
            assert_eq!(seen.header("proxy-status"), format!("tiebar; error={error}"));
            let body = seen.json();
            assert_eq!(body["type"], format!("https://tiebar.dev/problems/{problem}"));
            assert_eq!(body["status"], status);
            assert_eq!(body["outcome"], "failure");
            assert_eq!(body["service"], "shop/inventory");
            assert_eq!(body["guardedBy"], "tested");
            let outcomes = proxy.outcomes().await;
            let wanted = if counts { [0, 1, 0, 0, 0, 0] } else { [0, 0, 0, 0, 1, 0] };
            assert_eq!(outcomes, wanted, "{kind}, counted: {counts}");
        }
    }
}

#[tokio::test]
async fn timeouts_follow_the_stores_configuration() {
    let upstream = scripted("", Ending::Hang).await;
    let proxy = Proxy::start(&format!("{PATIENT}\ncall: {{timeout: 50ms}}"), &upstream.url).await;
    assert_eq!(get(proxy.traffic, "/").await.status, 504);
    let before = proxy.breaker().await.unwrap()["revision"].as_u64();
    crate::support::program(&proxy.store, PATIENT).await;
    crate::support::eventually("the new revision", async || {
        (proxy.breaker().await?["revision"].as_u64() > before).then_some(())
    })
    .await;
    let mut sender = http1(proxy.traffic).await;
    let unlimited = sender.send_request(request("GET", "/").body(full("")).unwrap());
    let unlimited = tokio::time::timeout(Duration::from_millis(500), unlimited);
    assert!(unlimited.await.is_err(), "without a timeout the call goes on");
}

#[tokio::test]
async fn an_answer_that_breaks_off_after_its_headers_was_a_success_and_reaches_the_caller_as_broken() {
    let upstream = scripted("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", Ending::Close).await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let mut sender = http1(proxy.traffic).await;
    let response = sender
        .send_request(request("GET", "/").body(full("")).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let whole = soon("the end of the body", response.into_body().collect()).await;
    assert!(whole.is_err(), "a truncated body must not look whole");
    proxy.wait_outcomes([1, 0, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_stale_connection_is_no_failure() {
    // Each connection serves one request and is closed without a word.
    let upstream = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ending::Close).await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    for round in 1..=20 {
        let seen = get(proxy.traffic, "/").await;
        assert_eq!(seen.status, 200, "round {round}");
        // The upstream's goodbye must have arrived: in between is the race that nobody can win.
        crate::support::eventually("the connection's end", async || {
            (upstream.count() == round).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.outcomes().await, [20, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn slow_answers_are_told_from_quick_ones() {
    let upstream = stub(async |request| {
        let (path, _) = (request.uri().path().to_owned(), request);
        if path.starts_with("/slow") {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        text(if path.ends_with("bad") { 500 } else { 200 }, "")
    })
    .await;
    let spec = "trip: {slowCallRateThreshold: 100, slowCallDurationThreshold: 100ms, minimumNumberOfCalls: 1000}";
    let proxy = Proxy::start(spec, &upstream.url).await;
    for path in ["/ok", "/bad", "/slow/ok", "/slow/bad"] {
        get(proxy.traffic, path).await;
    }
    assert_eq!(proxy.outcomes().await, [1, 1, 1, 1, 0, 0]);
}

#[tokio::test]
async fn without_a_configuration_everything_passes_and_says_so() {
    let upstream = healthy().await;
    let store = std::sync::Arc::new(tiebar::memory::MemoryStore::new());
    crate::support::program(&store, PATIENT).await;
    let proxy = Proxy::over(store, &upstream.url, |settings| {
        let mut other = instance::RouteSpec::single("shop/nobody", &settings.routes[0].upstream);
        other.path_prefix = "/nobody".to_owned();
        settings.routes.push(other);
    })
    .await;
    let seen = send(proxy.traffic, request("GET", "/nobody").body(full("")).unwrap()).await;
    assert_eq!(
        (seen.status.as_u16(), seen.header("x-circuit-state")),
        (200, "unconfigured")
    );
    let unconfigured = proxy.metric("tiebar_unconfigured{breaker=\"shop/nobody\"}").await;
    assert!(unconfigured > 0.5);
    let metrics = proxy.metrics().await;
    assert!(!metrics.contains("tiebar_config_revision{breaker=\"shop/nobody\"}"));
    assert!(metrics.contains("tiebar_config_revision{breaker=\"shop/inventory\"}"));
}

//! Hostile callers over raw TCP: a clean refusal, never evidence, and the next caller is served.

use crate::support::client::{get, raw, read_until};
use crate::support::upstream::{Stub, healthy, stub, text};
use crate::support::{PATIENT, Proxy, soon};
use http_body_util::BodyExt as _;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Requests that must be refused with this status, and end the connection.
const BAD: &[(&str, u16, &str)] = &[
    ("no HTTP", 400, "\u{1}\u{2}\u{3}\r\n\r\n"),
    ("no version", 400, "GET /\r\n\r\n"),
    ("version of the future", 400, "GET / HTTP/3.7\r\nhost: a\r\n\r\n"),
    ("bad method", 400, "G\"T / HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("space in target", 400, "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("no host", 400, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n"),
    (
        "two hosts",
        400,
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
    ),
    (
        "bad host",
        400,
        "GET / HTTP/1.1\r\nhost: a/../b\r\nconnection: close\r\n\r\n",
    ),
    (
        "empty host",
        400,
        "GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
    ),
    (
        "host with credentials",
        400,
        "GET / HTTP/1.1\r\nhost: u:p@a\r\nconnection: close\r\n\r\n",
    ),
    (
        "target with credentials",
        400,
        "GET http://u:p@a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ),
    ("folded header", 400, "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n"),
    (
        "space before colon",
        400,
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "header without colon",
        400,
        "GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n",
    ),
    ("NUL in header", 400, "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n"),
    (
        "bare CR in header",
        400,
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n",
    ),
    (
        "length no number",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: five\r\n\r\n",
    ),
    (
        "length negative",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    ),
    (
        "length with plus",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
    ),
    (
        "length too large",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
    ),
    (
        "two lengths",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    ),
    (
        "list of lengths",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 6\r\n\r\nhello!",
    ),
    (
        "coding not last",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "unknown coding",
        501,
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "disguised coding",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "coding in HTTP/1.0",
        400,
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "CONNECT",
        405,
        "CONNECT a:80 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ),
    (
        "unknown expectation",
        417,
        "GET / HTTP/1.1\r\nhost: a\r\nexpect: miracles\r\nconnection: close\r\n\r\n",
    ),
    (
        "chunk no number",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk too large",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
    ),
    (
        "chunk without end",
        400,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    ),
];

/// Reads all of a request before it answers.
async fn reading() -> Stub {
    stub(async |request| {
        let _ = request.into_body().collect().await;
        text(200, "fine")
    })
    .await
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// No call was judged but those that went well, and the proxy still serves.
async fn unharmed(proxy: &Proxy, what: &str) {
    let before = proxy.outcomes().await;
    assert_eq!(before[1..4], [0, 0, 0], "{what} became evidence");
    assert_eq!(get(proxy.traffic, "/").await.status, 200, "after {what}");
    assert!(!proxy.task.is_finished(), "the proxy ended at {what}");
}

#[tokio::test]
async fn bad_requests_are_refused_and_say_nothing_about_the_upstream() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    for (what, wanted, bytes) in BAD {
        let arrived = upstream.count();
        let answer = raw(proxy.traffic, bytes).await;
        assert_eq!(status(&answer), Some(*wanted), "{what}: {answer}");
        let answers = answer.lines().filter(|line| status(line).is_some()).count();
        assert_eq!(answers, 1, "{what}: {answer}");
        // A bad chunk is found only on the way.
        let passed = upstream.count() - arrived;
        assert!(passed == 0 || what.starts_with("chunk"), "{what} reached the upstream");
        unharmed(&proxy, what).await;
    }
}

#[tokio::test]
async fn headers_have_bounds() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let many: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "x".repeat(70 * 1_024));
    let endless = format!("x: {}", "x".repeat(2 * 1_024 * 1_024));
    let target = "x".repeat(70 * 1_024);
    for (what, request, wanted) in [
        ("many headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        (
            "large headers",
            format!("GET / HTTP/1.1\r\nhost: a\r\n{large}\r\n"),
            431,
        ),
        ("endless header", format!("GET / HTTP/1.1\r\nhost: a\r\n{endless}"), 431),
        ("long target", format!("GET /{target} HTTP/1.1\r\nhost: a\r\n\r\n"), 414),
    ] {
        let answer = raw(proxy.traffic, &request).await;
        let seen = status(&answer);
        // With megabytes unread the goodbye may be a reset.
        let cut = what == "endless header" && seen.is_none();
        assert!(cut || seen == Some(wanted) || seen == Some(431), "{what}: {answer}");
        unharmed(&proxy, what).await;
    }
    let fits = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n",
        "x".repeat(60 * 1_024)
    );
    assert_eq!(status(&raw(proxy.traffic, fits).await), Some(200));
}

#[tokio::test]
async fn no_request_is_smuggled_inside_another() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = smuggled.len();
    for (what, head) in [
        (
            "length, then coding",
            format!("content-length: {}\r\ntransfer-encoding: chunked", length + 5),
        ),
        (
            "coding, then length",
            format!("transfer-encoding: chunked\r\ncontent-length: {}", length + 5),
        ),
        (
            "coding twice",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity".to_owned(),
        ),
        ("coding with tab", "transfer-encoding:\tchunked".to_owned()),
        ("coding in capitals", "Transfer-Encoding: CHUNKED".to_owned()),
        ("coding with comma", "transfer-encoding: chunked,".to_owned()),
        ("coding with vertical tab", "transfer-encoding: \u{b}chunked".to_owned()),
        ("coding quoted", "transfer-encoding: \"chunked\"".to_owned()),
        (
            "length hidden by connection",
            format!("content-length: {}\r\nconnection: content-length", length + 5),
        ),
        (
            "length with underscore",
            "content_length: 0\r\ntransfer-encoding: chunked".to_owned(),
        ),
    ] {
        let before = upstream.count();
        let answer = raw(
            proxy.traffic,
            format!("POST /outer HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}"),
        );
        // What is not refused may wait for more; then there is one request, or two that both sides agree on.
        let answer = tokio::time::timeout(Duration::from_millis(300), answer).await;
        let answers = answer.as_ref().map_or(0, |answer| answer.matches("HTTP/1.1 ").count());
        let arrived = upstream.arrived.lock().unwrap()[before..].to_vec();
        for request in &arrived {
            let both =
                request.headers.contains_key("content-length") && request.headers.contains_key("transfer-encoding");
            assert!(!both, "{what}: {request:?}");
        }
        if what.contains("then") {
            assert_eq!(
                arrived.len(),
                1,
                "{what}: the connection ends after an ambiguous request"
            );
            assert_eq!(answers, 1, "{what}: {answer:?}");
            assert!(!arrived[0].headers.contains_key("content-length"), "{what}");
        }
        unharmed(&proxy, what).await;
    }
    // A pipelined second request is one: both are answered, in order.
    let two = raw(
        proxy.traffic,
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nokGET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(two.await.matches("HTTP/1.1 200").count(), 2);
    let paths: Vec<String> = upstream
        .arrived
        .lock()
        .unwrap()
        .iter()
        .map(|request| request.uri.clone())
        .collect();
    assert_eq!(paths[paths.len() - 2..], ["/a", "/b"]);
}

#[tokio::test]
async fn slow_callers_are_sent_away() {
    let upstream = reading().await;
    let proxy = Proxy::start_with(PATIENT, &upstream.url, |settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
        settings.limits.idle_timeout = Duration::from_millis(600);
        settings.limits.body_timeout = Duration::from_millis(300);
    })
    .await;
    for (what, bytes, least, most) in [
        ("silence", "", 600, 1_800),
        ("half a header", "GET / HTTP/1.1\r\nho", 300, 900),
        ("one byte of HTTP/2", "P", 300, 900),
        ("half of HTTP/2's beginning", "PRI * HTTP/2.0\r\n", 600, 1_800),
        (
            "a pause after a request",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            600,
            1_800,
        ),
        (
            "half a second request",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HT",
            300,
            1_800,
        ),
        (
            "half a body",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhal",
            300,
            900,
        ),
    ] {
        let started = Instant::now();
        let answer = raw(proxy.traffic, bytes).await;
        let took = started.elapsed();
        println!("{what}: closed after {took:?}");
        assert!(took >= Duration::from_millis(least), "{what}: too early, {took:?}");
        assert!(took <= Duration::from_millis(most * 3), "{what}: too late, {took:?}");
        if what == "half a body" {
            assert_eq!(status(&answer), Some(408), "{answer}");
        }
        unharmed(&proxy, what).await;
    }
    // Bytes that trickle do not extend the time for headers.
    let mut stream = TcpStream::connect(proxy.traffic).await.unwrap();
    let started = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\nx: "
        .iter()
        .chain(std::iter::repeat(&b'x'))
    {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "still served after {:?}",
            started.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_slow_upload_is_not_the_upstreams_slowness() {
    let upstream = reading().await;
    let spec = "trip: {slowCallRateThreshold: 100, slowCallDurationThreshold: 100ms, minimumNumberOfCalls: 1000}\ncall: {timeout: 200ms}";
    let reading = Proxy::start(spec, &upstream.url).await;
    let mut stream = TcpStream::connect(reading.traffic).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"x").await.unwrap();
    }
    assert!(read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    assert_eq!(
        reading.outcomes().await,
        [1, 0, 0, 0, 0, 0],
        "500 ms of upload, none of it the upstream's"
    );
}

#[tokio::test]
async fn half_closed_connections_end() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let mut idle = TcpStream::connect(proxy.traffic).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut idle, "fine").await;
    idle.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the end", idle.read_to_end(&mut rest)).await.unwrap();
    let mut partial = TcpStream::connect(proxy.traffic).await.unwrap();
    partial.write_all(b"GET / HT").await.unwrap();
    partial.shutdown().await.unwrap();
    soon("the end", partial.read_to_end(&mut rest)).await.unwrap();
    let silent = TcpStream::connect(proxy.traffic).await.unwrap();
    drop(silent);
    unharmed(&proxy, "half-closed connections").await;
}

#[tokio::test]
async fn the_admin_port_gives_reasons_and_takes_nothing() {
    let upstream = healthy().await;
    let proxy = Proxy::start_with(PATIENT, &upstream.url, |settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
    })
    .await;
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/breakers", 200),
        ("/x", 404),
    ] {
        assert_eq!(proxy.admin(path).await.status, status, "{path}");
    }
    let posted = raw(
        proxy.admin,
        "POST /breakers HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert!(
        posted.starts_with("HTTP/1.1 405") && posted.contains("allow: GET, HEAD"),
        "{posted}"
    );
    assert!(
        raw(proxy.admin, "GET /livez HT").await.is_empty(),
        "slow callers are sent away here, too"
    );
    let metrics = proxy.metrics().await;
    for name in [
        "tiebar_calls_total",
        "tiebar_call_duration_seconds",
        "tiebar_state",
        "tiebar_late_outcomes_total",
        "tiebar_dropped_outcomes_total",
        "tiebar_unconfigured",
        "tiebar_isolated",
        "tiebar_store_up",
        "tiebar_store_operation_duration_seconds_bucket{le=\"0.1\",op=\"exchange\"}",
        "tiebar_store_fallback_active",
        "tiebar_batch_outcomes_bucket",
        "tiebar_config_revision",
        "tiebar_propagation_seconds_bucket",
        "tiebar_build_info{version=",
    ] {
        assert!(
            metrics.contains(&format!("\n{name}")),
            "{name} is missing from:\n{metrics}"
        );
    }
}

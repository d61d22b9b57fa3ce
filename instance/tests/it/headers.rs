//! What a good proxy does to headers, trailers and expectations.

use crate::support::client::{self, collect, full, http1, http2, read_until, request, send};
use crate::support::upstream::{Answer, Arrived, stub, text};
use crate::support::{PATIENT, Proxy, eventually};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A body with a trailer, and as its own trailer what trailer came.
fn with_trailer(value: &HeaderValue) -> client::Outgoing {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", value.clone());
    let frames = [Frame::data(Bytes::from_static(b"data")), Frame::trailers(trailers)].map(Ok);
    StreamBody::new(stream::iter(frames)).boxed()
}

async fn trailer_echo(request: http::Request<hyper::body::Incoming>) -> Answer {
    let body = request.into_body().collect().await.unwrap();
    let none = HeaderValue::from_static("none");
    let came = body
        .trailers()
        .and_then(|trailers| trailers.get("x-sum"))
        .unwrap_or(&none);
    Response::builder()
        .header("trailer", "x-sum")
        .body(with_trailer(came))
        .unwrap()
}

#[tokio::test]
async fn headers_of_one_connection_end_with_it() {
    let upstream = stub(async |_| {
        let mut answer = text(200, "fine");
        for (name, value) in [
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=9"),
            ("proxy-authenticate", "Basic"),
            ("x-public", "1"),
            ("x-circuit-state", "open"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let asked = request("GET", "/a?b=c")
        .header("connection", "close, x-private, x-forwarded-for")
        .header("x-private", "1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic x")
        .header("te", "deflate")
        .header("authorization", "Bearer mine")
        .header("x-public", "1")
        .body(full(""))
        .unwrap();
    let seen = send(proxy.traffic, asked).await;
    let arrived = upstream.last();
    let mut names: Vec<&str> = arrived.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-public"
        ]
    );
    assert_eq!(arrived.uri, "/a?b=c");
    assert_eq!(arrived.headers["host"], upstream.authority);
    assert_eq!(arrived.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(arrived.headers["x-forwarded-host"], "inventory");
    assert_eq!(arrived.headers["x-forwarded-proto"], "http");
    for gone in ["x-secret", "keep-alive", "proxy-authenticate"] {
        assert!(!seen.headers.contains_key(gone), "{gone} passed");
    }
    assert_eq!(seen.header("x-public"), "1");
    assert_eq!(seen.header("x-circuit-state"), "closed", "the nearest instance wins");
}

/// Whom a request is for: HTTP/1.1 says it in a header, HTTP/2 in the target.
fn host(arrived: &Arrived) -> Option<&str> {
    let header = arrived.headers.get("host").map(|host| host.to_str().unwrap());
    header.or_else(|| arrived.uri.split('/').nth(2))
}

#[tokio::test]
async fn the_host_is_kept_where_that_is_asked_for() {
    let upstream = stub(async |_| text(200, "")).await;
    let h2c = upstream.url.replace("http://", "h2c://");
    for url in [&upstream.url, &h2c] {
        let proxy = Proxy::start_with(PATIENT, url, |settings| settings.routes[0].preserve_host = true).await;
        send(proxy.traffic, request("GET", "/").body(full("")).unwrap()).await;
        let arrived = upstream.last();
        assert_eq!(host(&arrived), Some("inventory"), "{arrived:?}");
        // An absolute target names the host, whatever Host says.
        let raw = client::raw(
            proxy.traffic,
            "GET http://absolute/x HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n",
        );
        assert!(raw.await.starts_with("HTTP/1.1 200"));
        let arrived = upstream.last();
        assert_eq!(host(&arrived), Some("absolute"), "{arrived:?}");
        assert!(arrived.uri.ends_with("/x"));
        assert_eq!(arrived.headers["x-forwarded-host"], "absolute");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_over_every_pair_of_protocols() {
    let upstream = stub(trailer_echo).await;
    let h2c = upstream.url.replace("http://", "h2c://");
    for (url, out) in [(&upstream.url, Version::HTTP_11), (&h2c, Version::HTTP_2)] {
        let proxy = Proxy::start(PATIENT, url).await;
        for second in [false, true] {
            let mut asked = request("POST", "/")
                .header("te", "trailers")
                .header("trailer", "x-sum")
                .body(with_trailer(&HeaderValue::from_static("42")))
                .unwrap();
            let response = if second {
                *asked.uri_mut() = http::Uri::from_static("http://inventory/");
                asked.headers_mut().remove("host");
                http2(proxy.traffic).await.send_request(asked).await.unwrap()
            } else {
                http1(proxy.traffic).await.send_request(asked).await.unwrap()
            };
            let seen = collect(response).await;
            assert_eq!(upstream.last().version, out);
            assert_eq!(upstream.last().headers["te"], "trailers");
            let sum = seen.trailers.get("x-sum").map(|value| value.to_str().unwrap());
            assert_eq!(sum, Some("42"), "HTTP/2 in: {second}, out: {out:?}");
            assert_eq!(seen.text(), "data");
        }
    }
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_is_asked_for_once_there_is_somebody_to_take_it() {
    let upstream = stub(async |request| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(200, std::str::from_utf8(&body).unwrap())
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let mut stream = TcpStream::connect(proxy.traffic).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "100 Continue").await;
    stream.write_all(b"hello").await.unwrap();
    assert!(read_until(&mut stream, "hello").await.contains("HTTP/1.1 200 OK"));
    assert!(!upstream.last().headers.contains_key("expect"), "it was met here");

    let spec = format!("{PATIENT}\noverride: {{state: ForcedOpen, reason: CHG-1}}");
    crate::support::program(&proxy.store, &spec).await;
    proxy.wait_state("forced_open").await;
    let mut stream = TcpStream::connect(proxy.traffic).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let refused = read_until(&mut stream, "guardedBy").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(!refused.contains("100 Continue"), "nobody wants the body");
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_upload() {
    let upstream = stub(async |request| {
        // It goes on reading, as a good server does: the answer is not lost in a reset.
        tokio::spawn(request.into_body().collect());
        text(413, "too large")
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    for _ in 0..10 {
        let body = full(vec![b'x'; 512 * 1_024]);
        let seen = send(proxy.traffic, request("POST", "/").body(body).unwrap()).await;
        assert_eq!((seen.status.as_u16(), seen.text()), (413, "too large"));
    }
    eventually("all judged", async || {
        let outcomes = proxy.outcomes().await;
        (outcomes.iter().sum::<u64>() == 10).then_some(())
    })
    .await;
}

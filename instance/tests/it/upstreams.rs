//! Upstreams that lie, dawdle or never end.

use crate::support::client::{full, get, http1, raw, request};
use crate::support::upstream::{Ending, scripted};
use crate::support::{PATIENT, Proxy, soon};
use http_body_util::BodyExt as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test]
async fn what_is_no_answer_is_a_502_and_a_reset() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(300 * 1_024));
    for (what, bytes) in [
        ("half a header", "HTTP/1.1 200 OK\r\ncontent-le"),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfine!",
        ),
        ("bad length", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nfine!"),
        ("bad status", "HTTP/1.1 99999 OK\r\n\r\n"),
        (
            "folded header",
            "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "a switch nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        ),
        ("headers without end", long.as_str()),
    ] {
        let upstream = scripted(bytes, Ending::Close).await;
        let proxy = Proxy::start(PATIENT, &upstream.url).await;
        let seen = get(proxy.traffic, "/").await;
        assert_eq!(seen.status, 502, "{what}: {seen:?}");
        assert_eq!(proxy.outcomes().await, [0, 1, 0, 0, 0, 0], "{what}");
    }
}

#[tokio::test]
async fn lies_about_a_body_harm_nobody_else() {
    for (what, bytes, ending, whole) in [
        (
            "less than promised",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfine",
            Ending::Close,
            false,
        ),
        (
            "less, and a reset",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfine",
            Ending::Reset,
            false,
        ),
        (
            "more than promised",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            Ending::Hang,
            true,
        ),
        (
            "bad chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\nzz\r\n",
            Ending::Close,
            false,
        ),
        (
            "no last chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n",
            Ending::Close,
            false,
        ),
        ("no length at all", "HTTP/1.1 200 OK\r\n\r\nfine", Ending::Close, true),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nfine", Ending::Close, true),
        (
            "length and chunks",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
            Ending::Hang,
            true,
        ),
    ] {
        let upstream = scripted(bytes, ending).await;
        let proxy = Proxy::start(PATIENT, &upstream.url).await;
        for _ in 0..3 {
            let mut sender = http1(proxy.traffic).await;
            let response = sender.send_request(request("GET", "/").body(full("")).unwrap()).await;
            let Ok(response) = response else {
                assert!(!whole, "{what}: no answer");
                continue;
            };
            assert_eq!(response.status(), 200, "{what}");
            let body = soon(what, response.into_body().collect()).await;
            match body {
                Ok(body) => {
                    assert!(whole, "{what}: a broken body looked whole");
                    assert_eq!(body.to_bytes(), "fine", "{what}");
                }
                Err(_) => assert!(!whole, "{what}: a whole body looked broken"),
            }
        }
        assert_eq!(upstream.count(), 3, "{what}: no answer is taken from leftovers");
        assert_eq!(
            proxy.outcomes().await[1..4],
            [0; 3],
            "{what}: the outcome is fixed at the headers"
        );
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_held_and_ends_with_its_caller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start(PATIENT, &url).await;
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer that is there before its question is none.
        let mut question = [0; 1_024];
        assert!(stream.read(&mut question).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let block = [b'x'; 65_536];
        let mut sent = 0_u64;
        while stream.write_all(&block).await.is_ok() {
            sent += 65_536;
        }
        sent
    });
    let mut sender = http1(proxy.traffic).await;
    let response = sender
        .send_request(request("GET", "/").body(full("")).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for _ in 0..100 {
        soon("a frame", body.frame()).await.unwrap().unwrap();
    }
    assert!(proxy.metric("tiebar_in_flight").await > 0.5, "a stream is in flight");
    assert_eq!(proxy.outcomes().await, [1, 0, 0, 0, 0, 0]);
    // The caller reads no more: what the upstream sends must not pile up here.
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(body);
    drop(sender);
    let sent = soon("the upstream to notice", sent).await.unwrap();
    println!("{sent} bytes were taken from an upstream without end");
    assert!(
        sent < 64 * 1_024 * 1_024,
        "{sent} bytes for a caller that read {}",
        100 * 65_536
    );
    crate::support::eventually("nothing in flight", async || {
        (proxy.metric("tiebar_in_flight").await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let bytes = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
    let upstream = scripted(bytes, Ending::Hang).await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let seen = get(proxy.traffic, "/").await;
    assert_eq!((seen.status.as_u16(), seen.text()), (200, "fine"));
    assert_eq!(proxy.outcomes().await, [1, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let upstream = crate::support::upstream::stub(async |request| match request.uri().path() {
        "/204" => crate::support::upstream::text(204, ""),
        "/304" => crate::support::upstream::text(304, ""),
        _ => crate::support::upstream::text(200, "fine"),
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let answer = raw(
        proxy.traffic,
        "HEAD / HTTP/1.1\r\nhost: a\r\n\r\nGET /204 HTTP/1.1\r\nhost: a\r\n\r\nGET /304 HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.0\r\nhost: a\r\n\r\n",
    )
    .await;
    for status in ["200", "204", "304"] {
        assert!(answer.contains(&format!(" {status} ")), "{status}: {answer}");
    }
    assert!(
        answer.contains("content-length: 4\r\n") && answer.ends_with("\r\n\r\nfine"),
        "{answer}"
    );
}

//! HTTP/2: in and out, and callers that abuse it.

use crate::support::client::{collect, full, get, http2};
use crate::support::upstream::{Ending, healthy, scripted, stub, text};
use crate::support::{PATIENT, Proxy, eventually, soon};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Version};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn asked(path: &str) -> Request<crate::support::client::Outgoing> {
    let uri = format!("http://inventory{path}");
    Request::builder().uri(uri).body(full("")).unwrap()
}

#[tokio::test]
async fn many_calls_share_one_connection_in_and_out() {
    let upstream = stub(async |request| text(200, request.uri().path())).await;
    let proxy = Proxy::start(PATIENT, &upstream.url.replace("http://", "h2c://")).await;
    let sender = http2(proxy.traffic).await;
    let calls = (0..200).map(|number| {
        let mut sender = sender.clone();
        async move {
            let path = format!("/{number}");
            let response = sender.send_request(asked(&path)).await.unwrap();
            assert_eq!(response.version(), Version::HTTP_2);
            let seen = collect(response).await;
            assert_eq!((seen.text(), seen.header("x-circuit-state")), (path.as_str(), "closed"));
        }
    });
    soon("200 calls", join_all(calls)).await;
    let last = upstream.last();
    assert_eq!(
        (last.version, last.headers["x-forwarded-host"].to_str().unwrap()),
        (Version::HTTP_2, "inventory")
    );
    assert!(last.uri.starts_with(&upstream.url), "{}", last.uri);
    assert_eq!(proxy.outcomes().await, [200, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn more_calls_than_the_upstream_takes_at_once_get_another_connection() {
    // hyper's server takes 200 streams.
    let upstream = stub(async |_| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        text(200, "")
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url.replace("http://", "h2c://")).await;
    collect(http2(proxy.traffic).await.send_request(asked("/")).await.unwrap()).await;
    let (one, two) = (http2(proxy.traffic).await, http2(proxy.traffic).await);
    let started = std::time::Instant::now();
    let calls = (0..400).map(|number| {
        let mut sender = if number % 2 == 0 { one.clone() } else { two.clone() };
        async move { assert_eq!(sender.send_request(asked("/")).await.unwrap().status(), 200) }
    });
    soon("400 calls", join_all(calls)).await;
    println!("400 calls of 500 ms took {:?}", started.elapsed());
    assert_eq!(proxy.outcomes().await[0], 401);
}

#[tokio::test]
async fn a_call_that_is_reset_is_no_evidence_and_rapid_resets_end_the_connection() {
    let upstream = scripted("", Ending::Hang).await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let stream = TcpStream::connect(proxy.traffic).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut resets = 0;
    while resets < 20_000 {
        let Ok(ready) = sender.clone().ready().await else { break };
        sender = ready;
        let request = Request::builder().uri("http://a/").body(()).unwrap();
        let Ok((_response, mut body)) = sender.send_request(request, false) else {
            break;
        };
        body.send_reset(h2::Reason::CANCEL);
        resets += 1;
        tokio::task::yield_now().await;
    }
    drop(sender);
    let ended = soon("the end", driver).await.unwrap();
    println!("{resets} resets, then {ended:?}");
    let outcomes = eventually("all calls to end", async || {
        (proxy.metric("tiebar_in_flight").await < 0.5).then_some(())
    });
    outcomes.await;
    let outcomes = proxy.outcomes().await;
    assert_eq!(outcomes[..4], [0; 4], "{outcomes:?}");
    let healthy = healthy().await;
    let other = Proxy::start(PATIENT, &healthy.url).await;
    assert_eq!(get(other.traffic, "/").await.status, 200);
    assert!(!proxy.task.is_finished());
}

/// A frame: type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn floods_of_frames_do_no_harm() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let settings = frame(4, 0, 0, &[]);
    let ping = frame(6, 0, 0, &[0; 8]);
    let empty_data = frame(0, 0, 1, &[]);
    // :method GET, :scheme http, :path /, as HPACK's static table has them; END_HEADERS is missing.
    let headers = frame(1, 0, 1, &[0x82, 0x86, 0x84]);
    let continuation = frame(9, 0, 1, &[0; 1_024]);
    let window = frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    for (what, start, flood) in [
        ("settings", vec![], settings.clone()),
        ("pings", vec![], ping),
        ("data of no stream", vec![], empty_data),
        ("continuations", headers, continuation),
        ("windows", vec![], window),
        ("garbage", vec![], vec![0xff; 64]),
    ] {
        let stream = TcpStream::connect(proxy.traffic).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        // What comes back is read, or the flood would only fill our own buffers.
        let back = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            let mut all = 0;
            while let Ok(read @ 1..) = reading.read(&mut buffer).await {
                all += read;
            }
            all
        });
        let mut sent = 0;
        let mut begin = PREFACE.to_vec();
        begin.extend_from_slice(&settings);
        begin.extend_from_slice(&start);
        let flooding = async {
            writing.write_all(&begin).await?;
            let many = flood.repeat(1_000);
            for _ in 0..100 {
                writing.write_all(&many).await?;
                sent += 1_000;
            }
            std::io::Result::Ok(())
        };
        let ended = soon(what, flooding).await;
        drop(writing);
        let back = soon(what, back).await.unwrap();
        println!("{what}: {sent} frames, {ended:?}, {back} bytes back");
        assert_eq!(get(proxy.traffic, "/").await.status, 200, "after {what}");
        assert_eq!(proxy.outcomes().await[1..4], [0; 3], "{what}");
    }
}

#[tokio::test]
async fn a_request_that_contradicts_itself_is_refused() {
    let upstream = healthy().await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    let mut sender = http2(proxy.traffic).await;
    let mut request = asked("/");
    request
        .headers_mut()
        .insert("host", http::HeaderValue::from_static("other"));
    let seen = collect(sender.send_request(request).await.unwrap()).await;
    assert_eq!(seen.status, 400, "{seen:?}");
    let connect = Request::builder()
        .method("CONNECT")
        .uri("inventory:80")
        .body(full(""))
        .unwrap();
    let seen = collect(sender.send_request(connect).await.unwrap()).await;
    assert_eq!(seen.status, 405, "{seen:?}");
    assert_eq!(upstream.count(), 0);
    let large = "x".repeat(100 * 1_024);
    let mut request = asked("/");
    request
        .headers_mut()
        .insert("x", http::HeaderValue::from_str(&large).unwrap());
    if let Ok(response) = http2(proxy.traffic).await.send_request(request).await {
        assert_eq!(response.status(), 431);
    }
    assert_eq!(upstream.count(), 0);
    let body = Bytes::from_static(b"fine");
    assert_eq!(
        collect(http2(proxy.traffic).await.send_request(asked("/")).await.unwrap())
            .await
            .body,
        body
    );
}

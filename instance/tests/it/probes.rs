//! Callers that hang up: no evidence, unless the upstream had kept them waiting.

use crate::support::client::{full, get, http1, request};
use crate::support::upstream::{Answer, Stub, stub, text};
use crate::support::{PATIENT, Proxy, THREE, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiebar::store::Store as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Fails at once, or hangs, as told.
async fn moody(hangs: &Arc<AtomicBool>) -> Stub {
    let hangs = Arc::clone(hangs);
    stub(move |_| {
        let hangs = hangs.load(Ordering::SeqCst);
        async move {
            if hangs {
                std::future::pending::<Answer>().await
            } else {
                text(500, "")
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_caller_that_hangs_up_frees_its_probe_within_a_second() {
    let hangs = Arc::new(AtomicBool::new(false));
    let upstream = moody(&hangs).await;
    let spec = format!(
        "{THREE}\nopen: {{duration: 100ms}}\nhalfOpen: {{permittedCalls: 1, maxDuration: 1h}}\ncall: {{timeout: 1h}}"
    );
    let proxy = Proxy::start(&spec, &upstream.url).await;
    for _ in 0..3 {
        assert_eq!(get(proxy.traffic, "/").await.status, 500);
    }
    hangs.store(true, Ordering::SeqCst);
    for ending in ["FIN", "RST", "FIN of one side"] {
        let arrived = upstream.count();
        let mut probe = eventually("a probe", async || {
            let mut stream = TcpStream::connect(proxy.traffic).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            for _ in 0..20 {
                if upstream.count() > arrived {
                    return Some(stream);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            None
        })
        .await;
        let id = crate::support::id();
        let leases = async || proxy.store.snapshot(&id).await.unwrap().unwrap().leases;
        assert_eq!(leases().await, 1);
        let started = Instant::now();
        match ending {
            "FIN" => drop(probe),
            "RST" => {
                probe.set_zero_linger().unwrap();
                drop(probe);
            }
            _ => probe.shutdown().await.unwrap(),
        }
        eventually("the slot", async || (leases().await == 0).then_some(())).await;
        let took = started.elapsed();
        println!("{ending}: the slot was free after {took:?}");
        assert!(took < Duration::from_secs(3), "promised within 1 s, took {took:?}");
    }
    let outcomes = proxy.outcomes().await;
    assert_eq!(outcomes[..4], [0, 3, 0, 0], "hanging up is no evidence: {outcomes:?}");
    assert!(outcomes[4] >= 3);
}

#[tokio::test]
async fn whoever_was_kept_waiting_and_goes_counts_as_slow() {
    let hangs = Arc::new(AtomicBool::new(true));
    let upstream = moody(&hangs).await;
    let spec = "trip: {slowCallRateThreshold: 100, slowCallDurationThreshold: 200ms, minimumNumberOfCalls: 1000}";
    let proxy = Proxy::start(spec, &upstream.url).await;
    for (patience, wanted) in [(50, [0, 0, 0, 0, 1, 0]), (300, [0, 0, 1, 0, 1, 0])] {
        let mut sender = http1(proxy.traffic).await;
        let waiting = sender.send_request(request("GET", "/").body(full("")).unwrap());
        let waiting = tokio::time::timeout(Duration::from_millis(patience), waiting);
        assert!(waiting.await.is_err());
        drop(sender);
        proxy.wait_outcomes(wanted).await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_no_evidence() {
    let upstream = stub(async |request| {
        use http_body_util::BodyExt as _;
        let _ = request.into_body().collect().await;
        text(200, "")
    })
    .await;
    let proxy = Proxy::start(PATIENT, &upstream.url).await;
    for half in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
    ] {
        let arrived = upstream.count();
        let mut stream = TcpStream::connect(proxy.traffic).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        eventually("the request", async || (upstream.count() > arrived).then_some(())).await;
    }
    proxy.wait_outcomes([0, 0, 0, 0, 3, 0]).await;
    assert_eq!(get(proxy.traffic, "/").await.status, 200);
}

/// Reads nothing but the head, into a buffer as small as can be.
async fn deaf() -> std::net::SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

/// An upload that nobody takes: its stream, and how much of it went out.
async fn upload(proxy: &Proxy, most: usize) -> (TcpStream, usize) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(8_192).unwrap();
    let mut stream = socket.connect(proxy.traffic).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let part = [b'x'; 8_192];
    let mut sent = 0;
    while sent < most {
        let write = stream.write(&part[..part.len().min(most - sent)]);
        match tokio::time::timeout(Duration::from_millis(500), write).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    (stream, sent)
}

#[tokio::test]
async fn a_caller_that_goes_behind_an_unread_upload_is_noticed_within_a_second() {
    let proxy = Proxy::start(PATIENT, &format!("http://{}", deaf().await)).await;
    let running = async || proxy.breaker().await.unwrap()["inFlight"].as_u64().unwrap();
    let mut all = usize::MAX;
    for ending in ["RST", "FIN", "FIN of one side"] {
        // The second time not all that fits, so that the FIN gets through to the proxy's kernel behind unread bytes. How
        // much fits differs from connection to connection, since the kernel tunes its buffers.
        let (mut stream, sent) = upload(&proxy, all - all / 4).await;
        eventually("the call", async || (running().await == 1).then_some(())).await;
        let started = Instant::now();
        match ending {
            "RST" => {
                all = sent;
                stream.set_zero_linger().unwrap();
                drop(stream);
            }
            "FIN" => drop(stream),
            _ => stream.shutdown().await.unwrap(),
        }
        eventually("the call's end", async || (running().await == 0).then_some(())).await;
        let took = started.elapsed();
        println!("{ending} behind {sent} bytes: {took:?}");
        assert!(took < Duration::from_secs(3), "{ending}: {took:?}");
    }
    assert_eq!(proxy.outcomes().await[..4], [0; 4], "no evidence");
}

//! The upstream over real sockets: what a client sees. Which request gets which fate is the unit tests' business.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use upstream::{FaultProfile, Handle, Upstream};

/// Far above what anything here takes; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    addr: SocketAddr,
    handle: Handle,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

async fn start(faults: FaultProfile) -> Running {
    let upstream = Upstream::bind("127.0.0.1:0", faults).await.expect("port 0 binds");
    let (stop, stopped) = oneshot::channel();
    let (addr, handle) = (upstream.local_addr(), upstream.handle());
    let server = tokio::spawn(upstream.run(async move { drop(stopped.await) }));
    Running {
        addr,
        handle,
        stop,
        server,
    }
}

impl Running {
    async fn send(&self, request: Request<Full<Bytes>>) -> Seen {
        let http2 = request.version() == Version::HTTP_2;
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let response = client.request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        Seen {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        }
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let uri = format!("http://{}{path}", self.addr);
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .expect("a valid request");
        let seen = self.send(request).await;
        (seen.status, serde_json::from_slice(&seen.body).unwrap_or(Value::Null))
    }

    async fn grpc(&self) -> Seen {
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{}/pkg.Service/Method", self.addr))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))
            .expect("a valid request");
        self.send(request).await
    }

    async fn raw_request(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.expect("it accepts");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: upstream\r\n\r\n")
            .await
            .expect("it reads");
        stream
    }

    async fn drain(self) {
        self.stop.send(()).expect("it is running");
        tokio::time::timeout(PATIENCE, self.server)
            .await
            .expect("a drain ends")
            .expect("and does not panic");
    }
}

/// Waits for what another task is about to do, without a clock.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes true");
}

fn only(set: impl FnOnce(&mut FaultProfile)) -> FaultProfile {
    let mut profile = FaultProfile::HEALTHY;
    set(&mut profile);
    profile
}

#[tokio::test]
async fn any_path_and_method_answers_by_the_profile() {
    let upstream = start(FaultProfile::HEALTHY).await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::POST, "/deep/path?x=1"),
        (Method::DELETE, "/_other"),
    ] {
        let (status, body) = upstream.call(method, path, "body").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body["outcome"], "success");
    }
    upstream
        .handle
        .set_faults(only(|f| (f.error_percent, f.error_status) = (100, 503)))
        .expect("in range");
    let (status, body) = upstream.call(Method::GET, "/", "").await;
    assert_eq!(
        (status, &body["outcome"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("failure"))
    );
    upstream.drain().await;
}

#[tokio::test]
async fn the_same_seed_gives_clients_the_same_sequence() {
    let upstream = start(FaultProfile::default()).await;
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        upstream
            .handle
            .set_faults(FaultProfile {
                seed,
                ..FaultProfile::default()
            })
            .expect("in range");
        let mut run = Vec::new();
        for _ in 0..40 {
            run.push(upstream.call(Method::GET, "/", "").await.0.as_u16());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1], "setting a profile starts its sequence anew");
    assert_ne!(runs[0], runs[2]);
    upstream.drain().await;
}

#[tokio::test]
async fn put_replaces_patch_merges_and_get_shows() {
    let upstream = start(FaultProfile::default()).await;
    let (status, shown) = upstream.call(Method::GET, "/_faults", "").await;
    let startup = json!({"errorPercent": 60, "errorStatus": 500, "latencyMs": 0, "jitterMs": 0, "hangPercent": 0,
                         "resetPercent": 0, "seed": 0});
    assert_eq!((status, shown), (StatusCode::OK, startup));

    let (status, shown) = upstream
        .call(Method::PUT, "/_faults", r#"{"latencyMs": 3, "seed": 9}"#)
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        upstream.handle.faults(),
        only(|f| (f.latency_ms, f.seed) = (3, 9)),
        "absent fields are 0"
    );
    assert_eq!(shown["latencyMs"], 3);

    let (status, _) = upstream
        .call(Method::PATCH, "/_faults", r#"{"errorPercent": 25}"#)
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        upstream.handle.faults(),
        only(|f| (f.error_percent, f.latency_ms, f.seed) = (25, 3, 9))
    );
    upstream.drain().await;
}

#[tokio::test]
async fn a_bad_profile_is_refused_with_a_reason_and_changes_nothing() {
    let upstream = start(FaultProfile::default()).await;
    for method in [Method::PUT, Method::PATCH] {
        for (body, reason) in [
            (
                r#"{"errorPercent": 101}"#,
                "errorPercent to be a whole number from 0 to 100",
            ),
            (r#"{"errorPercents": 1}"#, "unknown field `errorPercents`"),
            (r#"{"errorPercent": 60, "hangPercent": 60}"#, "together at most 100"),
            ("not json", "expected"),
        ] {
            let (status, answer) = upstream.call(method.clone(), "/_faults", body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {body}");
            assert!(
                answer["error"].as_str().is_some_and(|error| error.contains(reason)),
                "{method} {body}: {answer}"
            );
        }
        let (status, _) = upstream.call(method, "/_faults", &" ".repeat(20_000)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(upstream.handle.faults(), FaultProfile::default());
    let (status, _) = upstream.call(Method::DELETE, "/_faults", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let out_of_range = only(|f| f.error_status = 200);
    assert!(upstream.handle.set_faults(out_of_range.clone()).is_err());
    let refused = Upstream::bind("127.0.0.1:0", out_of_range)
        .await
        .expect_err("a bad profile does not start");
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    upstream.drain().await;
}

#[tokio::test]
async fn stats_count_answers_and_delete_starts_anew() {
    let upstream = start(FaultProfile::HEALTHY).await;
    upstream.call(Method::GET, "/", "").await;
    upstream
        .handle
        .set_faults(only(|f| (f.error_percent, f.error_status) = (100, 503)))
        .expect("in range");
    upstream.call(Method::GET, "/a", "").await;
    upstream.call(Method::GET, "/b", "").await;
    let (_, stats) = upstream.call(Method::GET, "/_stats", "").await;
    let counted = json!({"requests": 3, "byStatus": {"200": 1, "503": 2}, "hung": 0, "reset": 0, "inFlight": 0,
                         "maxInFlight": 1});
    assert_eq!(stats, counted, "the endpoints themselves are not counted");
    let (status, stats) = upstream.call(Method::DELETE, "/_stats", "").await;
    assert_eq!((status, &stats["requests"]), (StatusCode::OK, &json!(0)));
    let (status, _) = upstream.call(Method::POST, "/_stats", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    upstream.drain().await;
}

#[tokio::test]
async fn a_reset_reaches_the_client_as_a_reset() {
    let upstream = start(only(|f| f.reset_percent = 100)).await;
    let mut stream = upstream.raw_request().await;
    let error = stream
        .read(&mut [0; 64])
        .await
        .expect_err("no answer and no polite end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    until(|| upstream.handle.stats().in_flight == 0).await;
    assert_eq!(upstream.handle.stats().reset, 1);
    upstream.drain().await;
}

#[tokio::test]
async fn a_hanging_request_ends_when_its_client_goes() {
    let upstream = start(only(|f| f.hang_percent = 100)).await;
    let first = upstream.raw_request().await;
    let second = upstream.raw_request().await;
    until(|| upstream.handle.stats().hung == 2).await;
    assert_eq!(upstream.handle.stats().in_flight, 2);
    drop(first);
    until(|| upstream.handle.stats().in_flight == 1).await;
    drop(second);
    until(|| upstream.handle.stats().in_flight == 0).await;
    let stats = upstream.handle.stats();
    assert_eq!((stats.max_in_flight, stats.by_status.len()), (2, 0));
    upstream.drain().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_hanging_requests_and_never_answers_them() {
    let upstream = start(only(|f| f.hang_percent = 100)).await;
    let mut stream = upstream.raw_request().await;
    until(|| upstream.handle.stats().hung == 1).await;
    upstream.drain().await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("a polite end");
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_accepts_no_more() {
    let upstream = start(only(|f| f.latency_ms = 50)).await;
    let mut stream = upstream.raw_request().await;
    until(|| upstream.handle.stats().in_flight == 1).await;
    let addr = upstream.addr;
    upstream.drain().await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer, then the end");
    assert!(
        answer.starts_with(b"HTTP/1.1 200 OK"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn grpc_calls_get_their_status_in_trailers() {
    let upstream = start(FaultProfile::HEALTHY).await;
    for (error_percent, grpc_status) in [(0, "0"), (100, "14")] {
        upstream
            .handle
            .set_faults(only(|f| f.error_percent = error_percent))
            .expect("in range");
        let seen = upstream.grpc().await;
        assert_eq!(seen.status, StatusCode::OK, "gRPC's outcome is not in the HTTP status");
        assert_eq!(seen.headers["content-type"], "application/grpc");
        assert!(!seen.headers.contains_key("grpc-status"), "trailers, not headers");
        assert_eq!(seen.trailers["grpc-status"], grpc_status);
        assert_eq!(
            seen.body.len(),
            if error_percent == 0 { 5 } else { 0 },
            "success carries one empty message"
        );
    }
    upstream.drain().await;
}

#[tokio::test]
async fn an_upload_is_read_to_its_end_before_the_answer() {
    let upstream = start(only(|f| f.error_percent = 100)).await;
    let (status, _) = upstream.call(Method::POST, "/upload", &"x".repeat(8 << 20)).await;
    assert_eq!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "an answer, not a broken pipe"
    );
    upstream.drain().await;
}

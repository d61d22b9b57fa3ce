//! gRPC: the outcome is in the trailers, or in the headers when there are no messages.

use crate::support::client::{collect, full, http2};
use crate::support::upstream::{Answer, stub};
use crate::support::{PATIENT, Proxy};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use std::time::Duration;

fn grpc(path: &str, kind: &str) -> Request<crate::support::client::Outgoing> {
    Request::builder()
        .method("POST")
        .uri(format!("http://inventory{path}"))
        .header("content-type", kind)
        .header("te", "trailers")
        .body(full(&b"\0\0\0\0\0"[..]))
        .unwrap()
}

/// A message, then a status; `none` ends without one.
fn messages(status: &str) -> Answer {
    let mut frames = vec![Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))];
    if status != "none" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
        frames.push(Ok(Frame::trailers(trailers)));
    }
    Response::builder()
        .header("content-type", "application/grpc+proto")
        .body(BoxBody::new(StreamBody::new(stream::iter(frames))))
        .unwrap()
}

async fn answer(request: Request<hyper::body::Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let body = || BoxBody::new(Full::new(Bytes::new()).map_err(|never| match never {}));
    match path[1..].split_once('/') {
        Some(("trailers", status)) => messages(status),
        Some(("only", status)) => Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status)
            .body(body())
            .unwrap(),
        Some(("web", _)) => Response::builder()
            .header("content-type", "application/grpc-web+proto")
            .body(body())
            .unwrap(),
        Some(("http", status)) => Response::builder()
            .status(status.parse::<u16>().unwrap())
            .header("content-type", "application/grpc")
            .body(body())
            .unwrap(),
        Some(("broken", _)) => {
            let frames = stream::iter([Ok(Frame::data(Bytes::from_static(b"\0")))]);
            let broken = frames.chain(stream::once(async {
                // Once the headers are out: a reset overtakes them.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("broken"))
            }));
            Response::builder()
                .header("content-type", "application/grpc")
                .body(BoxBody::new(StreamBody::new(broken)))
                .unwrap()
        }
        // A message, and then nothing for ever.
        _ => {
            let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))]);
            Response::builder()
                .header("content-type", "application/grpc")
                .body(BoxBody::new(StreamBody::new(first.chain(stream::pending()))))
                .unwrap()
        }
    }
}

#[tokio::test]
async fn a_status_is_judged_wherever_it_stands() {
    let upstream = stub(answer).await;
    let proxy = Proxy::start(PATIENT, &upstream.url.replace("http://", "h2c://")).await;
    let mut sender = http2(proxy.traffic).await;
    let mut wanted = [0; 6];
    for (path, outcome) in [
        ("/trailers/0", 0),
        ("/trailers/14", 1),
        ("/trailers/13", 1),
        ("/trailers/5", 0),
        ("/trailers/none", 1),
        ("/trailers/nonsense", 1),
        ("/only/0", 0),
        ("/only/14", 1),
        ("/only/3", 0),
        ("/only/99", 1),
        ("/http/503", 1),
        ("/http/404", 0),
        ("/web/0", 0),
    ] {
        let response = sender.send_request(grpc(path, "application/grpc+proto")).await.unwrap();
        assert_eq!(response.headers()["x-circuit-state"], "closed");
        let seen = collect(response).await;
        if let Some(status) = path.strip_prefix("/trailers/").filter(|status| *status != "none") {
            assert_eq!(seen.trailers["grpc-status"], status);
        }
        wanted[outcome] += 1;
        proxy.wait_outcomes(wanted).await;
    }
    let response = sender
        .send_request(grpc("/broken/0", "application/grpc"))
        .await
        .unwrap();
    let broken = response.into_body().collect().await;
    assert!(broken.is_err(), "{broken:?}, {:?}", proxy.outcomes().await);
    wanted[1] += 1;
    proxy.wait_outcomes(wanted).await;
}

#[tokio::test]
async fn which_codes_are_failures_is_configured() {
    let upstream = stub(answer).await;
    let spec = format!("{PATIENT}\nfailureConditions: {{grpcStatusCodes: [NOT_FOUND]}}");
    let proxy = Proxy::start(&spec, &upstream.url.replace("http://", "h2c://")).await;
    let mut sender = http2(proxy.traffic).await;
    for path in ["/trailers/5", "/trailers/14", "/trailers/none", "/only/5"] {
        collect(sender.send_request(grpc(path, "application/grpc")).await.unwrap()).await;
    }
    proxy.wait_outcomes([2, 2, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn a_stream_that_goes_on_is_a_success_after_ten_seconds() {
    let upstream = stub(answer).await;
    let proxy = Proxy::start(PATIENT, &upstream.url.replace("http://", "h2c://")).await;
    let mut sender = http2(proxy.traffic).await;
    let started = std::time::Instant::now();
    let response = sender.send_request(grpc("/stream", "application/grpc")).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(proxy.outcomes().await, [0; 6], "not yet");
    let reading = tokio::spawn(async move { body.frame().await.is_some() });
    crate::support::eventually("the outcome", async || {
        (proxy.outcomes().await == [1, 0, 0, 0, 0, 0]).then_some(())
    })
    .await;
    let took = started.elapsed();
    println!("counted after {took:?}");
    assert!(
        took >= Duration::from_secs(10) && took < Duration::from_secs(30),
        "{took:?}"
    );
    assert!(!reading.is_finished(), "the stream goes on");
    // How long the stream lasts says nothing about the call's duration.
    let quick = proxy
        .metric("tiebar_call_duration_seconds_bucket{le=\"1.0\",breaker=\"shop/inventory\",outcome=\"success\"}")
        .await;
    assert!(quick > 0.5);
    reading.abort();
}

#[tokio::test]
async fn a_caller_that_hangs_up_on_a_stream_is_no_evidence() {
    let upstream = stub(answer).await;
    let proxy = Proxy::start(PATIENT, &upstream.url.replace("http://", "h2c://")).await;
    let mut sender = http2(proxy.traffic).await;
    let response = sender.send_request(grpc("/stream", "application/grpc")).await.unwrap();
    drop(response);
    proxy.wait_outcomes([0, 0, 0, 0, 1, 0]).await;
}

//! Large bodies, at constant memory.

use crate::support::client::{full, http1, http2, request};
use crate::support::process::Child;
use crate::support::soon;
use crate::support::upstream::{Answer, stub, text};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const BLOCK: usize = 1 << 16;
/// What a stream may add to the process: buffers on four sockets, not the body.
const ROOM: u64 = 24 << 20;

fn blocks(total: u64) -> BoxBody<Bytes, std::io::Error> {
    let block = Bytes::from(vec![b'x'; BLOCK]);
    let count = usize::try_from(total).unwrap() / BLOCK;
    let frames = stream::iter((0..count).map(move |_| Ok(Frame::data(block.clone()))));
    BoxBody::new(StreamBody::new(frames))
}

async fn count(mut body: Incoming) -> u64 {
    let mut all = 0;
    while let Some(frame) = body.frame().await {
        all += frame.expect("a whole body").data_ref().map_or(0, Bytes::len) as u64;
    }
    all
}

/// GET answers with a GiB, POST with how much it got.
async fn giant(request: http::Request<Incoming>) -> Answer {
    if request.method() == http::Method::GET {
        let mut answer = Response::new(blocks(GIB));
        answer.headers_mut().insert("content-length", HeaderValue::from(GIB));
        return answer;
    }
    text(200, &count(request.into_body()).await.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_both_ways_at_constant_memory() {
    let upstream = stub(giant).await;
    for (what, url, second) in [
        ("HTTP/1.1", upstream.url.clone(), false),
        ("HTTP/2", upstream.url.replace("http://", "h2c://"), true),
    ] {
        let child = Child::start(&url, &[]).await;
        let seen = crate::support::client::get(child.admin, "/livez").await;
        assert_eq!(seen.status, 200);
        let before = child.memory();
        for method in ["GET", "POST"] {
            let started = Instant::now();
            let body = if method == "GET" { full("") } else { blocks(GIB) };
            let mut asked = request(method, "http://inventory/").body(body).unwrap();
            let traffic = child.traffic;
            let call = tokio::spawn(async move {
                let response = if second {
                    asked.headers_mut().remove("host");
                    http2(traffic).await.send_request(asked).await.unwrap()
                } else {
                    *asked.uri_mut() = http::Uri::from_static("/");
                    http1(traffic).await.send_request(asked).await.unwrap()
                };
                assert_eq!(response.status(), 200);
                if response.headers().get("content-length") == Some(&HeaderValue::from(GIB)) {
                    count(response.into_body()).await
                } else {
                    let said = response.into_body().collect().await.unwrap().to_bytes();
                    String::from_utf8(said.to_vec()).unwrap().parse().unwrap()
                }
            });
            let mut most = 0;
            while !call.is_finished() {
                most = most.max(child.memory());
                assert!(
                    started.elapsed() < Duration::from_secs(300),
                    "{what} {method} does not end"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let passed = soon("the call", call).await.unwrap();
            let took = started.elapsed();
            println!("{what} {method}: 1 GiB in {took:?}, memory {before} → at most {most}");
            assert_eq!(passed, GIB, "{what} {method}");
            assert!(most.saturating_sub(before) < ROOM, "{what} {method}: {before} → {most}");
        }
    }
}

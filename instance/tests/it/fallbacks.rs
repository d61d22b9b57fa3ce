//! What a rejected caller gets instead, and where its request may not go.

use crate::support::client::{full, get, request, send};
use crate::support::upstream::{healthy, stub, text};
use crate::support::{PATIENT, Proxy};

const FORCED: &str = "override: {state: ForcedOpen, reason: CHG-1}";

async fn forced(fallback: &str, allow: &[&str]) -> Proxy {
    let upstream = healthy().await;
    let spec = format!("{PATIENT}\n{FORCED}\nfallback: {fallback}");
    let allow = allow.iter().map(|prefix| (*prefix).to_owned()).collect();
    let proxy = Proxy::start_with(&spec, &upstream.url, |settings| settings.allow_fallback = allow).await;
    proxy.wait_state("forced_open").await;
    proxy
}

#[tokio::test]
async fn a_fixed_answer() {
    let fallback = "{type: Static, static: {httpStatusCode: 200, contentType: application/json, body: '[]'}}";
    let proxy = forced(fallback, &[]).await;
    let seen = get(proxy.traffic, "/").await;
    assert_eq!((seen.status.as_u16(), seen.text()), (200, "[]"));
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("x-circuit-state"), "forced_open");
    assert_eq!(seen.header("retry-after"), "", "a success says nothing about later");
    assert_eq!(proxy.outcomes().await, [0, 0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn another_service_without_credentials() {
    let other = stub(async |request| {
        use http_body_util::BodyExt as _;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(203, std::str::from_utf8(&body).unwrap())
    })
    .await;
    let fallback = format!("{{type: Service, service: {{url: '{}/stale'}}}}", other.url);
    let proxy = forced(&fallback, &[&other.url]).await;
    let asked = request("POST", "/items?id=1")
        .header("authorization", "Bearer secret")
        .header("cookie", "session=secret")
        .header("x-api-key", "secret")
        .header("x-other", "1")
        .body(full("payload"))
        .unwrap();
    let seen = send(proxy.traffic, asked).await;
    assert_eq!((seen.status.as_u16(), seen.text()), (203, "payload"));
    assert_eq!(seen.header("x-circuit-state"), "forced_open");
    let arrived = other.last();
    assert_eq!(
        (arrived.uri.as_str(), arrived.method.as_str()),
        ("/stale/items?id=1", "POST")
    );
    assert_eq!(arrived.headers["host"], other.authority);
    assert_eq!(arrived.headers["x-other"], "1");
    assert!(
        !format!("{:?}", arrived.headers).contains("secret"),
        "{:?}",
        arrived.headers
    );
    // What climbs out of the prefix gets the rejection.
    assert_eq!(get(proxy.traffic, "/%2e%2e/admin").await.status, 503);
    assert_eq!(other.count(), 1);
    assert_eq!(proxy.outcomes().await, [0, 0, 0, 0, 0, 2]);
}

#[tokio::test]
async fn a_service_that_is_not_allowed_or_not_there_leaves_the_rejection() {
    let other = healthy().await;
    let fallback = format!("{{type: Service, service: {{url: '{}/stale'}}}}", other.url);
    for allow in [vec![], vec!["http://elsewhere/"], vec!["http://127.0.0.1/"]] {
        let proxy = forced(&fallback, &allow).await;
        let seen = get(proxy.traffic, "/").await;
        assert_eq!(
            (seen.status.as_u16(), seen.json()["reason"].as_str().unwrap()),
            (503, "forced")
        );
    }
    assert_eq!(other.count(), 0);
    let url = other.url.clone();
    drop(other);
    let proxy = forced(&fallback, &[&url]).await;
    let seen = get(proxy.traffic, "/").await;
    assert_eq!(
        (seen.status.as_u16(), seen.json()["reason"].as_str().unwrap()),
        (503, "forced")
    );
}

//! Overrides and resets by hand over HTTP, in file mode.

use operator::file_mode::{FileMode, Settings};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

async fn start(path: &Path, store: &Arc<MemoryStore>) -> (SocketAddr, JoinHandle<()>) {
    let settings = Settings {
        path: path.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        owner: Some("me".to_owned()),
        every: Duration::from_millis(50),
    };
    let operator = FileMode::bind(Arc::clone(store) as _, settings).await.unwrap();
    let address = operator.local_addr().unwrap();
    let running = tokio::spawn(async move { operator.run(std::future::pending()).await.unwrap() });
    (address, running)
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

const HERE: &str = "host: localhost\r\n";
const JSON: &str = "host: localhost\r\ncontent-type: application/json\r\n";

async fn until(address: SocketAddr, what: &str, is_so: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let (_, answer) = ask(address, "GET", "/breakers", HERE, "").await;
        if is_so(&answer["items"][0]["status"]) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {answer}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_override_by_hand_holds_over_a_restart_until_it_is_removed() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let document =
        "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: inventory, namespace: shop}\n";
    std::fs::write(folder.path().join("a.yaml"), document).unwrap();
    let (address, running) = start(folder.path(), &store).await;
    until(address, "programmed", |status| status["configRevision"].is_number()).await;

    let body = json!({"state": "ForcedOpen", "reason": "CHG-1"}).to_string();
    let (status, answer) = ask(address, "PUT", "/breakers/shop/inventory/override", JSON, &body).await;
    assert_eq!((status, &answer["reason"]), (200, &json!("CHG-1")));
    until(address, "forced", |status| status["override"]["state"] == "ForcedOpen").await;

    running.abort();
    let (address, _running) = start(folder.path(), &store).await;
    until(address, "forced after a restart", |status| {
        status["state"] == "ForcedOpen"
    })
    .await;

    let (status, _) = ask(address, "DELETE", "/breakers/shop/inventory/override", HERE, "").await;
    assert_eq!(status, 204);
    until(address, "let go", |status| status["override"].is_null()).await;

    let (status, answer) = ask(address, "POST", "/breakers/shop/inventory/reset", HERE, "").await;
    assert_eq!(status, 202);
    let at = answer["requestedAt"].as_str().unwrap().to_owned();
    until(address, "reset", |status| status["lastHandledReset"] == at).await;
    let id = ServiceId::parse("shop/inventory").unwrap();
    assert_eq!(store.config(&id).await.unwrap().unwrap().last_reset, at);
}

#[tokio::test]
async fn what_is_not_an_action_is_refused_with_a_reason() {
    let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
    let document = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: a}\n";
    std::fs::write(folder.path().join("a.yaml"), document).unwrap();
    let (address, _running) = start(folder.path(), &store).await;
    until(address, "programmed", |status| status["configRevision"].is_number()).await;
    let good = r#"{"state": "ForcedOpen", "reason": "x"}"#;
    for (method, path, headers, body, status, detail) in [
        (
            "PUT",
            "/breakers/b/override",
            JSON,
            good,
            404,
            "no document declares \"b\"",
        ),
        (
            "PUT",
            "/breakers/a/override",
            HERE,
            good,
            415,
            "wanted content-type: application/json",
        ),
        ("PUT", "/breakers/a/override", JSON, "{", 400, "wanted like {\"state\""),
        (
            "PUT",
            "/breakers/a/override",
            JSON,
            r#"{"state": "Open"}"#,
            400,
            "unknown variant `Open`",
        ),
        (
            "PUT",
            "/breakers/a/override",
            JSON,
            r#"{"state": "ForcedOpen"}"#,
            422,
            "reason: is required",
        ),
        (
            "PUT",
            "/breakers/a/override",
            JSON,
            r#"{"state": "ForcedOpen", "reason": "x", "expires": "2026-12-01T22:00:00Z"}"#,
            400,
            "unknown field `expires`",
        ),
        (
            "PUT",
            "/breakers/a/override",
            JSON,
            r#"{"state": "ForcedOpen", "reason": "x", "expireTime": "soon"}"#,
            422,
            "expireTime: \"soon\" is no time",
        ),
        ("POST", "/breakers/a/override", JSON, good, 405, "wanted PUT or DELETE"),
        ("POST", "/breakers/a/explode", JSON, "", 404, "wanted /breakers"),
        (
            "POST",
            "/breakers/a/reset",
            "host: evil.example\r\n",
            "",
            403,
            "the Host header",
        ),
        (
            "POST",
            "/breakers/a/reset",
            "host: localhost\r\norigin: http://evil.example\r\n",
            "",
            403,
            "the Origin",
        ),
    ] {
        let (got, answer) = ask(address, method, path, headers, body).await;
        let text = answer["detail"].as_str().unwrap_or_default();
        assert_eq!(
            (got, answer["status"].as_u64()),
            (status, Some(u64::from(status))),
            "{method} {path}: {text}"
        );
        assert!(text.contains(detail), "{method} {path}: {text}");
    }
}

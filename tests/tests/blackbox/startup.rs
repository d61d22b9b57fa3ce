//! Starting while there is no Redis.

use std::path::Path;
use std::time::Duration;
use tests::{Instance, Operator, PATIENCE, RedisServer, Upstream, WALK_THROUGH, document, eventually, get, holds};

/// Nobody listens on port 1 of a machine that runs tests.
const NOWHERE: &str = "redis://127.0.0.1:1";

async fn ready(instance: &Instance) {
    eventually(Duration::from_secs(6), "ready", async || {
        let answer = get(&format!("{}/readyz", instance.admin)).await;
        holds(answer.status == 200, answer.body)
    })
    .await;
}

async fn says_so(instance: &Instance) {
    let line = instance
        .process
        .logged("it says that there is no store", |line| {
            (line.contains("WARN") && line.contains("store")).then(|| line.to_owned())
        })
        .await;
    println!("{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_starts_without_redis_works_alone_and_joins_when_it_is_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let documents = path.join("breakers");
    std::fs::create_dir(&documents).expect("a folder");
    let rules = documents.join("a.yaml");
    std::fs::write(&rules, document("unreliable_service", WALK_THROUGH)).expect("a file");
    let socket = format!("redis+unix://{}", path.join("redis.sock").display());
    let upstream = Upstream::start(path).await;
    let more = ["--breakers", rules.to_str().expect("a readable name")];
    let instance = Instance::start(path, "i1", &socket, &upstream.url, &more).await;
    ready(&instance).await;
    says_so(&instance).await;
    eventually(Duration::from_secs(3), "it works alone", async || {
        let answer = instance.call().await;
        assert_eq!(answer.status, 200, "no call fails for want of a store");
        holds(answer.state() == "closed", answer.state())
    })
    .await;
    upstream.fail().await;
    eventually(Duration::from_secs(3), "it trips alone", async || {
        let answer = instance.call().await;
        holds(answer.blocked().as_deref() == Some("open"), answer.status)
    })
    .await;
    upstream.heal().await;

    let redis = RedisServer::start(path).await;
    let operator = Operator::start(path, &documents, &redis.url()).await;
    eventually(Duration::from_secs(15), "it has joined", async || {
        let known = instance.breaker().await;
        let joined = known["degraded"] == false && known["revision"].as_u64() > Some(0);
        holds(joined, known)
    })
    .await;
    eventually(PATIENCE, "closed", async || {
        let answer = instance.call().await;
        holds(answer.state() == "closed", answer.body)
    })
    .await;
    eventually(Duration::from_secs(36), "the operator counts it", async || {
        let status = operator.status("unreliable_service").await;
        holds(status["instances"]["live"] == 1 && status["state"] == "Closed", status)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_redis_and_rules_admits_everything_and_is_ready() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let upstream = Upstream::start(folder.path()).await;
    let mut instance = Instance::start(folder.path(), "i1", NOWHERE, &upstream.url, &[]).await;
    ready(&instance).await;
    says_so(&instance).await;
    upstream.fail().await;
    for _ in 0..20 {
        let answer = instance.call().await;
        assert_eq!(
            (answer.status, answer.state()),
            (500, "unconfigured"),
            "{}",
            answer.body
        );
    }
    assert_eq!(instance.metrics().await.value("tiebar_unconfigured", &[]), Some(1.0));
    assert_eq!(instance.process.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_starts_without_redis_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let documents = folder.path().join("breakers");
    std::fs::create_dir(&documents).expect("a folder");
    std::fs::write(documents.join("a.yaml"), document("unreliable_service", "{}")).expect("a file");
    let mut operator = Operator::start(folder.path(), Path::new(&documents), NOWHERE).await;
    operator
        .process
        .logged("it says that there is no store", |line| {
            line.contains("the store does not answer").then_some(())
        })
        .await;
    eventually(PATIENCE, "the state is unknown", async || {
        let status = operator.status("unreliable_service").await;
        holds(status["state"] == "Unknown", status)
    })
    .await;
    assert_eq!(operator.process.terminate().await, Some(0));
}

//! Many breakers from cold: how long until each says Ready, how much memory, how many requests; then whether all is quiet.
//!
//! `TIEBAR_BENCH_BREAKERS` says how many; default 5000. Reports, and judges nothing.

#[path = "../tests/kubernetes/support.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

use crds::testing::{Settings, wait_for};
use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use std::time::{Duration, Instant};
use support::{Place, Redis};

const NAMESPACE: &str = "bench";
const WRITES: &str = "tiebar_operator_status_writes_total{result=\"ok\"}";

async fn create(place: &Place, count: usize) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = std::fs::read_to_string(place.server().kubeconfig()).expect("a kubeconfig");
    let config = kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default());
    let client = kube::Client::try_from(config.await.expect("a config")).expect("a client");
    let kind = GroupVersionKind::gvk("tiebar.dev", "v1alpha1", "CircuitBreaker");
    let resource = ApiResource::from_gvk_with_plural(&kind, "circuitbreakers");
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &resource);
    futures_util::stream::iter(0..count)
        .for_each_concurrent(50, |number| {
            let (api, resource) = (api.clone(), &resource);
            async move {
                let breaker = DynamicObject::new(&format!("b{number}"), resource)
                    .data(serde_json::json!({"spec": {"trip": {"consecutiveFailures": 5}}}));
                api.create(&PostParams::default(), &breaker).await.expect("created");
            }
        })
        .await;
}

/// The most memory it had, in kilobytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn main() {
    let count: usize = std::env::var("TIEBAR_BENCH_BREAKERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5_000);
    let (place, redis) = (Place::own(NAMESPACE, Settings::default()), Redis::start(&[]));
    let begun = Instant::now();
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(create(&place, count));
    println!("{count} breakers made in {:.1?}", begun.elapsed());

    let begun = Instant::now();
    let operator = place.operator(&redis, &[]);
    let all = count as f64;
    wait_for("programmed", Duration::from_secs(600), || {
        redis.cli(&["SCARD", "cb:index"]).parse::<usize>().unwrap_or(0) >= count
    });
    println!("all programmed after {:.1?}", begun.elapsed());
    wait_for("reported", Duration::from_secs(600), || operator.metric(WRITES) >= all);
    println!("all reported after {:.1?}", begun.elapsed());
    let ready = format!("tiebar_breaker_condition{{breaker=\"{NAMESPACE}/b0\",type=\"Ready\",status=\"True\"}}");
    println!("b0 Ready: {}", operator.metric(&ready));
    println!("memory at most {} MB", peak(operator.id()) / 1_024);
    println!("status writes: {}", operator.metric(WRITES));
    // Longer than everything is looked at once.
    let before = operator.metric(WRITES);
    std::thread::sleep(Duration::from_secs(45));
    println!("status writes in the next 45 s: {}", operator.metric(WRITES) - before);
    println!("memory at most {} MB", peak(operator.id()) / 1_024);
}

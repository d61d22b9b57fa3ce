//! The operator's metrics. What tells of breakers comes from the leader only, so that an alert fires once.

use super::context::{Context, locked};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::Value;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub(crate) struct Metrics {
    reconciliations: Family<ResultLabel, Counter>,
    duration: Histogram,
    status_writes: Family<ResultLabel, Counter>,
    pub(crate) status_writes_coalesced: Counter,
    pub(crate) drift_corrections: Counter,
    pub(crate) store_up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciliations: Family::default(),
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            status_writes: Family::default(),
            status_writes_coalesced: Counter::default(),
            drift_corrections: Counter::default(),
            store_up: Gauge::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn reconciled(&self, well: bool, took: Duration) {
        let result = if well { "ok" } else { "error" };
        self.reconciliations.get_or_create(&ResultLabel { result }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn status_written(&self, result: &'static str) {
        self.status_writes.get_or_create(&ResultLabel { result }).inc();
    }
}

/// Everything as Prometheus text.
pub(crate) fn render(context: &Context) -> Result<String, std::fmt::Error> {
    let metrics = &context.metrics;
    let mut registry = Registry::default();
    let r = &mut registry;
    r.register(
        "tiebar_operator_reconciliations",
        "Attempts to bring a breaker up to date in the store",
        metrics.reconciliations.clone(),
    );
    r.register(
        "tiebar_operator_reconcile_duration_seconds",
        "How long they took",
        metrics.duration.clone(),
    );
    r.register(
        "tiebar_operator_status_writes",
        "Writes of a status to Kubernetes",
        metrics.status_writes.clone(),
    );
    r.register(
        "tiebar_operator_status_writes_coalesced",
        "Changes of state that went along with a later write",
        metrics.status_writes_coalesced.clone(),
    );
    r.register(
        "tiebar_operator_drift_corrections",
        "Configurations in the store that somebody else changed, restored",
        metrics.drift_corrections.clone(),
    );
    r.register(
        "tiebar_operator_store_up",
        "Whether the store answers",
        metrics.store_up.clone(),
    );
    let leader = Gauge::<i64>::default();
    leader.set(i64::from(context.leader().is_some()));
    r.register("tiebar_operator_leader", "Whether this replica leads", leader);
    let build = Family::<Labels, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    build.get_or_create(&vec![("version", version)]).set(1);
    r.register("tiebar_build_info", "The version", build);
    if context.leader().is_some() {
        breakers(context, r);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn breakers(context: &Context, registry: &mut Registry) {
    let states = Family::<Labels, Gauge>::default();
    let conditions = Family::<Labels, Gauge>::default();
    let instances = Family::<Labels, Gauge>::default();
    let ratios = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    let calls = Family::<Labels, Gauge>::default();
    let windows = locked(&context.reported).clone();
    let world = context.world();
    for id in world.ids() {
        let Some(declared) = world.winner(&id) else { continue };
        let breaker = || ("breaker", id.to_string());
        let status = &declared.status;
        for state in ["Closed", "Open", "HalfOpen", "ForcedOpen", "ForcedClosed", "Unknown"] {
            let labels = vec![breaker(), ("state", snake(state))];
            states.get_or_create(&labels).set(i64::from(status["state"] == state));
        }
        for condition in status["conditions"].as_array().into_iter().flatten() {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            for value in ["True", "False", "Unknown"] {
                let labels = vec![breaker(), ("type", text("type")), ("status", value.to_owned())];
                conditions
                    .get_or_create(&labels)
                    .set(i64::from(condition["status"] == value));
            }
        }
        for kind in ["live", "lost", "isolated", "outdated"] {
            let number = status["instances"].get(kind).and_then(Value::as_i64).unwrap_or(0);
            instances
                .get_or_create(&vec![breaker(), ("kind", kind.to_owned())])
                .set(number);
        }
        if let Some((all, failing)) = windows.get(&declared.key).and_then(|reported| reported.window) {
            let labels = vec![breaker()];
            calls.get_or_create(&labels).set(i64::try_from(all).unwrap_or(i64::MAX));
            ratios.get_or_create(&labels).set(failing as f64 / all.max(1) as f64);
        }
    }
    registry.register("tiebar_breaker_state", "1 for the state the circuit is in", states);
    registry.register(
        "tiebar_breaker_condition",
        "1 for the status a condition has",
        conditions,
    );
    registry.register("tiebar_breaker_instances", "Instances that use the breaker", instances);
    registry.register(
        "tiebar_breaker_failure_ratio",
        "Failed calls of those in the window",
        ratios,
    );
    registry.register("tiebar_breaker_calls", "Calls in the window", calls);
}

/// `HalfOpen` as `half_open`, as everywhere else in metrics.
fn snake(state: &str) -> String {
    let mut text = String::new();
    for letter in state.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

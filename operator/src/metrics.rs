//! The operator's own metrics. What tells of breakers is in [`gauges`](crate::gauges).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
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

    #[cfg(feature = "kubernetes")]
    pub(crate) fn status_written(&self, result: &'static str) {
        self.status_writes.get_or_create(&ResultLabel { result }).inc();
    }
}

/// What the text is.
pub(crate) const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How it ends.
pub(crate) const END: &str = "# EOF\n";

/// What tells of the operator itself, as OpenMetrics text that more may follow.
pub(crate) fn operator(metrics: &Metrics, leads: bool) -> Result<String, std::fmt::Error> {
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
        "Whether the store answers and takes writes",
        metrics.store_up.clone(),
    );
    let leader = Gauge::<i64>::default();
    leader.set(i64::from(leads));
    r.register("tiebar_operator_leader", "Whether this replica leads", leader);
    let build = Family::<Labels, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    build.get_or_create(&vec![("version", version)]).set(1);
    r.register("tiebar_build_info", "The version", build);
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    Ok(text)
}

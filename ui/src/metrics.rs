//! The dashboard's own numbers. None has a breaker's id in it: the path is open to all.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, &'static str)>;

/// Counters for the life of the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Live streams now.
    pub(crate) viewers: Gauge,
    /// Viewers sent away to polling.
    pub(crate) viewers_refused: Counter,
    /// Messages written to streams.
    pub(crate) messages: Counter,
    /// Actions by verb and result.
    pub(crate) actions: Family<Labels, Counter>,
}

impl Metrics {
    /// As Prometheus text.
    pub(crate) fn text(&self, breakers: usize, store_up: bool, age_ms: Option<u64>) -> String {
        let mut registry = Registry::with_prefix("tiebar");
        let (known, up) = (Gauge::<i64>::default(), Gauge::<i64>::default());
        known.set(breakers as i64);
        up.set(i64::from(store_up));
        registry.register("ui_viewers", "Live streams", self.viewers.clone());
        registry.register(
            "ui_viewers_refused",
            "Viewers sent to polling",
            self.viewers_refused.clone(),
        );
        registry.register("ui_messages", "Messages written to live streams", self.messages.clone());
        registry.register("ui_actions", "Actions by verb and result", self.actions.clone());
        registry.register("ui_breakers", "Breakers known", known);
        registry.register("store_up", "The store answered last time", up);
        if let Some(age) = age_ms {
            let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
            gauge.set(age as f64 / 1_000.0);
            registry.register("ui_data_age_seconds", "Age of the last complete reading", gauge);
        }
        let build = Family::<Labels, Gauge>::default();
        build
            .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        registry.register("build_info", "The version", build);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

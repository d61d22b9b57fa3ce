//! What Prometheus reads. The registry is built at scrape time from the guards' counters: they are the one truth, and
//! nothing is counted twice.

use crate::histogram::{Bare, Gathered, Source};
use crate::server::Shared;
use crate::store_watch::{Measures, OPS};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tiebar::guard::{Guard, Presented};
use tiebar::state::State;

/// OpenMetrics' own, which Prometheus asks for.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label `outcome`, in the order of [`tiebar::guard::GuardCounters::calls`].
const OUTCOMES: [&str; 6] = [
    "success",
    "failure",
    "slow_success",
    "slow_failure",
    "ignored",
    "rejected",
];

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

/// The families that have a breaker.
#[derive(Default)]
struct PerBreaker {
    calls: Counters,
    late: Counters,
    dropped: Counters,
    transitions: Counters,
    state: Gauges,
    isolated: Gauges,
    fallback: Gauges,
    unconfigured: Gauges,
    revision: Gauges,
    durations: Vec<(Labels, Source)>,
}

/// Everything as text.
pub(crate) fn render(shared: &Shared) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("tiebar");
    let per_breaker = gather(shared);
    per_breaker.register(&mut registry);
    if let Some(store) = &shared.settings.store {
        register_store(&mut registry, &store.0);
    }
    let store_up: Gauge = Gauge::default();
    store_up.set(i64::from(shared.breakers.store_up()));
    registry.register("store_up", "Whether the store answered last time", store_up);
    let in_flight: Gauge = Gauge::default();
    in_flight.set(i64::try_from(shared.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    registry.register("in_flight", "Calls, streams and tunnels in flight", in_flight);
    let build = Gauges::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    build.get_or_create(&vec![("version", version)]).set(1);
    registry.register("build_info", "The version", build);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gather(shared: &Shared) -> PerBreaker {
    let mut all = PerBreaker::default();
    let mut guards = shared.breakers.guards();
    guards.sort_by(|a, b| a.id().cmp(b.id()));
    for guard in &guards {
        all.add(shared, guard);
    }
    all
}

impl PerBreaker {
    fn add(&mut self, shared: &Shared, guard: &Guard) {
        let id = guard.id().to_string();
        let with = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            std::iter::once(("breaker", id.clone())).chain(more).collect()
        };
        let gauge = |family: &Gauges, value: bool| {
            family.get_or_create(&with(&[])).set(i64::from(value));
        };
        let (status, counters) = (guard.status(), guard.counters());
        let meter = shared.meter(guard.id());
        for (index, (outcome, count)) in OUTCOMES.iter().zip(counters.calls).enumerate() {
            let overloaded = if *outcome == "rejected" {
                meter.overloaded.load(Ordering::Relaxed)
            } else {
                0
            };
            let labels = with(&[("outcome", outcome)]);
            self.calls.get_or_create(&labels).inc_by(count + overloaded);
            if index < meter.durations.all().len() {
                let source = Source::Outcome(Arc::clone(&meter.durations), index);
                self.durations.push((labels, source));
            }
        }
        self.late.get_or_create(&with(&[])).inc_by(counters.late);
        self.dropped.get_or_create(&with(&[])).inc_by(counters.dropped);
        for ((from, to, reason), count) in &counters.transitions {
            let from = from.map_or("none", State::as_str);
            let labels = with(&[("from", from), ("to", to.as_str()), ("reason", reason.as_str())]);
            self.transitions.get_or_create(&labels).inc_by(*count);
        }
        for each in State::ALL {
            let is = status.state == Presented::State(*each);
            let labels = with(&[("state", each.as_str())]);
            self.state.get_or_create(&labels).set(i64::from(is));
        }
        let unconfigured = status.state == Presented::Unconfigured;
        gauge(&self.isolated, status.isolated);
        gauge(&self.fallback, status.degraded);
        gauge(&self.unconfigured, unconfigured);
        if !unconfigured {
            let revision = i64::try_from(status.revision).unwrap_or(i64::MAX);
            self.revision.get_or_create(&with(&[])).set(revision);
        }
    }

    fn register(self, to: &mut Registry) {
        to.register("calls", "Calls by outcome", self.calls);
        to.register(
            "call_duration_seconds",
            "From admission to the response's headers, by outcome",
            Gathered(self.durations),
        );
        to.register("state", "The state acted by, one-hot", self.state);
        to.register("transitions", "Transitions this instance caused", self.transitions);
        to.register("late_outcomes", "Outcomes of a generation that was over", self.late);
        to.register(
            "dropped_outcomes",
            "Outcomes lost, for want of room or of a store",
            self.dropped,
        );
        to.register(
            "unconfigured",
            "Whether nobody has configured the breaker",
            self.unconfigured,
        );
        to.register("isolated", "Whether this instance is open alone", self.isolated);
        to.register(
            "store_fallback_active",
            "Whether this instance acts without the store",
            self.fallback,
        );
        to.register("config_revision", "The configuration's revision", self.revision);
    }
}

fn register_store(to: &mut Registry, measures: &Arc<Measures>) {
    let source = |pick| Source::Store(Arc::clone(measures), pick);
    let operations = OPS.iter().enumerate().map(|(index, op)| {
        let labels: Labels = vec![("op", (*op).to_owned())];
        (labels, source(Measures::operation(index)))
    });
    to.register(
        "store_operation_duration_seconds",
        "The store's answers, and failures to answer",
        Gathered(operations.collect()),
    );
    to.register(
        "batch_outcomes",
        "Outcomes sent to the store at once",
        Bare(source(|measures| &measures.batches)),
    );
    to.register(
        "propagation_seconds",
        "From another instance's transition to this one's knowing, by the store's clock",
        Bare(source(|measures| &measures.propagation)),
    );
}

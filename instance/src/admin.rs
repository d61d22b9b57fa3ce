//! The admin port: health, metrics, what the guards know.

use crate::server::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiebar::guard::Presented;
use tiebar::state::State as Circuit;

pub(crate) fn router(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/breakers", get(breakers))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if shared.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    let attempted = tokio::time::timeout(Duration::ZERO, shared.breakers.first_attempt())
        .await
        .is_ok();
    if attempted {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    }
}

async fn breakers(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let items: Vec<Value> = shared
        .breakers
        .guards()
        .iter()
        .map(|guard| {
            let status = guard.status();
            json!({
                "id": guard.id().as_str(),
                "state": status.state.as_str(),
                "generation": status.generation,
                "calls": status.calls,
                "failures": status.failing,
                "slow": status.slow,
                "inFlight": status.in_flight,
                "degraded": status.degraded,
                "isolated": status.isolated,
                "revision": status.revision,
            })
        })
        .collect();
    Json(json!({"instance": shared.breakers.instance(), "storeUp": shared.breakers.store_up(), "items": items}))
}

type Labels = Vec<(&'static str, String)>;

/// Builds the registry at scrape time from the guards' counters: they are the one truth, and nothing is counted twice.
async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut registry = Registry::with_prefix("tiebar");
    let calls = Family::<Labels, Counter>::default();
    let late = Family::<Labels, Counter>::default();
    let dropped = Family::<Labels, Counter>::default();
    let transitions = Family::<Labels, Counter>::default();
    let state = Family::<Labels, Gauge>::default();
    let isolated = Family::<Labels, Gauge>::default();
    let fallback = Family::<Labels, Gauge>::default();
    let unconfigured = Family::<Labels, Gauge>::default();
    let revision = Family::<Labels, Gauge>::default();
    let store_up: Gauge = Gauge::default();
    let build = Family::<Labels, Gauge>::default();
    registry.register("calls", "Calls by outcome", calls.clone());
    registry.register("late_outcomes", "Outcomes of a generation that was over", late.clone());
    registry.register("dropped_outcomes", "Outcomes lost", dropped.clone());
    registry.register("transitions", "Transitions this instance caused", transitions.clone());
    registry.register("state", "The state acted by, one-hot", state.clone());
    registry.register("isolated", "Open alone", isolated.clone());
    registry.register("store_fallback_active", "Acting without the store", fallback.clone());
    registry.register(
        "unconfigured",
        "Nobody has configured the breaker",
        unconfigured.clone(),
    );
    registry.register("config_revision", "The configuration's revision", revision.clone());
    registry.register("store_up", "The store answered last time", store_up.clone());
    registry.register("build_info", "The version", build.clone());
    store_up.set(i64::from(shared.breakers.store_up()));
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    for guard in shared.breakers.guards() {
        let id = guard.id().to_string();
        let with = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            std::iter::once(("breaker", id.clone())).chain(more).collect()
        };
        let (status, counters) = (guard.status(), guard.counters());
        let outcomes = [
            "success",
            "failure",
            "slow_success",
            "slow_failure",
            "ignored",
            "rejected",
        ];
        for (outcome, count) in outcomes.iter().zip(counters.calls) {
            calls.get_or_create(&with(&[("outcome", outcome)])).inc_by(count);
        }
        late.get_or_create(&with(&[])).inc_by(counters.late);
        dropped.get_or_create(&with(&[])).inc_by(counters.dropped);
        for ((from, to, reason), count) in &counters.transitions {
            let from = from.map_or("none", Circuit::as_str);
            let labels = with(&[("from", from), ("to", to.as_str()), ("reason", reason.as_str())]);
            transitions.get_or_create(&labels).inc_by(*count);
        }
        for each in Circuit::ALL {
            let is = status.state == Presented::State(*each);
            state
                .get_or_create(&with(&[("state", each.as_str())]))
                .set(i64::from(is));
        }
        isolated.get_or_create(&with(&[])).set(i64::from(status.isolated));
        fallback.get_or_create(&with(&[])).set(i64::from(status.degraded));
        unconfigured
            .get_or_create(&with(&[]))
            .set(i64::from(status.state == Presented::Unconfigured));
        if status.state != Presented::Unconfigured {
            revision
                .get_or_create(&with(&[]))
                .set(i64::try_from(status.revision).unwrap_or(i64::MAX));
        }
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => (
            StatusCode::OK,
            [(
                "content-type",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [("content-type", "text/plain")],
            error.to_string(),
        ),
    }
}

//! The same knowledge as JSON, and its description. Lists are `{"items": […]}`; errors are problem documents.

use crate::app::App;
use crate::collector::here;
use crate::evidence::Evidence;
use crate::model::{Breaker, Model};
use crate::pages::read_query;
use crate::problem::Problem;
use crate::query::Query;
use crate::settings_table::settings;
use crate::view::{Gauge, Kind, Row, forced, rows};
use crate::words;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use std::sync::Arc;
use tiebar::id::ServiceId;
use tiebar::state::State as Circuit;
use utoipa::{OpenApi, ToSchema};

/// Many breakers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerList {
    #[serde(flatten)]
    reading: Reading,
    /// Worst first, unless the query says otherwise.
    items: Vec<Summary>,
}

/// How fresh an answer is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reading {
    /// The store answered last time.
    store_up: bool,
    /// When everything was last read, by the store's clock; absent: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
    /// The store's clock.
    now: String,
}

/// One breaker in short.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// `NAMESPACE/NAME`, or `NAME`.
    id: String,
    /// `-` for an id without one.
    namespace: String,
    /// The name.
    name: String,
    /// As the resource reports it; under Observe, `Closed`.
    state: StateName,
    /// How it stands on the page.
    presented: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// The reason of the last transition.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Open: when probes may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_until: Option<String>,
    /// 0 while closed.
    round: u64,
    /// The window.
    window: WindowTotals,
    /// Admitted calls a second, of the last ten seconds.
    calls_per_second: f64,
    /// Rejected ones.
    rejected_per_second: f64,
    /// How many instances are how.
    instances: Instances,
    /// What is forced by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#override: Option<OverrideInForce>,
    /// The configuration's revision; 0: nobody programmed one.
    revision: u64,
    /// Observe: what its machine would say.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<Shadow>,
}

/// A state, as in the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum StateName {
    /// Calls pass.
    Closed,
    /// Calls are rejected.
    Open,
    /// Probes pass.
    HalfOpen,
    /// Rejected by hand.
    ForcedOpen,
    /// Admitted by hand.
    ForcedClosed,
    /// The store does not answer.
    Unknown,
}

/// The window's totals.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WindowTotals {
    /// Outcomes.
    calls: u64,
    /// Failing ones.
    failing: u64,
    /// Slow ones.
    slow: u64,
    /// Enough calls for a rate to count.
    judged: bool,
}

/// How many instances are how.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instances {
    /// Heard of lately.
    live: usize,
    /// Silent without a goodbye.
    lost: usize,
    /// Open by own evidence.
    isolated: usize,
    /// With another configuration.
    outdated: usize,
    /// Without the store.
    degraded: usize,
}

/// An override.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OverrideInForce {
    /// `ForcedOpen` or `ForcedClosed`.
    state: StateName,
    /// Why.
    reason: String,
    /// When it lapses; absent: when it is cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_time: Option<String>,
}

/// What would have been.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shadow {
    /// The shadow machine's state.
    state: StateName,
    /// Its trips.
    trips: u64,
    /// Calls it would have rejected.
    would_have_rejected: u64,
}

/// One breaker in full.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerDetail {
    #[serde(flatten)]
    reading: Reading,
    #[serde(flatten)]
    summary: Summary,
    /// By name.
    members: Vec<MemberOut>,
    /// The effective configuration.
    settings: Vec<SettingOut>,
    /// The configuration as written.
    spec: serde_json::Value,
    /// The causes of the window's failures.
    causes: Vec<CauseOut>,
    /// Whom to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    runbook: Option<String>,
}

/// One instance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberOut {
    /// Its name.
    name: String,
    /// The state it acts on.
    state: String,
    /// And its number.
    generation: u64,
    /// Silent without a goodbye.
    lost: bool,
    /// Without the store.
    degraded: bool,
    /// Open by own evidence.
    isolated: bool,
    /// Calls running.
    in_flight: u64,
    /// The revision it acts by.
    revision: u64,
    /// When it was last heard of.
    seen_at: String,
}

/// One line of the effective configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettingOut {
    /// As in the resource.
    path: String,
    /// As a person reads it.
    value: String,
    /// Nobody wrote it.
    default: bool,
}

/// A cause of failures.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CauseOut {
    /// A status code or a kind of error.
    kind: String,
    /// How many.
    count: u64,
}

/// A breaker's transitions with all that is known about them: an incident in one document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Incident {
    /// The breaker now.
    breaker: BreakerDetail,
    /// Newest first, at most 100.
    items: Vec<Transition>,
}

/// One transition.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transition {
    /// Its number.
    generation: u64,
    /// When.
    time: String,
    /// Absent: nothing was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<StateName>,
    /// The state that began.
    to: StateName,
    /// Why.
    reason: String,
    /// The instance whose request caused it; empty: the operator.
    instance: String,
    /// What it was judged by, as stored.
    evidence: serde_json::Value,
    /// The same in words.
    summary: String,
}

fn state_name(state: Circuit) -> StateName {
    match state {
        Circuit::Closed => StateName::Closed,
        Circuit::Open => StateName::Open,
        Circuit::HalfOpen => StateName::HalfOpen,
        Circuit::ForcedOpen => StateName::ForcedOpen,
        Circuit::ForcedClosed => StateName::ForcedClosed,
    }
}

fn some_instant(ms: u64) -> Option<String> {
    (ms > 0).then(|| words::instant(ms))
}

fn reading(model: &Model, here: u64) -> Reading {
    Reading {
        store_up: model.outage.is_none() && model.read_at > 0,
        as_of: (model.read_at > 0).then(|| words::instant(model.store_time(model.read_at))),
        now: words::instant(model.store_time(here)),
    }
}

fn summary(row: &Row, breaker: &Breaker, now: u64) -> Summary {
    let snapshot = breaker.snapshot.as_ref();
    let stored = snapshot.map_or(Circuit::Closed, |snapshot| snapshot.view.state);
    let watched = matches!(row.kind, Kind::ShadowOpen | Kind::Shadow);
    Summary {
        id: row.id.clone(),
        namespace: row.namespace.clone().unwrap_or_else(|| "-".to_owned()),
        name: row.name.clone(),
        state: match row.kind {
            Kind::Unknown => StateName::Unknown,
            Kind::ShadowOpen | Kind::Shadow | Kind::Disabled => StateName::Closed,
            _ => state_name(stored),
        },
        presented: row.kind.word().to_owned(),
        since: some_instant(row.since),
        reason: snapshot.map(|snapshot| snapshot.view.reason.as_str().to_owned()),
        open_until: some_instant(snapshot.map_or(0, |snapshot| snapshot.open_until)),
        round: snapshot.map_or(0, |snapshot| snapshot.view.round),
        window: WindowTotals {
            calls: snapshot.map_or(0, |snapshot| snapshot.calls),
            failing: snapshot.map_or(0, |snapshot| snapshot.failing),
            slow: snapshot.map_or(0, |snapshot| snapshot.slow),
            judged: matches!(row.failures, Gauge::Rate { .. }) || matches!(row.slow, Gauge::Rate { .. }),
        },
        calls_per_second: row.calls_rate as f64 / 1_000.0,
        rejected_per_second: row.rejected_rate as f64 / 1_000.0,
        instances: Instances {
            live: row.counts.live,
            lost: row.counts.lost,
            isolated: row.counts.isolated,
            outdated: row.counts.outdated,
            degraded: row.counts.degraded,
        },
        r#override: forced(breaker, now).map(|forced| OverrideInForce {
            state: if forced.open {
                StateName::ForcedOpen
            } else {
                StateName::ForcedClosed
            },
            expire_time: some_instant(forced.until),
            reason: forced.reason,
        }),
        revision: breaker.revision(),
        shadow: snapshot.filter(|_| watched).map(|snapshot| Shadow {
            state: state_name(stored),
            trips: snapshot.shadow_trips,
            would_have_rejected: snapshot.shadow_rejected,
        }),
    }
}

fn full(breaker: &Breaker, model: &Model, here: u64) -> BreakerDetail {
    let row = Row::new(breaker, model, here);
    let member = |instance: &crate::model::Instance| MemberOut {
        name: instance.name.clone(),
        state: instance.state.clone(),
        generation: instance.generation,
        lost: instance.lost,
        degraded: instance.degraded,
        isolated: instance.isolated,
        in_flight: instance.in_flight,
        revision: instance.revision,
        seen_at: words::instant(instance.seen_at),
    };
    let causes = breaker.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.causes);
    BreakerDetail {
        reading: reading(model, here),
        summary: summary(&row, breaker, model.store_time(here)),
        members: breaker.instances.iter().map(member).collect(),
        settings: settings(&breaker.policy(), &breaker.stored)
            .into_iter()
            .map(|setting| SettingOut {
                path: setting.path.to_owned(),
                value: setting.value,
                default: !setting.written,
            })
            .collect(),
        spec: serde_json::to_value(&breaker.stored.spec).unwrap_or_default(),
        causes: causes
            .iter()
            .map(|(kind, count)| CauseOut {
                kind: kind.clone(),
                count: *count,
            })
            .collect(),
        owner: breaker.stored.notes.owner.clone(),
        runbook: breaker.stored.notes.runbook.clone(),
    }
}

/// The addresses under `/api`.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/breakers", get(list))
        .route("/v1/namespaces/{namespace}/breakers/{name}", get(one))
        .route("/v1/namespaces/{namespace}/breakers/{name}/events", get(incident))
        .route("/openapi.json", get(|| async { Json(Description::openapi()) }))
        .fallback(|| async { Problem::not_found("there is nothing at this address; /api/openapi.json lists what is") })
}

/// All breakers, filtered and ordered as the page is.
#[utoipa::path(get, path = "/api/v1/breakers", params(
    ("ns" = Option<String>, Query, description = "a namespace, `-` for ids without one"),
    ("state" = Option<String>, Query, description = "open, half_open, forced, unknown, attention, shadow or closed"),
    ("q" = Option<String>, Query, description = "a part of the id"),
    ("sort" = Option<String>, Query, description = "worst, name, since, failures, slow, calls or rejected"),
), responses(
    (status = 200, body = BreakerList),
    (status = 401, body = Problem, content_type = "application/problem+json", description = "Not signed in"),
))]
async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Json<BreakerList> {
    let (model, here) = (app.model(), here());
    let query: Query = read_query(query.as_deref());
    let now = model.store_time(here);
    let selected = query.select(rows(&model, &query, here));
    let item = |row: &Row| {
        let id = ServiceId::parse(&row.id).ok()?;
        Some(summary(row, model.breakers.get(&id)?, now))
    };
    Json(BreakerList {
        reading: reading(&model, here),
        items: selected.iter().filter_map(item).collect(),
    })
}

/// The breaker of a path.
fn found<'a>(model: &'a Model, namespace: &str, name: &str) -> Result<&'a Arc<Breaker>, Problem> {
    let text = if namespace == "-" {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    };
    let id = ServiceId::parse(&text).map_err(|error| Problem::bad_request(&error.to_string()))?;
    let breaker = model.breakers.get(&id);
    breaker.ok_or_else(|| Problem::not_found(&format!("there is no breaker {id} in the store")))
}

/// One breaker.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/breakers/{name}", params(
    ("namespace" = String, Path, description = "`-` for an id without one"),
    ("name" = String, Path),
), responses(
    (status = 200, body = BreakerDetail),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "Not a service id"),
    (status = 401, body = Problem, content_type = "application/problem+json", description = "Not signed in"),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "Not there"),
))]
async fn one(State(app): State<Arc<App>>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let (model, here) = (app.model(), here());
    match found(&model, &namespace, &name) {
        Ok(breaker) => Json(full(breaker, &model, here)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// A breaker's transitions and all that is known about them.
#[utoipa::path(get, path = "/api/v1/namespaces/{namespace}/breakers/{name}/events", params(
    ("namespace" = String, Path, description = "`-` for an id without one"),
    ("name" = String, Path),
    ("download" = Option<String>, Query, description = "1: as a file"),
), responses(
    (status = 200, body = Incident),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "Not a service id"),
    (status = 401, body = Problem, content_type = "application/problem+json", description = "Not signed in"),
    (status = 404, body = Problem, content_type = "application/problem+json", description = "Not there"),
))]
async fn incident(
    State(app): State<Arc<App>>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let (model, here) = (app.model(), here());
    let breaker = match found(&model, &namespace, &name) {
        Ok(breaker) => breaker,
        Err(problem) => return problem.into_response(),
    };
    let items = breaker.events.iter().map(|event| Transition {
        generation: event.generation,
        time: words::instant(event.at),
        from: event.from.map(state_name),
        to: state_name(event.to),
        reason: event.reason.as_str().to_owned(),
        instance: event.instance.clone(),
        evidence: serde_json::from_str(&event.snapshot).unwrap_or_default(),
        summary: Evidence::read(&event.snapshot).map_or_else(String::new, |evidence| evidence.words()),
    });
    let document = Incident {
        items: items.collect(),
        breaker: full(breaker, &model, here),
    };
    if query.as_deref() != Some("download=1") {
        return Json(document).into_response();
    }
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    // A checked id is safe in a file's name but for its slash.
    let file = format!(
        "attachment; filename=\"incident-{}.json\"",
        breaker.id.as_str().replace('/', "-")
    );
    (
        [
            (CONTENT_TYPE, "application/json".to_owned()),
            (CONTENT_DISPOSITION, file),
        ],
        text,
    )
        .into_response()
}

/// The description served at `/api/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tiebar dashboard",
        description = "Shared circuit breakers as JSON. Times are RFC 3339, by the store's clock."
    ),
    paths(list, one, incident)
)]
pub(crate) struct Description;

//! The same knowledge as JSON, and its description. Lists are `{"items": […]}`; errors are problem documents.

use crate::app::App;
use crate::collector::here;
use crate::evidence::Evidence;
use crate::gauge::Gauge;
use crate::model::{Breaker, Model};
use crate::pages::read_query;
use crate::problem::Problem;
use crate::query::Query;
use crate::settings_table::settings;
use crate::shapes::{
    BreakerDetail, BreakerList, CauseOut, Incident, Instances, MemberOut, OverrideInForce, Reading, SettingOut, Shadow,
    StateName, Summary, Transition, WindowTotals,
};
use crate::view::{Kind, Row, forced, rows};
use crate::words;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use std::sync::Arc;
use tiebar::id::ServiceId;
use tiebar::state::State as Circuit;
use utoipa::OpenApi;

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
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many wrong tokens from there; Retry-After says when to try again"),
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
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many wrong tokens from there; Retry-After says when to try again"),
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
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many wrong tokens from there; Retry-After says when to try again"),
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

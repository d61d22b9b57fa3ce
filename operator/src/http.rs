//! The operator's port in file mode: breakers, health, metrics, and actions by hand.
//!
//! There is no login here, so actions are taken from this machine only, and never from a web page of somebody else's:
//! the peer must be a loopback address, `Host` must name this machine (against DNS rebinding), an `Origin` must be the
//! port's own, and a body must be JSON (which a foreign page cannot send without asking first).

use crate::actions::ActionError;
use crate::file_mode::{Report, Reported, Shared};
use crate::gauges::{Show, Statuses, pieces};
use crate::metrics::{END, KIND, operator};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use crds::OverrideSpec;
use serde::de::Error as _;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tiebar::id::ServiceId;

pub(crate) fn router(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route(
            "/breakers/{*action}",
            axum::routing::any(act).layer(middleware::from_fn(only_from_here)),
        )
        .route("/breakers", get(breakers))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(shared)
}

async fn breakers(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let report = shared.report();
    let item = |(id, reported): (&ServiceId, &Reported)| json!({"id": id.as_str(), "status": reported.status});
    let items: Vec<Value> = report.items.iter().map(item).collect();
    Json(json!({ "items": items, "errors": report.errors }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    // Nobody else is at work on these files.
    let Ok(own) = operator(&shared.metrics, true) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let report = shared.report();
    let ids = report.items.keys().cloned().collect();
    let text: String = std::iter::once(own)
        .chain(pieces(report, ids))
        .chain(std::iter::once(END.to_owned()))
        .collect();
    ([(CONTENT_TYPE, KIND)], text).into_response()
}

impl Statuses for Report {
    fn show(&self, ids: &[ServiceId], to: &mut Show<'_>) {
        for (id, reported) in ids.iter().filter_map(|id| self.items.get_key_value(id)) {
            to(id, &reported.status.to_string(), reported.window);
        }
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if shared.report().attempted {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not reconciled yet")
    }
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let json = [(CONTENT_TYPE, "application/problem+json")];
    (status, json, body.to_string()).into_response()
}

fn refused(error: &ActionError) -> Response {
    let (status, title) = match error {
        ActionError::NotFound(_) => (StatusCode::NOT_FOUND, "No such breaker"),
        ActionError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Not valid"),
        ActionError::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
        ActionError::Unkept(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Not kept"),
    };
    problem(status, title, &error.to_string())
}

/// The host of `Host` or `Origin`, without port and brackets.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why a request may not act; see the module's head.
fn forbidden(peer: IpAddr, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if !peer.to_canonical().is_loopback() {
        return Some("actions are taken from this machine only");
    }
    let host = text(HOST).unwrap_or_default();
    if !is_this_machine(host_of(host)) {
        return Some("the Host header must be localhost or a loopback address");
    }
    match text(ORIGIN) {
        Some(origin) if origin.strip_prefix("http://") != Some(host) => Some("the Origin is another than the Host"),
        _ => None,
    }
}

async fn only_from_here(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    match forbidden(peer.ip(), request.headers()) {
        Some(why) => problem(StatusCode::FORBIDDEN, "Forbidden", why),
        None => next.run(request).await,
    }
}

async fn act(
    State(shared): State<Arc<Shared>>,
    Path(action): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // An id may hold a slash, so the action is whatever stands after the last one.
    let (id, what) = action.rsplit_once('/').unwrap_or((&action, ""));
    let done = match (method.as_str(), what) {
        ("PUT", "override") => match wanted(&headers, &body) {
            Ok(wanted) => shared
                .act(|actions| actions.set_override(id, wanted.clone()))
                .map(|()| {
                    tracing::info!(breaker = id, state = ?wanted.state, reason = wanted.reason, "override by hand");
                    Json(json!(wanted)).into_response()
                }),
            Err(response) => return response,
        },
        ("DELETE", "override") => shared.act(|actions| actions.clear_override(id)).map(|()| {
            tracing::info!(breaker = id, "override by hand removed");
            StatusCode::NO_CONTENT.into_response()
        }),
        ("POST", "reset") => {
            let now = jiff::Timestamp::now();
            shared.act(|actions| actions.reset(id, now)).map(|at| {
                tracing::info!(breaker = id, "reset by hand");
                (StatusCode::ACCEPTED, Json(json!({ "requestedAt": at }))).into_response()
            })
        }
        (_, "override" | "reset") => {
            let detail = "wanted PUT or DELETE …/override, or POST …/reset";
            return problem(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail);
        }
        _ => {
            let detail = "wanted /breakers, /breakers/ID/override or /breakers/ID/reset";
            return problem(StatusCode::NOT_FOUND, "Not found", detail);
        }
    };
    done.unwrap_or_else(|error| refused(&error))
}

/// The override in a body.
#[expect(clippy::result_large_err, reason = "the error is the response")]
fn wanted(headers: &HeaderMap, body: &Bytes) -> Result<OverrideSpec, Response> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let detail = "wanted content-type: application/json";
        return Err(problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported media type",
            detail,
        ));
    }
    // A misspelt expireTime must not become an override without end.
    let known = |value: &Value| {
        let fields = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let unknown = fields
            .into_iter()
            .find(|name| !["state", "reason", "expireTime"].contains(name));
        unknown.map_or(Ok(()), |name| {
            Err(serde_json::Error::custom(format!("unknown field `{name}`")))
        })
    };
    let read = serde_json::from_slice::<Value>(body).and_then(|value| {
        known(&value)?;
        serde_json::from_value(value)
    });
    read.map_err(|error| {
        let detail = format!(
            "{error}; wanted like {{\"state\": \"ForcedOpen\", \"reason\": \"CHG-4711\", \"expireTime\": \"2026-12-01T22:00:00Z\"}}"
        );
        problem(StatusCode::BAD_REQUEST, "Not an override", &detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_s_own_pages_and_programs_may_act() {
        let headers = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(forbidden(here, &headers("localhost:8081", None)), None);
        assert_eq!(forbidden(here, &headers("[::1]:8081", None)), None);
        assert_eq!(
            forbidden(here, &headers("127.0.0.1:8081", Some("http://127.0.0.1:8081"))),
            None
        );
        assert_eq!(
            forbidden("::ffff:127.0.0.1".parse().unwrap(), &headers("localhost", None)),
            None
        );
        assert!(forbidden("10.0.0.7".parse().unwrap(), &headers("localhost", None)).is_some());
        assert!(forbidden(here, &headers("evil.example:8081", None)).is_some());
        assert!(forbidden(here, &headers("127.0.0.1.evil.example", None)).is_some());
        assert!(forbidden(here, &headers("localhost:8081", Some("http://evil.example"))).is_some());
        assert!(forbidden(here, &headers("localhost:8081", Some("null"))).is_some());
    }
}

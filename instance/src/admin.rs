//! The admin port: health, metrics, what the guards know. It changes nothing and shows no secret, whoever asks; in
//! images it listens on all addresses, for kubelet and Prometheus.

use crate::activity::Activity;
use crate::body::Body;
use crate::drain::Stage;
use crate::metrics;
use crate::server::Shared;
use futures_util::FutureExt as _;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one request of the admin port.
pub(crate) async fn answer<B>(activity: &Arc<Activity>, request: &Request<B>) -> Response<Body> {
    let shared = &activity.shared;
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, text) = match request.uri().path() {
        "/livez" | "/readyz" | "/metrics" | "/breakers" if !reading => {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "wanted GET\n".to_owned());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        "/livez" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match unready(shared) {
            None => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/metrics" => match metrics::render(shared) {
            Ok(text) => (StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/breakers" => (StatusCode::OK, "application/json", format!("{}\n", breakers(shared))),
        _ => (
            StatusCode::NOT_FOUND,
            TEXT,
            "wanted /livez, /readyz, /metrics or /breakers\n".to_owned(),
        ),
    };
    respond(status, kind, text)
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Why no traffic should come.
fn unready(shared: &Shared) -> Option<&'static str> {
    if shared.drain.stage() > Stage::Serving {
        return Some("draining");
    }
    match shared.breakers.first_attempt().now_or_never() {
        Some(()) => None,
        None => Some("starting: the store has not been tried yet"),
    }
}

fn breakers(shared: &Shared) -> Value {
    let mut guards = shared.breakers.guards();
    guards.sort_by(|a, b| a.id().cmp(b.id()));
    let items: Vec<Value> = guards
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
    json!({"instance": shared.breakers.instance(), "storeUp": shared.breakers.store_up(), "items": items})
}

//! Answers that the proxy gives itself, all as `application/problem+json`.

use crate::body::Body;
use crate::connect::ConnectTrouble;
use crate::exchange::Trouble;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;
use tiebar::guard::{Presented, RejectReason, Rejected};

/// Tells every caller the state, even one that never reads the body.
pub(crate) const CIRCUIT_STATE: HeaderName = HeaderName::from_static("x-circuit-state");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Marks a response with the state; the nearest instance wins.
pub(crate) fn mark<B>(response: &mut Response<B>, presented: Presented) {
    response
        .headers_mut()
        .insert(CIRCUIT_STATE, HeaderValue::from_static(presented.as_str()));
}

struct Problem<'a> {
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: String,
    service: &'a str,
    outcome: &'a str,
    reason: &'a str,
    instance: &'a str,
    error: &'static str,
    retry_after_ms: Option<u64>,
}

fn answer(problem: &Problem<'_>, presented: Presented) -> Response<Body> {
    let mut body = json!({
        "type": format!("https://tiebar.dev/problems/{}", problem.kind),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "service": problem.service,
        "state": presented.as_str(),
        "outcome": problem.outcome,
        "reason": problem.reason,
        "guardedBy": problem.instance,
    });
    if let Some(ms) = problem.retry_after_ms {
        body["retryAfterMs"] = json!(ms);
    }
    let mut response = Response::new(Body::full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Ok(value) = HeaderValue::from_str(&format!("tiebar; error={}", problem.error)) {
        headers.insert(PROXY_STATUS, value);
    }
    if let Some(ms) = problem.retry_after_ms {
        // Whole seconds, at least one: a client that waits 0 s has not waited.
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).clamp(1, 300)));
    }
    mark(&mut response, presented);
    response
}

/// The answer to a rejected call.
pub(crate) fn rejected(rejected: Rejected, status: u16, service: &str, instance: &str) -> Response<Body> {
    let detail = match rejected.reason {
        RejectReason::Open => "the circuit is open: the service failed too often",
        RejectReason::ProbeLimit => "the circuit is half-open and all its probes are under way",
        RejectReason::Ramp => "the circuit has just closed and admits a growing share of calls",
        RejectReason::Forced => "the circuit is forced open by hand",
        RejectReason::Isolated => "this instance fails to reach the service while others do not",
        RejectReason::Store => "the breaker's store does not answer, and the policy is to reject",
        RejectReason::Overload => "this proxy has too many calls in flight",
    };
    let retry_after_ms = match rejected.state {
        Presented::State(tiebar::state::State::HalfOpen) => Some(1_000),
        _ => Some(rejected.retry_after_ms.unwrap_or(30_000)),
    };
    let problem = Problem {
        kind: "circuit-open",
        title: "Circuit open",
        status,
        detail: detail.to_owned(),
        service,
        outcome: "blocked",
        reason: rejected.reason.as_str(),
        instance,
        error: "destination_unavailable",
        retry_after_ms,
    };
    answer(&problem, rejected.state)
}

/// The answer when the upstream gave none.
pub(crate) fn troubled(trouble: Trouble, presented: Presented, service: &str, instance: &str) -> Response<Body> {
    const UNREACHABLE: (&str, &str, u16) = ("upstream-unreachable", "Upstream unreachable", 502);
    // The errors are RFC 9209's.
    let ((kind, title, status), error, detail) = match trouble {
        Trouble::Timeout => (
            ("upstream-timeout", "Upstream timeout", 504),
            "http_response_timeout",
            "no response headers in time",
        ),
        Trouble::Connect(ConnectTrouble::Own) => {
            let why = Rejected {
                state: presented,
                reason: RejectReason::Overload,
                retry_after_ms: Some(1_000),
            };
            return rejected(why, 503, service, instance);
        }
        Trouble::Connect(ConnectTrouble::Dns) => (UNREACHABLE, "dns_error", "the upstream's name has no address"),
        Trouble::Connect(ConnectTrouble::Refused) => (UNREACHABLE, "connection_refused", "no connection could be made"),
        Trouble::Connect(ConnectTrouble::TimedOut) => (UNREACHABLE, "connection_timeout", "no connection in time"),
        Trouble::Connect(ConnectTrouble::Tls) => (
            UNREACHABLE,
            "tls_certificate_error",
            "the upstream is not who it should be, or speaks no TLS",
        ),
        Trouble::Reset => (UNREACHABLE, "connection_terminated", "the connection broke"),
        Trouble::BadBody => return plain(StatusCode::BAD_REQUEST, "the request's body broke off\n"),
        Trouble::SlowBody => return plain(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time\n"),
        Trouble::Unspeakable => return plain(StatusCode::BAD_REQUEST, "the request's target cannot be forwarded\n"),
    };
    let problem = Problem {
        kind,
        title,
        status,
        detail: detail.to_owned(),
        service,
        outcome: "failure",
        reason: kind,
        instance,
        error,
        retry_after_ms: None,
    };
    answer(&problem, presented)
}

/// A plain answer to a request that cannot be served.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    mark(&mut response, Presented::Unconfigured);
    response
}

//! What one call came to, as its caller sees it.

use std::fmt;

use http::HeaderMap;
use http::StatusCode;
use http::header::CONTENT_TYPE;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer with a status below 500.
    Ok,
    /// An answer with a status of 500 or above that no breaker made up, or one that says the upstream could not be
    /// reached.
    Failed,
    /// A breaker's rejection: the call never reached the upstream.
    Blocked,
    /// No answer: connection refused or lost, or the call's timeout.
    Unanswered,
}

/// A circuit's state as the `x-circuit-state` header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Calls pass.
    Closed,
    /// Calls are rejected.
    Open,
    /// A bounded number of probes passes.
    HalfOpen,
    /// Rejecting by an override.
    ForcedOpen,
    /// Passing by an override.
    ForcedClosed,
    /// The instance knows no breaker for the service.
    Unconfigured,
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) state: Option<CircuitState>,
}

// === impl CircuitState ===

impl CircuitState {
    /// All states, in the order in which reports list them.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
        Self::Unconfigured,
    ];

    /// The state's name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Unconfigured => "unconfigured",
        }
    }

    fn from_header(headers: &HeaderMap) -> Option<Self> {
        let name = headers.get("x-circuit-state")?;
        Self::ALL.into_iter().find(|state| name == state.name())
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) const NONE: Self = Self {
        kind: Kind::Unanswered,
        state: None,
    };

    pub(crate) fn from_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let kind = if is_rejection(headers, body) {
            Kind::Blocked
        } else if status.as_u16() >= 500 {
            Kind::Failed
        } else {
            Kind::Ok
        };
        Self {
            kind,
            state: CircuitState::from_header(headers),
        }
    }
}

/// Whether the answer should be looked at closely: only a breaker's own answers have a body worth keeping.
pub(crate) fn is_from_breaker(headers: &HeaderMap) -> bool {
    headers
        .get("proxy-status")
        .is_some_and(|value| value.as_bytes().starts_with(b"tiebar"))
        && headers.contains_key("x-circuit-state")
}

/// An instance's 502 and 504 for a failing upstream look like its rejections but for `outcome`, so headers alone do not
/// tell them apart.
fn is_rejection(headers: &HeaderMap, body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Problem {
        outcome: Option<String>,
    }
    let problem_json = headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/problem+json"));
    if !is_from_breaker(headers) || !problem_json {
        return false;
    }
    match serde_json::from_slice(body) {
        Ok(Problem { outcome: Some(outcome) }) => outcome == "blocked",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REJECTION: [(&str, &str); 3] = [
        ("proxy-status", "tiebar; error=destination_unavailable"),
        ("content-type", "application/problem+json"),
        ("x-circuit-state", "open"),
    ];

    fn kind(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Kind {
        let headers = headers.iter().map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )
        });
        Answer::from_response(
            StatusCode::from_u16(status).unwrap(),
            &headers.collect(),
            body.as_bytes(),
        )
        .kind
    }

    #[test]
    fn kinds_are_told_apart_by_who_made_the_answer() {
        assert_eq!(kind(200, &[], ""), Kind::Ok);
        assert_eq!(kind(404, &[], ""), Kind::Ok, "the service is fine, the caller was not");
        assert_eq!(kind(503, &[], ""), Kind::Failed);
        assert_eq!(kind(503, &REJECTION, r#"{"outcome":"blocked"}"#), Kind::Blocked);
        assert_eq!(
            kind(429, &REJECTION, ""),
            Kind::Blocked,
            "the rejection's status is configurable"
        );
        assert_eq!(
            kind(502, &REJECTION, r#"{"outcome":"failure"}"#),
            Kind::Failed,
            "it did go to the upstream"
        );
        assert_eq!(
            kind(503, &REJECTION[1..], r#"{"outcome":"blocked"}"#),
            Kind::Failed,
            "not from a Tiebar instance"
        );
    }

    #[test]
    fn the_state_comes_from_the_header_and_unknown_ones_are_none() {
        for state in CircuitState::ALL {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-circuit-state"),
                http::HeaderValue::from_static(state.name()),
            )]);
            assert_eq!(CircuitState::from_header(&headers), Some(state));
        }
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-circuit-state"),
            http::HeaderValue::from_static("ajar"),
        )]);
        assert_eq!(CircuitState::from_header(&headers), None);
    }
}

//! Errors: a problem document (RFC 9457) for programs, a page for people.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// What went wrong, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which kind of problem.
    #[serde(rename = "type")]
    kind: String,
    /// The same in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What was wrong, and what would be right.
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &str, title: &str, detail: &str) -> Self {
        Self {
            kind: format!("https://tiebar.dev/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.to_owned(),
        }
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(crate) fn bad_request(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "Bad request", detail)
    }

    pub(crate) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    pub(crate) fn too_many_tokens(wait: Duration) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let detail = format!(
            "Too many tokens from your address were wrong. Try again in {} s.",
            whole_seconds(wait)
        );
        Self::new(status, "too-many-tokens", "Too many wrong tokens", &detail)
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// As `Retry-After` has it: never too early, never 0.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_millis() as u64).div_ceil(1_000).max(1)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).unwrap_or_default();
        let headers = [(CONTENT_TYPE, "application/problem+json"), (CACHE_CONTROL, "no-store")];
        (self.status(), headers, body).into_response()
    }
}

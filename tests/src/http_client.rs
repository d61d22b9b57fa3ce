//! An HTTP client that keeps nothing between calls.

use crate::wait::PATIENCE;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
    /// From before the connection to after the body.
    pub took: Duration,
}

impl Answer {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// `x-circuit-state`.
    #[must_use]
    pub fn state(&self) -> &str {
        let value = self.headers.get("x-circuit-state");
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or("no x-circuit-state")
    }

    /// Why the breaker rejected the call; none when it did not.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let problem = self.json();
        (problem["outcome"] == "blocked").then(|| problem["reason"].as_str().unwrap_or("no reason").to_owned())
    }
}

/// Sends a request to `http://HOST:PORT/PATH` and waits for the whole answer.
///
/// # Errors
/// When there is none, in time.
pub async fn send(method: Method, url: &str, body: &str) -> Result<Answer, String> {
    let answer = tokio::time::timeout(PATIENCE, exchange(method, url, body)).await;
    answer.unwrap_or_else(|_| Err(format!("{url}: no answer within {PATIENCE:?}")))
}

async fn exchange(method: Method, url: &str, body: &str) -> Result<Answer, String> {
    let start = Instant::now();
    let fail = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| fail(&error))?;
    let authority = uri.authority().ok_or_else(|| fail(&"no authority"))?.clone();
    let stream = TcpStream::connect(authority.as_str())
        .await
        .map_err(|error| fail(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| fail(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority.as_str())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .map_err(|error| fail(&error))?;
    let response = sender.send_request(request).await.map_err(|error| fail(&error))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| fail(&error))?.to_bytes();
    driver.abort();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        took: start.elapsed(),
    })
}

/// `GET`.
///
/// # Errors
/// When there is no answer.
pub async fn try_get(url: &str) -> Result<Answer, String> {
    send(Method::GET, url, "").await
}

/// `GET`.
///
/// # Panics
/// When there is no answer.
pub async fn get(url: &str) -> Answer {
    try_get(url).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A scrape.
#[derive(Debug, Clone)]
pub struct Metrics(String);

impl Metrics {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of all samples of a metric that carry these labels; none when there is no such sample.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching = self.0.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels
                    .iter()
                    .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        });
        let values: Vec<f64> = matching
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

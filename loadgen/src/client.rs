//! Calls over HTTP/1.1 with keep-alive.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use upstream::FaultProfile;

use crate::answer::{self, Answer};

/// The most of a breaker's own answer that is kept; a rejection is below 1 KB.
const BREAKER_BODY_BYTES_MAX: usize = 64 * 1024;
const USER_AGENT: &str = concat!("tiebar-loadgen/", env!("CARGO_PKG_VERSION"));

/// Makes calls; a trait so that tests can decide how long a call takes in virtual time.
pub(crate) trait Caller: Clone + Send + 'static {
    /// Makes one call and never fails: no answer is an answer too.
    fn call(&self, target: Uri) -> impl Future<Output = Answer> + Send;

    /// Sets an upstream's faults; the error says what went wrong.
    fn set_faults(&self, upstream: &Uri, faults: &FaultProfile) -> impl Future<Output = Result<(), String>> + Send;
}

#[derive(Debug, Clone)]
pub(crate) struct HttpCaller {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl HttpCaller {
    pub(crate) fn new(timeout: Duration, concurrency: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(concurrency)
            .build(connector);
        Self { client, timeout }
    }

    async fn try_call(&self, target: Uri) -> Result<Answer, String> {
        let request = Request::get(target)
            .header("user-agent", USER_AGENT)
            .body(Full::default())
            .map_err(describe)?;
        let (head, body) = self.client.request(request).await.map_err(describe)?.into_parts();
        let body = if answer::is_from_breaker(&head.headers) {
            Limited::new(body, BREAKER_BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| error.to_string())?
                .to_bytes()
        } else {
            discard(body).await?;
            Bytes::new()
        };
        Ok(Answer::from_response(head.status, &head.headers, &body))
    }

    async fn try_set_faults(&self, uri: &Uri, faults: &FaultProfile) -> Result<(), String> {
        let body = serde_json::to_vec(faults).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::PUT)
            .uri(uri.clone())
            .header("content-type", "application/json")
            .header("user-agent", USER_AGENT)
            .body(Full::new(Bytes::from(body)))
            .map_err(describe)?;
        let (head, body) = self.client.request(request).await.map_err(describe)?.into_parts();
        let told = Limited::new(body, BREAKER_BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        if head.status == StatusCode::OK {
            return Ok(());
        }
        Err(format!(
            "{}: {}",
            head.status,
            String::from_utf8_lossy(&told.to_bytes()).trim()
        ))
    }
}

impl Caller for HttpCaller {
    async fn call(&self, target: Uri) -> Answer {
        match tokio::time::timeout(self.timeout, self.try_call(target)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => {
                tracing::debug!(reason, "no answer");
                Answer::NONE
            }
            Err(_) => {
                tracing::debug!(timeout = ?self.timeout, "no answer in time");
                Answer::NONE
            }
        }
    }

    async fn set_faults(&self, upstream: &Uri, faults: &FaultProfile) -> Result<(), String> {
        let mut parts = upstream.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/_faults"));
        let uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        let set = match tokio::time::timeout(self.timeout, self.try_set_faults(&uri, faults)).await {
            Ok(set) => set,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        };
        set.map_err(|reason| format!("PUT {uri}: {reason}"))
    }
}

/// Reads to the end without keeping anything: the connection is used again, and the answer counts as a whole.
async fn discard(mut body: Incoming) -> Result<(), String> {
    while let Some(frame) = body.frame().await {
        frame.map_err(describe)?;
    }
    Ok(())
}

/// The error with its causes: the outermost one alone says only "client error (Connect)".
fn describe(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

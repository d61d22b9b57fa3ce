//! The operator's port in file mode, as the place where actions go.

use crate::actions::{Order, Verb};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;

/// How long the operator may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A client of the operator's port.
#[derive(Debug, Clone)]
pub struct Operator {
    base: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Operator {
    /// Parses `http://HOST:PORT`.
    ///
    /// # Errors
    /// What would be right.
    pub fn new(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is no operator's address; wanted http://HOST:PORT");
        let base: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        if base.scheme_str() != Some("http") || base.authority().is_none() || base.path() != "/" {
            return Err(wrong());
        }
        Ok(Self {
            base,
            client: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    pub(crate) fn address(&self) -> String {
        self.base.authority().map_or_else(String::new, ToString::to_string)
    }

    pub(crate) async fn carry_out(&self, order: &Order) -> Result<(), String> {
        let id = &order.id;
        let (method, path, body) = match order.verb {
            Verb::ForceOpen | Verb::ForceClosed => {
                let state = if order.verb == Verb::ForceOpen {
                    "ForcedOpen"
                } else {
                    "ForcedClosed"
                };
                let mut body = json!({"state": state, "reason": order.signed_reason()});
                if let Some(until) = order.until {
                    body["expireTime"] = json!(crate::words::instant(until));
                }
                (Method::PUT, format!("/breakers/{id}/override"), body.to_string())
            }
            Verb::Clear => (Method::DELETE, format!("/breakers/{id}/override"), String::new()),
            Verb::Reset => (Method::POST, format!("/breakers/{id}/reset"), String::new()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address()))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let unreachable =
            |error: &dyn std::fmt::Display| format!("the operator at {} does not answer: {error}", self.address());
        let exchange = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| unreachable(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, String>((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| unreachable(&"no answer within five seconds"))??;
        if status.is_success() {
            return Ok(());
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("without saying why");
        Err(format!("the operator refused ({status}): {detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_plain_http_with_nothing_behind_it() {
        assert_eq!(
            Operator::new("http://localhost:8081/").unwrap().address(),
            "localhost:8081"
        );
        for bad in ["", "localhost:8081", "https://a", "http://a/b", "http://"] {
            assert!(Operator::new(bad).is_err(), "{bad}");
        }
    }
}

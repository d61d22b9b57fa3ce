//! What every request passes and every answer carries: the names we answer to, and the browser's instructions.

use crate::app::App;
use crate::auth::{Person, Refused};
use crate::pages::failed;
use crate::problem::{Problem, whole_seconds};
use crate::query::encode;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Asked by machines that know neither our name nor a token, and tell nothing of any breaker.
const OPEN_TO_ALL: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// No inline script or style, nothing from elsewhere, nobody may frame it, forms only to us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The host names we answer to; others may be a rebound DNS name under which a foreign page reads us.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    /// The loopback's names, the address listened on, and those given.
    pub(crate) fn new(listen: SocketAddr, more: &[String]) -> Self {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
        if !listen.ip().is_unspecified() {
            names.push(match listen.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
        }
        names.extend(more.iter().map(|name| name.to_ascii_lowercase()));
        Self(names)
    }

    /// With any port: a port-forward may have chosen it, and a foreign page cannot.
    pub(crate) fn admits(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The layer: host, person, headers.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = if OPEN_TO_ALL.contains(&path.as_str()) {
        next.run(request).await
    } else if let Some(refused) = wrong_host(&app, &request) {
        refused
    } else if path.starts_with("/assets/") || path == "/login" {
        request.extensions_mut().insert(Person::anonymous());
        next.run(request).await
    } else {
        let peer = request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip());
        let peer = peer.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        match app.auth.identify(request.headers(), peer, &app.guesses).await {
            Ok(person) => {
                request.extensions_mut().insert(person);
                next.run(request).await
            }
            Err(refused) => turn_away(&app, refused, &request),
        }
    };
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn wrong_host(app: &App, request: &Request) -> Option<Response> {
    let given = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let host = given.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if host.is_some_and(|host| app.hosts.admits(host)) {
        return None;
    }
    let detail = "this dashboard does not answer to that host name; --allow-host NAME adds one";
    let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong-host", "Wrong host", detail);
    Some(problem.into_response())
}

fn turn_away(app: &App, refused: Refused, request: &Request) -> Response {
    let unauthorized = |detail| {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Not signed in", detail);
        ([(header::WWW_AUTHENTICATE, "Bearer realm=\"tiebar\"")], problem).into_response()
    };
    match refused {
        Refused::NoToken | Refused::WrongToken if is_page(request) && app.auth.has_login() => {
            let wanted = request.uri().path_and_query().map_or("/", |path| path.as_str());
            Redirect::to(&format!("/login?next={}", encode(wanted))).into_response()
        }
        Refused::NoToken => unauthorized("wanted a header `Authorization: Bearer TOKEN`"),
        Refused::WrongToken => unauthorized("that token is not known here"),
        Refused::TooManyTokens(wait) => {
            let problem = Problem::too_many_tokens(wait);
            let response = if is_page(request) {
                failed(app, &Person::anonymous(), &problem)
            } else {
                problem.into_response()
            };
            ([(header::RETRY_AFTER, whole_seconds(wait).to_string())], response).into_response()
        }
        Refused::NotThroughProxy => {
            Problem::forbidden("wanted a request through the proxy that signs people in, with its header")
                .into_response()
        }
        Refused::Unavailable(why) => {
            tracing::error!(error = %why, "nobody can be identified");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let detail = "who you are cannot be checked now; the log says why";
            Problem::new(status, "unavailable", "Unavailable", detail).into_response()
        }
    }
}

/// Asked for by a person at a browser.
fn is_page(request: &Request) -> bool {
    let path = request.uri().path();
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    request.method() == Method::GET && !path.starts_with("/api/") && path != "/events" && accept.contains("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_answered_with_any_port() {
        let hosts = Hosts::new("10.1.2.3:8080".parse().unwrap(), &["Tiebar.Example".to_owned()]);
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "[::1]:9",
            "[::1]",
            "10.1.2.3:8080",
            "tiebar.example",
        ] {
            assert!(hosts.admits(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "localhost:8080@evil",
            "10.1.2.4",
            "0.0.0.0",
        ] {
            assert!(!hosts.admits(bad), "{bad}");
        }
    }
}

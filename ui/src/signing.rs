//! Signing in and out with a token, for browsers.

use crate::app::App;
use crate::auth::{COOKIE_NAME, Person, Refused, is_token};
use crate::collector::here;
use crate::model::Model;
use crate::pages::{Page, html, read_query};
use crate::problem::{Problem, whole_seconds};
use askama::Template;
use axum::extract::{ConnectInfo, Form, RawQuery, State};
use axum::http::header::{RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Page,
    next: String,
    /// Where a token comes from.
    hint: &'static str,
    /// Why not.
    problem: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Next {
    next: String,
}

/// A path on this host, and nothing that a browser would take for another.
fn local_path(next: &str) -> String {
    let fine = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n', '\t']);
    if fine { next.to_owned() } else { "/".to_owned() }
}

fn login_page(app: &App, next: &str, status: StatusCode, problem: Option<String>) -> Response {
    let page = LoginPage {
        page: Page::new(app, &Model::default(), &Person::anonymous(), "", None, here()),
        next: local_path(next),
        hint: app.auth.hint(),
        problem,
    };
    html(status, &page)
}

pub(crate) async fn login(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    if !app.auth.has_login() {
        return Redirect::to("/").into_response();
    }
    let next: Next = read_query(query.as_deref());
    login_page(&app, &next.next, StatusCode::OK, None)
}

/// The form of the page to sign in.
#[derive(Deserialize)]
pub(crate) struct Credentials {
    token: String,
    #[serde(default)]
    next: String,
}

/// The cookie's attributes: only this site sends it, no script reads it, and over TLS only TLS carries it.
fn cookie(headers: &HeaderMap, token: &str, age: u32) -> String {
    let tls = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if tls { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Response {
    let token = given.token.trim();
    if !app.auth.has_login() {
        return Redirect::to("/").into_response();
    }
    let refused = |status, problem: &str| login_page(&app, &given.next, status, Some(problem.to_owned()));
    match app.auth.owner(token, peer.ip(), &app.guesses).await {
        // Of what the cluster takes for a token, not everything fits into a cookie.
        Ok(person) if is_token(token) => {
            tracing::info!(by = person.name, "signed in");
            let cookie = cookie(&headers, token, 12 * 3_600);
            ([(SET_COOKIE, cookie)], Redirect::to(&local_path(&given.next))).into_response()
        }
        Err(Refused::TooManyTokens(wait)) => {
            let problem = Problem::too_many_tokens(wait);
            let page = refused(problem.status(), problem.detail());
            ([(RETRY_AFTER, whole_seconds(wait).to_string())], page).into_response()
        }
        Err(Refused::Unavailable(why)) => {
            tracing::error!(error = %why, "nobody can be identified");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            refused(status, "Tokens cannot be checked now; the dashboard’s log says why.")
        }
        _ => refused(StatusCode::FORBIDDEN, "That token is not known here."),
    }
}

pub(crate) async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let next = if app.auth.has_login() { "/login" } else { "/" };
    ([(SET_COOKIE, cookie(&headers, "", 0))], Redirect::to(next)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_nobody_is_sent_to_another_site() {
        assert_eq!(local_path("/breakers/a?b=c"), "/breakers/a?b=c");
        for foreign in ["", "https://evil", "//evil", "/\\evil", "evil", "/\tx"] {
            assert_eq!(local_path(foreign), "/", "{foreign:?}");
        }
    }
}

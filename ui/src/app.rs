//! What the handlers share, and which address leads to which.

use crate::actions::Actions;
use crate::auth::Auth;
use crate::guesses::Guesses;
use crate::live::Scenes;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::security::Hosts;
use crate::{acting, api, assets, live, pages, security, signing};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::limit::RequestBodyLimitLayer;

/// The longest form, bytes.
const MAX_BODY: usize = 16 * 1024;

/// Shared by all handlers.
pub(crate) struct App {
    pub(crate) models: watch::Receiver<Arc<Model>>,
    /// Random per start: frames of another life mean nothing.
    pub(crate) boot: String,
    pub(crate) auth: Auth,
    pub(crate) actions: Actions,
    pub(crate) hosts: Hosts,
    pub(crate) key_prefix: Option<String>,
    pub(crate) viewers: Arc<Semaphore>,
    pub(crate) scenes: Scenes,
    pub(crate) metrics: Metrics,
    pub(crate) guesses: Guesses,
    pub(crate) ending: CancellationToken,
}

impl App {
    pub(crate) fn model(&self) -> Arc<Model> {
        Arc::clone(&self.models.borrow())
    }
}

/// All addresses.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(pages::list))
        .route("/breakers/{*id}", get(pages::detail))
        .route("/history", get(pages::history))
        .route("/act", get(acting::confirm).post(acting::act))
        .route("/login", get(signing::login).post(signing::sign_in))
        .route("/logout", axum::routing::post(signing::sign_out))
        .route("/events", get(live::events))
        .nest("/api", api::router())
        .route("/assets/{version}/{name}", get(asset))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(pages::nowhere)
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CsrfLayer::new())
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), security::guard))
        .layer(CatchPanicLayer::new())
        .with_state(app)
}

async fn asset(Path((version, name)): Path<(String, String)>) -> Response {
    assets::serve(&version, &name).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// Ready once the store was read, or could not be: an outage is something to show.
async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    let model = app.model();
    if model.read_at > 0 || model.outage.is_some() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "nothing read yet")
    }
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let model = app.model();
    let text = app.metrics.text(
        model.breakers.len(),
        model.outage.is_none() && model.read_at > 0,
        model.age(crate::collector::here()),
    );
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(axum::http::header::CONTENT_TYPE, kind)], text)
}

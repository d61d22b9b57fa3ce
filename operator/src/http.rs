//! The operator's port: breakers, health.

use crate::file_mode::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn router(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route("/breakers", get(breakers))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn breakers(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let report = shared.report();
    Json(json!({ "items": report.items, "errors": report.errors }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if shared.report().attempted {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not reconciled yet")
    }
}

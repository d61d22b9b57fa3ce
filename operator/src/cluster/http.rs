//! The operator's port in a cluster: health and metrics.
//!
//! Alive means that the lease's loop turns; neither the store nor the API server decides about that, or their outage would
//! restart every operator. Ready means that the resources were read once.

use super::context::Context;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A loop that has not turned for so long hangs.
const HANGS: Duration = Duration::from_secs(60);

/// When a loop last turned.
#[derive(Debug)]
pub(crate) struct Alive {
    start: Instant,
    turned_ms: AtomicU64,
}

impl Alive {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            turned_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn turn(&self) {
        self.turned_ms
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn is_turning(&self) -> bool {
        let turned = Duration::from_millis(self.turned_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(turned) < HANGS
    }
}

#[derive(Clone)]
struct Port {
    context: Arc<Context>,
    alive: Arc<Alive>,
}

pub(crate) fn router(context: Arc<Context>, alive: Arc<Alive>) -> axum::Router {
    axum::Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Port { context, alive })
}

async fn live(State(port): State<Port>) -> (StatusCode, &'static str) {
    if port.alive.is_turning() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the lease's loop hangs")
    }
}

async fn ready(State(port): State<Port>) -> (StatusCode, &'static str) {
    if port.context.world().was_complete() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the CircuitBreakers were not read yet")
    }
}

async fn metrics(State(port): State<Port>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let Ok(own) = super::metrics::operator(&port.context) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let pieces = std::iter::once(own)
        .chain(super::gauges::pieces(port.context))
        .chain(std::iter::once("# EOF\n".to_owned()));
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
    ([(CONTENT_TYPE, kind)], body).into_response()
}

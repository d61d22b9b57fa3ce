//! The operator's port in a cluster: health and metrics.
//!
//! Alive means that the lease's loop turns; neither the store nor the API server decides about that, or their outage would
//! restart every operator. Ready means that the resources were read once.

use super::context::{Context, locked};
use crate::gauges::{Show, Statuses, pieces};
use crate::metrics::{END, KIND, operator};
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
use tiebar::id::ServiceId;

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
    let leads = port.context.leader().is_some();
    let Ok(own) = operator(&port.context.metrics, leads) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // Nothing of breakers from a follower.
    let ids = if leads { port.context.world().ids() } else { Vec::new() };
    let pieces = std::iter::once(own)
        .chain(pieces(Reported(port.context), ids))
        .chain(std::iter::once(END.to_owned()));
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
    ([(CONTENT_TYPE, KIND)], body).into_response()
}

/// The statuses of whoever stands for an id, as last written.
struct Reported(Arc<Context>);

impl Statuses for Reported {
    fn show(&self, ids: &[ServiceId], to: &mut Show<'_>) {
        let Self(context) = self;
        let world = context.world();
        let reported = locked(&context.reported);
        for id in ids {
            // Gone since the first piece.
            let Some(declared) = world.winner(id) else { continue };
            let window = reported.get(&declared.key).and_then(|reported| reported.window);
            to(id, declared.status.as_str(), window);
        }
    }
}

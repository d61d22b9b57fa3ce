//! gRPC's outcome comes after its headers: in the trailers, or never.

use bytes::Bytes;
use crds::FailureConditions;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tiebar::guard::{Permit, Verdict};
use tiebar::state::Cause;
use tokio::time::Sleep;

/// A stream that has not failed for so long after its headers is a success.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a response is gRPC's.
pub(crate) fn is_grpc<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The verdict in headers or trailers; none without a status.
pub(crate) fn verdict(headers: &HeaderMap, conditions: &FailureConditions) -> Option<Verdict> {
    let code: u8 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let failed = code != 0 && conditions.is_failure_grpc(code);
    Some(if failed {
        Verdict::Failure(Cause::Grpc(code))
    } else {
        Verdict::Success
    })
}

/// A response body that records the outcome when its trailers pass.
pub(crate) struct GrpcBody {
    inner: Incoming,
    permit: Option<Permit>,
    conditions: Arc<FailureConditions>,
    patience: Pin<Box<Sleep>>,
}

impl GrpcBody {
    pub(crate) fn new(inner: Incoming, mut permit: Permit, conditions: Arc<FailureConditions>) -> Self {
        permit.stop_clock();
        Self {
            inner,
            permit: Some(permit),
            conditions,
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        }
    }

    fn record(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            permit.record(verdict);
        }
    }
}

impl HttpBody for GrpcBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.permit.is_some() && self.patience.as_mut().poll(cx).is_ready() {
            self.record(Verdict::Success);
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    // Without a status the stream ended wrongly: gRPC's own clients call that UNKNOWN.
                    let verdict = verdict(trailers, &self.conditions).unwrap_or(Verdict::Failure(Cause::Grpc(2)));
                    self.record(verdict);
                }
            }
            Some(Err(_)) => self.record(Verdict::Failure(Cause::Error("Reset"))),
            None => self.record(Verdict::Failure(Cause::Grpc(2))),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

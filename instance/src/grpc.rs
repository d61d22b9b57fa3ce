//! gRPC's outcome comes after its headers: in the trailers, or never.

use crate::call::Call;
use crate::link::UpstreamBody;
use bytes::Bytes;
use crds::{ErrorKind, FailureConditions};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tiebar::guard::Verdict;
use tiebar::state::Cause;
use tokio::time::Sleep;

/// A stream that has not failed for so long after its headers is a success.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a status stands for that is missing or no number: gRPC's own clients call it UNKNOWN.
const UNKNOWN: u8 = 2;

/// Whether a message is gRPC's. gRPC-Web, whose trailers are part of the body, is not.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The verdict in headers or trailers; none without a status.
pub(crate) fn verdict(headers: &HeaderMap, conditions: &FailureConditions) -> Option<Verdict> {
    let status = headers.get("grpc-status")?;
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    Some(judge(code.unwrap_or(UNKNOWN), conditions))
}

fn judge(code: u8, conditions: &FailureConditions) -> Verdict {
    if code != 0 && conditions.is_failure_grpc(code) {
        Verdict::Failure(Cause::Grpc(code))
    } else {
        Verdict::Success
    }
}

/// A response body that records the outcome when its trailers pass.
#[derive(Debug)]
pub(crate) struct GrpcBody {
    inner: UpstreamBody,
    call: Option<Call>,
    conditions: Arc<FailureConditions>,
    patience: Pin<Box<Sleep>>,
}

impl GrpcBody {
    pub(crate) fn new(inner: UpstreamBody, mut call: Call, conditions: Arc<FailureConditions>) -> Self {
        call.stop_clock();
        Self {
            inner,
            call: Some(call),
            conditions,
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        }
    }

    fn record(&mut self, verdict: Verdict) {
        if let Some(call) = self.call.take() {
            call.record(verdict);
        }
    }

    fn without_status(&self) -> Verdict {
        judge(UNKNOWN, &self.conditions)
    }
}

impl Drop for GrpcBody {
    fn drop(&mut self) {
        // A caller that reads slowly may have kept the body from being polled in time.
        if self.patience.is_elapsed() || self.patience.deadline() <= tokio::time::Instant::now() {
            self.record(Verdict::Success);
        }
    }
}

impl HttpBody for GrpcBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.call.is_some() && self.patience.as_mut().poll(cx).is_ready() {
            self.record(Verdict::Success);
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let verdict = match &frame {
            Some(Ok(data)) if data.is_data() => return Poll::Ready(frame),
            Some(Ok(last)) => last
                .trailers_ref()
                .and_then(|trailers| verdict(trailers, &self.conditions))
                .unwrap_or_else(|| self.without_status()),
            Some(Err(_)) if self.conditions.is_failure_error(ErrorKind::Reset) => {
                Verdict::Failure(Cause::Error("Reset"))
            }
            Some(Err(_)) => Verdict::Ignored,
            None => self.without_status(),
        };
        self.record(verdict);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Its end is an outcome, and must be seen.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

//! Response bodies of every origin, in one type without a box.

use crate::activity::Running;
use crate::grpc::GrpcBody;
use crate::link::UpstreamBody;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

#[derive(Debug)]
enum Origin {
    /// Known whole; none once it was handed out.
    Own(Option<Bytes>),
    Upstream(UpstreamBody),
    Grpc(Box<GrpcBody>),
}

/// A response's body. While it lives its call is in flight.
#[derive(Debug)]
pub(crate) struct Body {
    origin: Origin,
    _running: Option<Running>,
}

impl Body {
    /// A body that is known whole.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::from_origin(Origin::Own((!bytes.is_empty()).then_some(bytes)))
    }

    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        Self::from_origin(Origin::Upstream(body))
    }

    pub(crate) fn grpc(body: GrpcBody) -> Self {
        Self::from_origin(Origin::Grpc(Box::new(body)))
    }

    fn from_origin(origin: Origin) -> Self {
        Self { origin, _running: None }
    }

    /// Keeps the call in flight for as long as the body lives.
    pub(crate) fn holding(self, running: Running) -> Self {
        Self {
            _running: Some(running),
            ..self
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.origin {
            Origin::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Origin::Upstream(body) => Pin::new(body).poll_frame(cx),
            Origin::Grpc(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.origin {
            Origin::Own(bytes) => bytes.is_none(),
            Origin::Upstream(body) => body.is_end_stream(),
            Origin::Grpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.origin {
            Origin::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Origin::Upstream(body) => body.size_hint(),
            Origin::Grpc(body) => body.size_hint(),
        }
    }
}

//! A request body on its way to the upstream, watched: waiting for the caller is not the upstream's slowness, and a
//! body that breaks is not the upstream's failure.

use crate::activity::{Activity, Unread};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// What is still read of a body nobody wants, so that the caller sees the answer instead of a reset.
const LINGER_BYTES: usize = 1_024 * 1_024;
const LINGER_FOR: Duration = Duration::from_secs(2);

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The upstream is to take what there is.
    Flowing = 0,
    /// The caller is to send more.
    Waiting = 1,
    /// Everything was handed over.
    Ended = 2,
    /// The caller broke it off, or sent nonsense.
    Broken = 3,
}

/// The phase, visible to the one who waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: AtomicU8,
    waker: AtomicWaker,
}

impl Progress {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Flowing,
            1 => Phase::Waiting,
            2 => Phase::Ended,
            _ => Phase::Broken,
        }
    }

    /// Asks to be woken when the phase changes; of no use where the same task moves the body.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    fn enter(&self, phase: Phase) {
        if self.phase.swap(phase as u8, Ordering::AcqRel) != phase as u8 {
            self.waker.wake();
        }
    }
}

/// The body that goes out.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Option<Incoming>,
    progress: Option<Arc<Progress>>,
    /// The rest is worth reading when nobody wants it: the connection is HTTP/1's and the caller is sending already.
    lingers: bool,
    /// The caller sends only once asked.
    expects: bool,
    /// Over HTTP/1, until the end is read. HTTP/2 reads its connection whether or not a body is wanted.
    unread: Option<Unread>,
}

impl Upload {
    /// Wraps a request's body; one that is empty costs nothing.
    pub(crate) fn wrap(request: Request<Incoming>, activity: &Arc<Activity>) -> Request<Self> {
        let lingers = request.version() < Version::HTTP_2;
        let expects = request.headers().contains_key(http::header::EXPECT);
        request.map(|body| {
            if body.is_end_stream() {
                return Self {
                    inner: None,
                    progress: None,
                    lingers: false,
                    expects: false,
                    unread: None,
                };
            }
            Self {
                inner: Some(body),
                progress: Some(Arc::new(Progress {
                    phase: AtomicU8::new(Phase::Flowing as u8),
                    waker: AtomicWaker::new(),
                })),
                lingers,
                expects,
                unread: lingers.then(|| Unread::begin(activity)),
            }
        })
    }

    pub(crate) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.expects = false;
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        let phase = match &polled {
            Poll::Pending => Phase::Waiting,
            Poll::Ready(Some(Ok(_))) => Phase::Flowing,
            Poll::Ready(Some(Err(_))) => Phase::Broken,
            Poll::Ready(None) => Phase::Ended,
        };
        if let Some(progress) = &self.progress {
            progress.enter(phase);
        }
        if matches!(phase, Phase::Broken | Phase::Ended) {
            self.inner = None;
            self.unread = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.inner.take()
            && self.lingers
            && !self.expects
            && !body.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(LINGER_FOR, read_on(body)));
        }
    }
}

async fn read_on(mut body: Incoming) {
    let mut read = 0;
    while read < LINGER_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

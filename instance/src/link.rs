//! One connection to an upstream, and the response body that lives on it.
//!
//! An HTTP/1 connection has no task of its own: whoever waits for its response, then for its body, moves it. Rejected:
//! hyper-util's pooling client, whose task per connection costs two wake-ups and a channel per request, and whose
//! connect timeout is fixed at construction.

use crate::connect::Stream;
use crate::pool::Pool;
use crate::upload::Upload;
use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// The half of an HTTP/1 connection that must be polled.
pub(crate) struct Wire {
    connection: http1::Connection<TokioIo<Stream>, Upload>,
    over: bool,
}

impl Wire {
    /// Moves the connection; false once it has ended.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.over
            && let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx)
        {
            self.over = true;
            if let Err(error) = ended {
                tracing::debug!(%error, "an upstream connection ended badly");
            }
        }
        !self.over
    }
}

/// An HTTP/1 connection.
pub(crate) struct H1 {
    pub(crate) sender: http1::SendRequest<Upload>,
    pub(crate) wire: Wire,
}

impl H1 {
    pub(crate) fn new(
        sender: http1::SendRequest<Upload>,
        connection: http1::Connection<TokioIo<Stream>, Upload>,
    ) -> Self {
        Self {
            sender,
            wire: Wire {
                connection,
                over: false,
            },
        }
    }

    /// Whether it can take a request; notices that the upstream has closed it or said something unasked.
    pub(crate) fn is_fit(&mut self) -> bool {
        self.wire.turn(&mut Context::from_waker(Waker::noop())) && self.sender.is_ready()
    }
}

/// A connection that HTTP/2 shares among calls; it is moved by a task of its own.
#[derive(Clone)]
pub(crate) struct H2 {
    pub(crate) sender: http2::SendRequest<Upload>,
    pub(crate) streams: Arc<AtomicUsize>,
    /// How many the upstream takes at once.
    pub(crate) limit: Arc<AtomicUsize>,
}

impl H2 {
    /// Takes one of its streams, if there is one.
    pub(crate) fn take(&self) -> Option<Link> {
        let free = self.streams.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed).max(1);
        (free && !self.sender.is_closed()).then(|| Link::Shared(self.sender.clone(), Streaming::begin(&self.streams)))
    }
}

/// One call on such a connection.
#[derive(Debug)]
pub(crate) struct Streaming(Arc<AtomicUsize>);

impl Streaming {
    pub(crate) fn begin(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way one request goes.
pub(crate) enum Link {
    /// On a connection that this call moves, and returns; it has served before, or not.
    Own(Box<H1>, bool),
    /// On a connection that ends with this call, for upgrades.
    Once(http1::SendRequest<Upload>),
    /// On a shared one.
    Shared(http2::SendRequest<Upload>, Streaming),
}

impl Link {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Shared(..))
    }
}

/// What a body must keep alive.
pub(crate) enum Held {
    Own(Box<H1>, Arc<Pool>),
    Shared(Streaming),
    Nothing,
}

/// A response's body as the upstream sends it.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    held: Held,
    /// How it broke, kept back for one turn.
    broken: Option<hyper::Error>,
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBody").finish_non_exhaustive()
    }
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, held: Held) -> Self {
        Self {
            incoming,
            held,
            broken: None,
        }
    }

    /// Gives the connection back if it can be used again.
    fn finish(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Own(mut h1, pool) => {
                if self.incoming.is_end_stream() && h1.is_fit() {
                    pool.park(h1);
                }
            }
            Held::Shared(streaming) => drop(streaming),
            Held::Nothing => {}
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        self.finish();
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Held::Own(h1, _) = &mut self.held {
            h1.wire.turn(cx);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            // At an error hyper drops what it has not flushed, and the caller would not even see the headers.
            Poll::Ready(Some(Err(error))) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A request that was not sent comes back; one that may have been, does not.
pub(crate) enum Failed {
    Unsent(Box<Request<Upload>>),
    Sent(hyper::Error),
}

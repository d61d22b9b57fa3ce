//! What happens on one connection, for its timeouts and for the limit on calls in flight.

use crate::server::Shared;
use futures_util::FutureExt as _;
use http::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// One connection's counters. Relaxed throughout: the connection's own task reads them, the rest is statistics.
pub(crate) struct Activity {
    pub(crate) shared: Arc<Shared>,
    /// The caller's address, ready for `X-Forwarded-For`.
    pub(crate) peer: HeaderValue,
    running: AtomicUsize,
    ended: AtomicU64,
    reads: AtomicU64,
    reads_at_end: AtomicU64,
    unread: AtomicUsize,
    doubted: AtomicBool,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Calls are running.
    Busy,
    /// Nothing is.
    Idle,
    /// A request has begun to arrive.
    Header,
}

impl Activity {
    pub(crate) fn new(shared: Arc<Shared>, peer: IpAddr) -> Arc<Self> {
        let text = peer.to_canonical().to_string();
        Arc::new(Self {
            shared,
            // An address is visible ASCII.
            peer: HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            running: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            reads_at_end: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            doubted: AtomicBool::new(false),
        })
    }

    /// Whether a request's body is not yet read to its end. While the upstream takes none of it, nobody reads, and the
    /// caller's going is not seen by reading.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) > 0
    }

    /// At its next turn the stream finds out whether the caller is still there.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// The mode, and how many calls have ended so far.
    pub(crate) fn look(&self) -> (Mode, u64) {
        let ended = self.ended.load(Ordering::Relaxed);
        let mode = if self.running.load(Ordering::Relaxed) > 0 {
            Mode::Busy
        } else if self.reads.load(Ordering::Relaxed) > self.reads_at_end.load(Ordering::Relaxed) {
            Mode::Header
        } else {
            Mode::Idle
        };
        (mode, ended)
    }
}

/// A body that is not yet read to its end, while it lives.
pub(crate) struct Unread(Arc<Activity>);

impl std::fmt::Debug for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unread")
    }
}

impl Unread {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.unread.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call in flight while it lives.
pub(crate) struct Running(Arc<Activity>);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

impl Running {
    /// Counts a call, and says how many there are with it.
    pub(crate) fn begin(activity: &Arc<Activity>) -> (Self, usize) {
        activity.running.fetch_add(1, Ordering::Relaxed);
        let all = activity.shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        (Self(Arc::clone(activity)), all)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        activity.ended.fetch_add(1, Ordering::Relaxed);
        let reads = activity.reads.load(Ordering::Relaxed);
        activity.reads_at_end.store(reads, Ordering::Relaxed);
        activity.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A caller's stream, its reads counted.
pub(crate) struct Counted {
    pub(crate) stream: TokioIo<TcpStream>,
    pub(crate) activity: Arc<Activity>,
}

impl Counted {
    /// The caller has sent its last byte, or is gone, even if not everything it sent is read.
    fn has_ended(&self) -> bool {
        let ready = self.stream.inner().ready(Interest::READABLE).now_or_never();
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }
}

impl Read for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes at every turn, and an error here ends the connection with all its calls.
        if self.activity.doubted.swap(false, Ordering::Relaxed) && self.has_ended() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

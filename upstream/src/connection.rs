//! A TCP stream that can end in a reset.
//!
//! Dropping a socket says goodbye politely (FIN); a crashed service does not. Rejected: duplicating the descriptor to
//! set the option from outside, which costs a descriptor per connection and keeps the socket open until both are closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Asks for one connection's reset; shared by its requests and the task that owns the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reset(Arc<ResetState>);

#[derive(Debug, Default)]
struct ResetState {
    asked: AtomicBool,
    woken: Notify,
}

/// A stream that sends RST instead of FIN when dropped after a [`Reset`] was asked for.
#[derive(Debug)]
pub(crate) struct Resettable {
    stream: TcpStream,
    reset: Reset,
}

// === impl Reset ===

impl Reset {
    pub(crate) fn ask(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.woken.notify_one();
    }

    /// Returns once a reset was asked for, also before the call.
    pub(crate) async fn asked(&self) {
        self.0.woken.notified().await;
    }
}

// === impl Resettable ===

impl Resettable {
    pub(crate) fn new(stream: TcpStream, reset: Reset) -> Self {
        Self { stream, reset }
    }
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.0.asked.load(Ordering::Acquire) {
            // Failing that, the client sees a FIN: an end without an answer all the same.
            if let Err(error) = self.stream.set_zero_linger() {
                tracing::debug!(%error, "connection closed instead of reset");
            }
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! The connections to one upstream. A call takes one that is idle, else opens one; nothing queues.

use crate::connect::{ConnectTrouble, Endpoint};
use crate::link::{H1, H2, Link};
use crate::upload::Upload;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Idle connections kept.
const IDLE: usize = 1_024;
/// An HTTP/2 connection that does not answer a ping for so long is given up.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// What a header section of a response may hold.
const MAX_HEADER_BYTES: usize = 256 * 1_024;

/// What the upstream turned out to speak.
const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

struct Parked {
    h1: Box<H1>,
    since: Instant,
}

/// The connections to one upstream.
pub(crate) struct Pool {
    endpoint: Endpoint,
    /// Less than what upstreams usually allow (Node and uvicorn: 5 s), lest a request meet the closing.
    idle_timeout: Duration,
    idle: Mutex<VecDeque<Parked>>,
    shared: Mutex<Vec<H2>>,
    /// Held while a connection is opened that others may share.
    opening: tokio::sync::Mutex<()>,
    speaks: AtomicU8,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(endpoint: Endpoint, idle_timeout: Duration) -> Arc<Self> {
        let speaks = if endpoint.h2c {
            HTTP2
        } else if endpoint.negotiates() {
            UNKNOWN
        } else {
            HTTP1
        };
        Arc::new(Self {
            endpoint,
            idle_timeout,
            idle: Mutex::default(),
            shared: Mutex::default(),
            opening: tokio::sync::Mutex::new(()),
            speaks: AtomicU8::new(speaks),
        })
    }

    /// A connection that is there.
    pub(crate) fn reuse(&self) -> Option<Link> {
        if self.speaks.load(Ordering::Relaxed) == HTTP2 {
            return self.share();
        }
        loop {
            let mut parked = lock(&self.idle).pop_back()?;
            if parked.since.elapsed() < self.idle_timeout && parked.h1.is_fit() {
                return Some(Link::Own(parked.h1, true));
            }
        }
    }

    fn share(&self) -> Option<Link> {
        let mut shared = lock(&self.shared);
        shared.retain(|h2| !h2.sender.is_closed());
        shared.iter().find_map(H2::take)
    }

    /// A connection, opened within `limit` unless another call has just opened one that can be shared.
    pub(crate) async fn open(&self, limit: Duration) -> Result<Link, ConnectTrouble> {
        let deadline = Instant::now() + limit;
        if self.speaks.load(Ordering::Relaxed) == HTTP1 {
            return self.dial(deadline).await;
        }
        let opening = timeout_at(deadline, self.opening.lock()).await;
        let opening = opening.map_err(|_| ConnectTrouble::TimedOut)?;
        if let Some(link) = self.share() {
            return Ok(link);
        }
        if self.speaks.load(Ordering::Relaxed) == HTTP1 {
            drop(opening);
        }
        self.dial(deadline).await
    }

    async fn dial(&self, deadline: Instant) -> Result<Link, ConnectTrouble> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let (stream, is_http2) = self.endpoint.dial(limit, false).await?;
        if self.endpoint.negotiates() {
            self.speaks
                .store(if is_http2 { HTTP2 } else { HTTP1 }, Ordering::Relaxed);
        }
        let io = TokioIo::new(stream);
        if !is_http2 {
            let (sender, connection) = builder().handshake(io).await.map_err(|_| ConnectTrouble::Refused)?;
            return Ok(Link::Own(Box::new(H1::new(sender, connection)), false));
        }
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .max_header_list_size(MAX_HEADER_BYTES as u32)
            .handshake(io);
        let (sender, mut connection) = timeout_at(deadline, handshake)
            .await
            .map_err(|_| ConnectTrouble::TimedOut)?
            .map_err(|_| ConnectTrouble::Refused)?;
        let limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let told = Arc::clone(&limit);
        tokio::spawn(async move {
            let ended = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                told.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an upstream connection ended badly");
            }
        });
        let h2 = H2 {
            sender,
            streams: Arc::new(AtomicUsize::new(0)),
            limit,
        };
        let link = h2.take().ok_or(ConnectTrouble::Refused)?;
        lock(&self.shared).push(h2);
        Ok(link)
    }

    /// A connection for one upgrade. It lives until both sides are done with it.
    pub(crate) async fn open_once(&self, limit: Duration) -> Result<Link, ConnectTrouble> {
        let (stream, _) = self.endpoint.dial(limit, true).await?;
        let handshake = builder().handshake::<_, Upload>(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|_| ConnectTrouble::Refused)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection ended badly");
            }
        });
        Ok(Link::Once(sender))
    }

    /// Takes back a connection.
    pub(crate) fn park(&self, h1: Box<H1>) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE {
            let since = Instant::now();
            idle.push_back(Parked { h1, since });
        }
    }

    /// Closes what has been idle for too long, or was closed by the upstream.
    pub(crate) fn sweep(&self) {
        let parked = std::mem::take(&mut *lock(&self.idle));
        let fit =
            |mut parked: Parked| (parked.since.elapsed() < self.idle_timeout && parked.h1.is_fit()).then_some(parked);
        let kept: Vec<Parked> = parked.into_iter().filter_map(fit).collect();
        let mut idle = lock(&self.idle);
        for parked in kept.into_iter().rev() {
            idle.push_front(parked);
        }
        drop(idle);
        lock(&self.shared).retain(|h2| !h2.sender.is_closed());
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEADER_BYTES).max_header_size(MAX_HEADER_BYTES);
    builder
}

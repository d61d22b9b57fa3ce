//! One connection of a caller: which protocol it speaks, how long it may idle, how it ends.

use crate::activity::{Activity, Counted, Mode};
use crate::connect::tune;
use crate::drain::{Stage, Watcher};
use crate::limits::Limits;
use crate::server::{Port, Shared};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How HTTP/2 begins; no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI";
/// Pause before looking again at a connection that has sent less than that.
const PEEK_AGAIN: Duration = Duration::from_millis(5);
/// Calls at once on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// What one HTTP/2 connection may send ahead: per stream, in all.
const WINDOWS: (u32, u32) = (256 * 1_024, 1_024 * 1_024);
/// A caller over HTTP/2 that does not answer a ping for so long is gone.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How often a caller is looked after whose upload nobody reads.
const LOOK: Duration = Duration::from_millis(500);
/// hyper's default, which costs no allocation.
const STACK_HEADERS: usize = 100;

/// A connection that can be told to end after what it is doing.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<I, S, TokioExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, peer: IpAddr, port: Port, shared: Arc<Shared>) {
    tune(&stream);
    let limits = shared.settings.limits.clone();
    let drain = Arc::clone(&shared.drain);
    let http2 = tokio::select! {
        biased;
        speaks = speaks_http2(&stream, &limits) => speaks,
        () = drain.reached(port.lasts_until()) => return,
    };
    let Some(http2) = http2 else { return };
    let activity = Activity::new(shared, peer);
    let counted = Counted {
        stream: TokioIo::new(stream),
        activity: Arc::clone(&activity),
    };
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request| {
            let activity = Arc::clone(&activity);
            async move {
                Ok::<_, Infallible>(match port {
                    Port::Traffic => crate::server::answer(&activity, request).await,
                    Port::Admin => crate::admin::answer(&activity, &request).await,
                })
            }
        })
    };
    let watcher = drain.watch();
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        let connection = builder.serve_connection(counted, service);
        keep(connection, &activity, watcher, port, true).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(None)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(limits.max_header_bytes.max(64 * 1_024));
        if limits.max_headers != STACK_HEADERS {
            builder.max_headers(limits.max_headers);
        }
        let connection = builder.serve_connection(counted, service).with_upgrades();
        keep(connection, &activity, watcher, port, false).await;
    }
}

/// Waits for the first bytes; none when the caller sends none in time, or goes.
async fn speaks_http2(stream: &TcpStream, limits: &Limits) -> Option<bool> {
    let mut start = [0; PREFACE.len()];
    let first = tokio::time::timeout(limits.idle_timeout, stream.peek(&mut start)).await;
    let mut length = first.ok()?.ok()?;
    let deadline = Instant::now() + limits.header_timeout;
    loop {
        if length == 0 || Instant::now() > deadline {
            return None;
        }
        if !PREFACE.starts_with(&start[..length]) {
            return Some(false);
        }
        if length == PREFACE.len() {
            return Some(true);
        }
        // More bytes do not wake a peek, since there are some already. This is a caller that sends them singly.
        tokio::time::sleep(PEEK_AGAIN).await;
        length = stream.peek(&mut start).await.ok()?;
    }
}

/// What happens when the alarm has rung.
enum Verdict {
    Stay,
    /// Find out whether the caller is still there.
    Doubt,
    EndGracefully,
    Cut,
}

/// A connection's patience. The alarm is set rarely and late, and asks the facts when it rings, so that a busy
/// connection does not set a timer per request.
struct Patience {
    alarm: Pin<Box<Sleep>>,
    mode: Mode,
    since: Instant,
    ended: u64,
    asked_to_end: bool,
    /// Over HTTP/2 pings and window updates arrive without any request.
    http2: bool,
}

impl Patience {
    fn new(limits: &Limits, http2: bool) -> Self {
        Self {
            alarm: Box::pin(tokio::time::sleep(limits.idle_timeout)),
            mode: Mode::Idle,
            since: Instant::now(),
            ended: 0,
            asked_to_end: false,
            http2,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>, activity: &Activity, limits: &Limits) -> Verdict {
        let (mode, ended) = activity.look();
        let mode = if self.http2 && mode == Mode::Header {
            Mode::Idle
        } else {
            mode
        };
        if mode != self.mode || ended != self.ended {
            self.mode = mode;
            self.ended = ended;
            self.since = Instant::now();
            if mode == Mode::Header {
                let due = self.since + limits.header_timeout;
                if due < self.alarm.deadline() {
                    self.alarm.as_mut().reset(due);
                }
            }
        }
        let looks = !self.http2 && activity.has_unread();
        if looks {
            let due = Instant::now() + LOOK;
            if due < self.alarm.deadline() {
                self.alarm.as_mut().reset(due);
            }
        }
        while self.alarm.as_mut().is_elapsed() || self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let patience = match self.mode {
                Mode::Header => limits.header_timeout,
                Mode::Idle => limits.idle_timeout,
                Mode::Busy if looks => {
                    self.alarm.as_mut().reset(now + LOOK);
                    return Verdict::Doubt;
                }
                Mode::Busy => {
                    self.alarm.as_mut().reset(now + limits.idle_timeout);
                    continue;
                }
            };
            if now < self.since + patience {
                self.alarm.as_mut().reset(self.since + patience);
                continue;
            }
            if self.mode == Mode::Header || self.asked_to_end {
                return Verdict::Cut;
            }
            self.asked_to_end = true;
            self.alarm.as_mut().reset(now + patience);
            return Verdict::EndGracefully;
        }
        Verdict::Stay
    }
}

/// Drives a connection until it ends, idles for too long, or the process ends.
async fn keep(connection: impl Graceful, activity: &Activity, mut drain: Watcher<'_>, port: Port, http2: bool) {
    let limits = &activity.shared.settings.limits;
    let mut connection = pin!(connection);
    let mut patience = Patience::new(limits, http2);
    let mut ending = false;
    std::future::poll_fn(|cx| {
        loop {
            // First, so that a request that has arrived is served even if the end has begun.
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended badly");
                }
                return Poll::Ready(());
            }
            let stage = drain.look(cx);
            if stage == Stage::Cut {
                return Poll::Ready(());
            }
            let end = stage >= port.lasts_until() && !ending;
            match patience.check(cx, activity, limits) {
                Verdict::Cut => return Poll::Ready(()),
                Verdict::Doubt => activity.doubt(),
                Verdict::Stay if !end => return Poll::Pending,
                Verdict::Stay | Verdict::EndGracefully => {
                    ending = true;
                    connection.as_mut().end();
                }
            }
        }
    })
    .await;
}

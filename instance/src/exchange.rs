//! One request to the upstream, up to the response's headers: connect, send, wait, within the limits.

use crate::call::Call;
use crate::connect::ConnectTrouble;
use crate::link::{Failed, Held, Link, UpstreamBody, Wire};
use crate::pool::Pool;
use crate::upload::{Phase, Progress, Upload};
use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Connections tried until one takes the request: an upstream that closes each at once must not keep us busy.
const ATTEMPTS: usize = 8;

/// What kept the upstream from answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No response headers in time.
    Timeout,
    /// No connection.
    Connect(ConnectTrouble),
    /// The connection broke, or what came was no HTTP.
    Reset,
    /// The caller's body broke off; it says nothing about the upstream.
    BadBody,
    /// The caller's body paused for too long; neither does this.
    SlowBody,
    /// The request cannot be expressed to this upstream.
    Unspeakable,
}

/// Where a request goes, and as what.
pub(crate) struct Destination<'a> {
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) path: PathAndQuery,
    pub(crate) authority: &'a Authority,
    /// The authority as a header.
    pub(crate) host: Cow<'a, HeaderValue>,
    /// Encrypted, which HTTP/2 says in a header.
    pub(crate) https: bool,
    /// The request asks for an upgrade, so its connection is its own.
    pub(crate) upgrade: bool,
    pub(crate) connect_timeout: Duration,
}

/// What is watched while the upstream is waited for.
pub(crate) struct Watch<'a> {
    pub(crate) call: &'a mut Call,
    progress: Option<Arc<Progress>>,
    timeout: Option<Duration>,
    /// How long the caller may pause.
    patience: Option<Duration>,
    waiting: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        call: &'a mut Call,
        upload: &Upload,
        timeout: Option<Duration>,
        patience: Option<Duration>,
    ) -> Self {
        Self {
            call,
            progress: upload.progress(),
            timeout,
            patience,
            waiting: false,
            alarm: None,
        }
    }

    fn left(&self) -> Option<Duration> {
        self.timeout.map(|timeout| timeout.saturating_sub(self.call.elapsed()))
    }

    /// Sets the alarm to what is due first.
    fn arm(&mut self) {
        let wait = if self.waiting { self.patience } else { self.left() };
        let at = wait.map(|wait| Instant::now() + wait);
        match (&mut self.alarm, at) {
            (Some(alarm), Some(at)) => alarm.as_mut().reset(at),
            (alarm, at) => *alarm = at.map(|at| Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// Ready when waiting makes no more sense.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Trouble> {
        let phase = self.progress.as_ref().map_or(Phase::Ended, |progress| progress.phase());
        if phase == Phase::Broken {
            return Poll::Ready(Trouble::BadBody);
        }
        let waiting = phase == Phase::Waiting;
        if waiting != self.waiting {
            self.waiting = waiting;
            if waiting {
                self.call.pause();
            } else {
                self.call.resume();
            }
            self.arm();
        }
        let rung = self
            .alarm
            .as_mut()
            .is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready());
        match (rung, waiting) {
            (false, _) => Poll::Pending,
            (true, true) => Poll::Ready(Trouble::SlowBody),
            (true, false) => Poll::Ready(Trouble::Timeout),
        }
    }
}

/// Sends the request once and waits for the response's headers. A request is sent again only if no byte of it went out:
/// repeating a call is the caller's decision.
pub(crate) async fn exchange(
    to: &Destination<'_>,
    mut request: Request<Upload>,
    watch: &mut Watch<'_>,
) -> Result<Response<UpstreamBody>, Trouble> {
    watch.arm();
    for attempt in 0..ATTEMPTS {
        let reusable = !to.upgrade && attempt < ATTEMPTS / 2;
        let existing = if reusable { to.pool.reuse() } else { None };
        let link = match existing {
            Some(link) => link,
            None => connect(to, watch).await?,
        };
        address(&mut request, to, link.is_http2())?;
        let (sent, again) = match link {
            Link::Own(mut h1, again) => {
                let sent = h1.sender.try_send_request(request);
                let sent = drive(Some(&mut h1.wire), sent, watch).await?;
                (
                    sent.map(|response| {
                        response.map(|body| UpstreamBody::new(body, Held::Own(h1, Arc::clone(to.pool))))
                    }),
                    again,
                )
            }
            Link::Once(mut sender) => {
                let sent = sender.try_send_request(request);
                let sent = drive(None, sent, watch).await?;
                (
                    sent.map(|response| response.map(|body| UpstreamBody::new(body, Held::Nothing))),
                    false,
                )
            }
            Link::Shared(mut sender, streaming) => {
                let sent = sender.try_send_request(request);
                let sent = drive(None, sent, watch).await?;
                (
                    sent.map(|response| response.map(|body| UpstreamBody::new(body, Held::Shared(streaming)))),
                    // It may have been told to go away by a server that restarts.
                    true,
                )
            }
        };
        match sent {
            Ok(response) => return Ok(response),
            Err(Failed::Unsent(unsent)) if again => request = *unsent,
            Err(Failed::Unsent(_)) => return Err(Trouble::Reset),
            Err(Failed::Sent(error)) => {
                tracing::debug!(%error, "no response");
                return Err(Trouble::Reset);
            }
        }
    }
    Err(Trouble::Reset)
}

async fn connect(to: &Destination<'_>, watch: &Watch<'_>) -> Result<Link, Trouble> {
    let left = watch.left();
    let limit = left.map_or(to.connect_timeout, |left| left.min(to.connect_timeout));
    let link = if to.upgrade {
        to.pool.open_once(limit).await
    } else {
        to.pool.open(limit).await
    };
    link.map_err(|trouble| match trouble {
        ConnectTrouble::TimedOut if limit < to.connect_timeout => Trouble::Timeout,
        trouble => Trouble::Connect(trouble),
    })
}

/// Writes the destination into the request, in the manner of the protocol.
fn address(request: &mut Request<Upload>, to: &Destination<'_>, http2: bool) -> Result<(), Trouble> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(to.path.clone());
    if http2 {
        parts.scheme = Some(if to.https {
            http::uri::Scheme::HTTPS
        } else {
            http::uri::Scheme::HTTP
        });
        parts.authority = Some(to.authority.clone());
        request.headers_mut().remove(HOST);
        *request.version_mut() = Version::HTTP_2;
    } else {
        request.headers_mut().insert(HOST, HeaderValue::clone(&to.host));
        *request.version_mut() = Version::HTTP_11;
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Trouble::Unspeakable)?;
    Ok(())
}

/// Moves connection, body and response until there is a response, or no more sense in waiting.
async fn drive(
    mut wire: Option<&mut Wire>,
    sent: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
    watch: &mut Watch<'_>,
) -> Result<Result<Response<Incoming>, Failed>, Trouble> {
    let mut sent = pin!(sent);
    std::future::poll_fn(move |cx| {
        match (&mut wire, &watch.progress) {
            (Some(wire), _) => {
                wire.turn(cx);
            }
            (None, Some(progress)) => progress.register(cx),
            (None, None) => {}
        }
        if let Poll::Ready(answer) = sent.as_mut().poll(cx) {
            return Poll::Ready(match answer {
                Ok(response) => Ok(Ok(response)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => Ok(Err(Failed::Unsent(Box::new(unsent)))),
                    None if watch.poll(cx) == Poll::Ready(Trouble::BadBody) => Err(Trouble::BadBody),
                    None => Ok(Err(Failed::Sent(failed.into_error()))),
                },
            });
        }
        watch.poll(cx).map(Err)
    })
    .await
}

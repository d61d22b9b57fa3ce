//! One route: ask the guard, forward, judge.

use crate::activity::{Activity, Running};
use crate::answers::Answers;
use crate::body::Body;
use crate::call::{Call, Meter};
use crate::connect::{ConnectTrouble, Endpoint};
use crate::drain::Drain;
use crate::exchange::{Destination, Trouble, Watch, exchange};
use crate::fallback::{self, Allowed, Fallback, Substitute};
use crate::grpc::{GrpcBody, is_grpc, verdict};
use crate::headers;
use crate::limits::Limits;
use crate::link::UpstreamBody;
use crate::pool::Pool;
use crate::rejection::{mark, rejected, troubled};
use crate::routes::{Checked, Scheme};
use crate::tunnel::tunnel;
use crate::upload::Upload;
use crds::{CircuitBreakerSpec, ErrorKind};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tiebar::guard::{Guard, Presented, RejectReason, Rejected, Verdict};
use tiebar::state::Cause;
use tokio_util::task::TaskTracker;

/// How long a fallback service may take to its headers.
const FALLBACK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a target takes from the process.
pub(crate) struct Context {
    pub(crate) instance: String,
    pub(crate) allowed: Allowed,
    pub(crate) limits: Limits,
    /// Answers until the store has some.
    pub(crate) starting: Option<CircuitBreakerSpec>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) tasks: TaskTracker,
    pub(crate) drain: Arc<Drain>,
}

/// One route with its guard and its connections.
pub(crate) struct Target {
    pub(crate) route: Checked,
    guard: Guard,
    context: Context,
    pool: Arc<Pool>,
    answers: RwLock<Arc<Answers>>,
}

/// Who asks, and for whom.
struct Origin<'a> {
    activity: &'a Arc<Activity>,
    host: Option<Authority>,
    version: Version,
}

impl Target {
    pub(crate) fn new(route: Checked, endpoint: Endpoint, guard: Guard, context: Context) -> Self {
        let idle = context.limits.upstream_idle_timeout;
        let answers = Answers::new(None, None, &context.allowed, idle, guard.id().as_str());
        Self {
            route,
            guard,
            pool: Pool::new(endpoint, idle),
            answers: RwLock::new(Arc::new(answers)),
            context,
        }
    }

    /// The answers of the configuration in force.
    fn answers(&self) -> Arc<Answers> {
        let effective = self.guard.effective();
        let known = Arc::clone(&self.answers.read().unwrap_or_else(PoisonError::into_inner));
        if known.are_of(effective.as_ref()) {
            return known;
        }
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        // Another call may have been faster.
        if !answers.are_of(effective.as_ref()) {
            *answers = Arc::new(Answers::new(
                effective,
                self.context.starting.as_ref(),
                &self.context.allowed,
                self.context.limits.upstream_idle_timeout,
                self.guard.id().as_str(),
            ));
        }
        Arc::clone(&answers)
    }

    /// Closes connections that nobody needs.
    pub(crate) fn sweep(&self) {
        self.pool.sweep();
        let answers = Arc::clone(&self.answers.read().unwrap_or_else(PoisonError::into_inner));
        if let Fallback::Service(substitute) = &answers.fallback {
            substitute.pool.sweep();
        }
    }

    /// Too many calls in flight: no question to the guard, and no evidence.
    pub(crate) fn overloaded(&self) -> Response<Body> {
        self.context.meter.overloaded.fetch_add(1, Ordering::Relaxed);
        let why = Rejected {
            state: self.guard.status().state,
            reason: RejectReason::Overload,
            retry_after_ms: Some(1_000),
        };
        rejected(
            why,
            self.answers().rejection_status,
            self.guard.id().as_str(),
            &self.context.instance,
        )
    }

    /// Serves one request.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        host: Option<Authority>,
        activity: &Arc<Activity>,
    ) -> Response<Body> {
        let answers = self.answers();
        let origin = Origin {
            activity,
            host,
            version: request.version(),
        };
        match self.guard.acquire().await {
            Err(why) => self.reject(why, request, &origin, &answers).await,
            Ok(permit) => {
                let call = Call::new(permit, &self.context.meter.durations);
                self.forward(request, &origin, call, &answers).await
            }
        }
    }

    async fn reject(
        &self,
        why: Rejected,
        request: Request<Incoming>,
        origin: &Origin<'_>,
        answers: &Answers,
    ) -> Response<Body> {
        let mut response = rejected(
            why,
            answers.rejection_status,
            self.guard.id().as_str(),
            &self.context.instance,
        );
        let request = Upload::wrap(request, origin.activity);
        match &answers.fallback {
            Fallback::None => response,
            Fallback::Static {
                status,
                content_type,
                body,
            } => {
                *response.status_mut() = *status;
                *response.body_mut() = Body::full(body.clone());
                response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
                if !status.is_client_error() && !status.is_server_error() {
                    response.headers_mut().remove(RETRY_AFTER);
                }
                response
            }
            Fallback::Service(substitute) => match self.substitute(substitute, request, origin, answers).await {
                Some(mut instead) => {
                    mark(&mut instead, why.state);
                    instead
                }
                None => response,
            },
        }
    }

    /// Another service's answer; none when it gives none.
    async fn substitute(
        &self,
        substitute: &Substitute,
        mut request: Request<Upload>,
        origin: &Origin<'_>,
        answers: &Answers,
    ) -> Option<Response<Body>> {
        let path = substitute.path(request.uri().path_and_query()?)?;
        headers::remove_hop_by_hop(request.headers_mut());
        headers::forward(request.headers_mut(), &origin.activity.peer, origin.host.as_ref());
        fallback::remove_credentials(request.headers_mut());
        let destination = Destination {
            pool: &substitute.pool,
            path,
            authority: &substitute.upstream.authority,
            host: Cow::Borrowed(&substitute.upstream.host),
            https: substitute.upstream.scheme == Scheme::Https,
            upgrade: false,
            connect_timeout: answers.connect_timeout,
        };
        let mut call = Call::unguarded();
        let mut watch = Watch::new(&mut call, request.body(), None, self.patience(&request));
        let answer = exchange(&destination, request, &mut watch);
        let answer = tokio::time::timeout(answers.timeout.unwrap_or(FALLBACK_TIMEOUT), answer).await;
        match answer {
            Ok(Ok(mut response)) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                headers::remove_hop_by_hop(response.headers_mut());
                *response.version_mut() = origin.version;
                Some(response.map(Body::upstream))
            }
            failed => {
                let trouble = failed.err().map_or("no answer", |_| "no answer in time");
                tracing::debug!(breaker = %self.guard.id(), trouble, "the fallback service failed, too");
                None
            }
        }
    }

    /// How long this request's body may pause.
    fn patience(&self, request: &Request<Upload>) -> Option<Duration> {
        (!is_grpc(request.headers())).then_some(self.context.limits.body_timeout)
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        origin: &Origin<'_>,
        mut call: Call,
        answers: &Answers,
    ) -> Response<Body> {
        let presented = call.presented();
        let protocol = headers::upgrade(request.headers()).filter(|_| origin.version == Version::HTTP_11);
        let client_side = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let mut request = Upload::wrap(request, origin.activity);
        let destination = self.destination(&request, origin, protocol.is_some(), answers);
        let result = match destination {
            None => Err(Trouble::Unspeakable),
            Some(destination) => {
                headers::remove_hop_by_hop(request.headers_mut());
                headers::forward(request.headers_mut(), &origin.activity.peer, origin.host.as_ref());
                if let Some(protocol) = protocol {
                    let headers = request.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                    headers.insert(UPGRADE, protocol);
                }
                let patience = self.patience(&request);
                let mut watch = Watch::new(&mut call, request.body(), answers.timeout, patience);
                exchange(&destination, request, &mut watch).await
            }
        };
        match result {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => match client_side {
                Some(client_side) => self.switch(response, client_side, call, origin),
                // Nobody asked for it.
                None => self.fail(Trouble::Reset, call, presented, answers),
            },
            Ok(mut response) => {
                *response.version_mut() = origin.version;
                respond(response, call, answers)
            }
            Err(trouble) => self.fail(trouble, call, presented, answers),
        }
    }

    fn destination<'a>(
        &'a self,
        request: &Request<Upload>,
        origin: &'a Origin<'_>,
        upgrade: bool,
        answers: &Answers,
    ) -> Option<Destination<'a>> {
        let spec = &self.route.spec;
        let path = request.uri().path_and_query();
        let path = path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let path = if spec.strip_prefix {
            let whole = path.as_str();
            let rest = whole
                .strip_prefix(spec.path_prefix.trim_end_matches('/'))
                .unwrap_or(whole);
            if rest.starts_with('/') {
                rest.parse().ok()?
            } else {
                format!("/{rest}").parse().ok()?
            }
        } else {
            path
        };
        let upstream = &self.route.upstream;
        let (authority, host) = match &origin.host {
            Some(host) if spec.preserve_host => (host, Cow::Owned(HeaderValue::from_str(host.as_str()).ok()?)),
            _ => (&upstream.authority, Cow::Borrowed(&upstream.host)),
        };
        Some(Destination {
            pool: &self.pool,
            path,
            authority,
            host,
            https: self.route.upstream.scheme == Scheme::Https,
            upgrade,
            connect_timeout: answers.connect_timeout,
        })
    }

    /// Answers for an upstream that did not.
    fn fail(&self, trouble: Trouble, call: Call, presented: Presented, answers: &Answers) -> Response<Body> {
        let kind = match trouble {
            Trouble::Timeout => Some((ErrorKind::Timeout, "Timeout")),
            Trouble::Connect(ConnectTrouble::Own) => None,
            Trouble::Connect(_) => Some((ErrorKind::ConnectionFailure, "ConnectionFailure")),
            Trouble::Reset => Some((ErrorKind::Reset, "Reset")),
            Trouble::BadBody | Trouble::SlowBody | Trouble::Unspeakable => None,
        };
        match kind {
            Some((kind, name)) if answers.conditions.is_failure_error(kind) => {
                call.record(Verdict::Failure(Cause::Error(name)));
            }
            // As if the caller had gone: no evidence, but for the time the upstream had taken.
            None if trouble == Trouble::BadBody => drop(call),
            _ => call.record(Verdict::Ignored),
        }
        troubled(trouble, presented, self.guard.id().as_str(), &self.context.instance)
    }

    /// Hands a switch of protocols on.
    fn switch(
        &self,
        mut response: Response<UpstreamBody>,
        client_side: OnUpgrade,
        call: Call,
        origin: &Origin<'_>,
    ) -> Response<Body> {
        let presented = call.presented();
        call.record(Verdict::Success);
        let upstream_side = hyper::upgrade::on(&mut response);
        let drain = Arc::clone(&self.context.drain);
        let (running, _) = Running::begin(origin.activity);
        self.context
            .tasks
            .spawn(tunnel(client_side, upstream_side, drain, running));
        mark(&mut response, presented);
        response.map(|_| Body::full(""))
    }
}

/// Judges the upstream's answer and hands it on.
fn respond(mut response: Response<UpstreamBody>, call: Call, answers: &Answers) -> Response<Body> {
    headers::remove_hop_by_hop(response.headers_mut());
    mark(&mut response, call.presented());
    let status = response.status().as_u16();
    let conditions = &answers.conditions;
    if response.status() == StatusCode::OK && is_grpc(response.headers()) {
        return match verdict(response.headers(), conditions) {
            Some(verdict) => {
                call.record(verdict);
                response.map(Body::upstream)
            }
            None => response.map(|body| Body::grpc(GrpcBody::new(body, call, Arc::clone(conditions)))),
        };
    }
    call.record(if conditions.is_ignored_status(status) {
        Verdict::Ignored
    } else if conditions.is_failure_status(status) {
        Verdict::Failure(Cause::Http(status))
    } else {
        Verdict::Success
    });
    response.map(Body::upstream)
}

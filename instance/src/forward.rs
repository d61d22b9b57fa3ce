//! One request: ask the guard, forward, judge.

use crate::grpc::{GrpcBody, is_grpc, verdict};
use crate::headers;
use crate::rejection::{Body, Trouble, full, mark, plain, rejected, troubled};
use crate::routes::Checked;
use crds::{CircuitBreakerSpec, ErrorKind, FailureConditions, FallbackType, Stored};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tiebar::guard::{Effective, Guard, Permit, Presented, Rejected, Verdict};
use tiebar::state::Cause;

/// Idle connections kept to one upstream.
const IDLE_CONNECTIONS: usize = 256;

/// What the configuration says about answers, made once per revision.
#[derive(Debug, Clone)]
struct Answers {
    from: Option<Arc<Effective>>,
    conditions: Arc<FailureConditions>,
    rejection_status: u16,
    fallback: Option<Arc<crds::Static>>,
    timeout: Option<Duration>,
}

impl Answers {
    fn new(from: Option<Arc<Effective>>) -> Self {
        let spec: CircuitBreakerSpec = from
            .as_ref()
            .and_then(|effective| effective.spec.as_ref())
            .and_then(|json| Stored::read(json))
            .unwrap_or_default()
            .spec;
        let conditions = spec.failure_conditions.as_ref().map(FailureConditions::new);
        let status = spec.rejection.as_ref().and_then(|rejection| rejection.http_status_code);
        let timeout = from
            .as_ref()
            .map_or(0, |effective| effective.config.policy.call_timeout_ms);
        let fallback = spec
            .fallback
            .filter(|fallback| fallback.r#type == Some(FallbackType::Static));
        Self {
            conditions: Arc::new(conditions.and_then(Result::ok).unwrap_or_default()),
            rejection_status: status.and_then(|status| u16::try_from(status).ok()).unwrap_or(503),
            fallback: fallback.and_then(|fallback| fallback.r#static).map(Arc::new),
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            from,
        }
    }
}

/// One route with its guard and its connections.
pub(crate) struct Target {
    pub(crate) route: Checked,
    guard: Guard,
    instance: String,
    client: Client<HttpConnector, Incoming>,
    answers: RwLock<Answers>,
}

impl Target {
    pub(crate) fn new(route: Checked, guard: Guard, instance: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let connect = guard
            .effective()
            .map_or(1_000, |effective| effective.config.policy.connect_timeout_ms);
        connector.set_connect_timeout(Some(Duration::from_millis(connect)));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_only(route.http2)
            // A request that went out once is never sent again: retrying is the caller's decision.
            .retry_canceled_requests(false)
            .build(connector);
        Self {
            route,
            guard,
            instance: instance.to_owned(),
            client,
            answers: RwLock::new(Answers::new(None)),
        }
    }

    /// The answers of the configuration in force.
    fn answers(&self) -> Answers {
        let current = self.guard.effective();
        let same = |known: &Answers| match (&known.from, &current) {
            (Some(known), Some(current)) => Arc::ptr_eq(known, current),
            (None, None) => true,
            _ => false,
        };
        let known = self.answers.read().unwrap_or_else(PoisonError::into_inner).clone();
        if same(&known) {
            return known;
        }
        let fresh = Answers::new(current);
        *self.answers.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }

    /// Serves one request.
    pub(crate) async fn serve(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let answers = self.answers();
        match self.guard.acquire().await {
            Err(why) => self.reject(why, &answers),
            Ok(permit) => self.forward(request, peer, permit, &answers).await,
        }
    }

    fn reject(&self, why: Rejected, answers: &Answers) -> Response<Body> {
        let mut response = rejected(why, answers.rejection_status, self.guard.id().as_str(), &self.instance);
        if let Some(fallback) = &answers.fallback {
            *response.body_mut() = full(fallback.body.clone().unwrap_or_default());
            let status = fallback
                .http_status_code
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(200);
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let kind = fallback.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
            if let Ok(kind) = HeaderValue::from_str(kind) {
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
        }
        response
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        peer: IpAddr,
        permit: Permit,
        answers: &Answers,
    ) -> Response<Body> {
        let presented = permit.presented();
        let upgrade = headers::upgrade(request.headers());
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        if self.rewrite(&mut request, peer, upgrade).is_err() {
            permit.record(Verdict::Ignored);
            return plain(
                StatusCode::BAD_REQUEST,
                "bad request target
",
            );
        }
        let call = self.client.request(request);
        let result = match answers.timeout {
            Some(limit) => tokio::time::timeout(limit, call).await.map_err(|_| Trouble::Timeout),
            None => Ok(call.await),
        };
        let trouble = match result {
            Ok(Ok(response)) => return respond(response, permit, presented, answers, client_side),
            Ok(Err(error)) if error.is_connect() => Trouble::Connect,
            Ok(Err(_)) => Trouble::Reset,
            Err(timeout) => timeout,
        };
        let (kind, name) = match trouble {
            Trouble::Timeout => (ErrorKind::Timeout, "Timeout"),
            Trouble::Connect => (ErrorKind::ConnectionFailure, "ConnectionFailure"),
            Trouble::Reset => (ErrorKind::Reset, "Reset"),
        };
        let failed = answers.conditions.is_failure_error(kind);
        permit.record(if failed {
            Verdict::Failure(Cause::Error(name))
        } else {
            Verdict::Ignored
        });
        troubled(trouble, presented, self.guard.id().as_str(), &self.instance)
    }

    /// Makes the caller's request the upstream's.
    fn rewrite(
        &self,
        request: &mut Request<Incoming>,
        peer: IpAddr,
        upgrade: Option<HeaderValue>,
    ) -> Result<(), http::Error> {
        let spec = &self.route.spec;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = if spec.strip_prefix {
            let rest = path
                .strip_prefix(spec.path_prefix.trim_end_matches('/'))
                .unwrap_or(path);
            if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("/{rest}")
            }
        } else {
            path.to_owned()
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.route.authority.as_str())
            .path_and_query(path)
            .build();
        *request.uri_mut() = uri?;
        let authority = self.route.authority.as_str();
        headers::remove_hop_by_hop(request.headers_mut());
        headers::forward(request.headers_mut(), peer, authority, spec.preserve_host);
        if let Some(protocol) = upgrade {
            request
                .headers_mut()
                .insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(http::header::UPGRADE, protocol);
        }
        *request.version_mut() = if self.route.http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        Ok(())
    }
}

/// Judges the upstream's answer and hands it on.
fn respond(
    mut response: Response<Incoming>,
    permit: Permit,
    presented: Presented,
    answers: &Answers,
    client_side: Option<hyper::upgrade::OnUpgrade>,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        permit.record(Verdict::Success);
        if let Some(client_side) = client_side {
            tunnel(client_side, hyper::upgrade::on(&mut response));
        }
        let mut response = response.map(|_| full(""));
        mark(&mut response, presented);
        return response;
    }
    headers::remove_hop_by_hop(response.headers_mut());
    mark(&mut response, presented);
    let status = response.status().as_u16();
    if is_grpc(&response) && response.status() == StatusCode::OK {
        return match verdict(response.headers(), &answers.conditions) {
            Some(verdict) => {
                permit.record(verdict);
                response.map(http_body_util::BodyExt::boxed)
            }
            None => response.map(|body| GrpcBody::new(body, permit, Arc::clone(&answers.conditions)).boxed()),
        };
    }
    permit.record(if answers.conditions.is_ignored_status(status) {
        Verdict::Ignored
    } else if answers.conditions.is_failure_status(status) {
        Verdict::Failure(Cause::Http(status))
    } else {
        Verdict::Success
    });
    response.map(http_body_util::BodyExt::boxed)
}

/// Copies both ways once both sides have switched.
fn tunnel(client: hyper::upgrade::OnUpgrade, upstream: hyper::upgrade::OnUpgrade) {
    tokio::spawn(async move {
        match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                    tracing::debug!(%error, "a tunnel broke");
                }
            }
            Err(error) => tracing::debug!(%error, "an upgrade was not carried out"),
        }
    });
}

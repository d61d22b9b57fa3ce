//! The traffic port: accept, serve, drain.

use crate::admin;
use crate::forward::Target;
use crate::rejection::{Body, plain, rejected};
use crate::routes::{RouteError, RouteSpec, Table, parse_routes};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tiebar::guard::{Breakers, Presented, RejectReason, Rejected};
use tiebar::id::ServiceId;
use tiebar::policy::Config;
use tiebar::state::State;
use tokio::net::{TcpListener, TcpStream};

/// Settings of one proxy.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HOST:PORT` for traffic.
    pub listen: String,
    /// `HOST:PORT` for health, metrics and breakers.
    pub admin_listen: String,
    /// The routes, when they do not come from a file.
    pub routes: Vec<RouteSpec>,
    /// A file with routes, read again when it changes.
    pub routes_file: Option<PathBuf>,
    /// Taken by bare service ids.
    pub namespace: Option<String>,
    /// Rules to start from while the store has none.
    pub fallback: BTreeMap<ServiceId, Config>,
    /// Calls at once; more are rejected.
    pub max_in_flight: usize,
    /// How long running calls may take to end at shutdown.
    pub drain_timeout: Duration,
}

/// State shared by all connections.
pub(crate) struct Shared {
    pub(crate) breakers: Breakers,
    settings: Settings,
    table: RwLock<Arc<Table>>,
    in_flight: AtomicUsize,
    pub(crate) draining: AtomicBool,
}

/// One proxy, its ports taken.
pub struct Instance {
    traffic: TcpListener,
    admin: TcpListener,
    shared: Arc<Shared>,
}

/// A request whose headers take longer than this is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of headers, and of a request line.
const MAX_HEADER_BYTES: usize = 64 * 1_024;
/// Headers in a request.
const MAX_HEADERS: usize = 128;
/// How often the routes file is looked at.
const ROUTES_EVERY: Duration = Duration::from_secs(1);

impl Instance {
    /// Takes both ports and checks the routes.
    ///
    /// # Errors
    /// One line that names what is wrong and what would be right.
    pub async fn bind(settings: Settings, breakers: Breakers) -> anyhow::Result<Self> {
        let listen = async |address: &str, flag: &str| {
            let listener = TcpListener::bind(address).await;
            listener.map_err(|error| anyhow::anyhow!("cannot listen on {address} ({flag}): {error}"))
        };
        let traffic = listen(&settings.listen, "--listen").await?;
        let admin = listen(&settings.admin_listen, "--admin-listen").await?;
        let routes = match &settings.routes_file {
            None => settings.routes.clone(),
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| anyhow::anyhow!("--routes {}: {error}", file.display()))?;
                parse_routes(&text).map_err(|error| anyhow::anyhow!("--routes {}: {error}", file.display()))?
            }
        };
        let shared = Arc::new(Shared {
            breakers,
            settings,
            table: RwLock::default(),
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        });
        shared.route(&routes)?;
        Ok(Self { traffic, admin, shared })
    }

    /// The traffic port really bound.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn traffic_addr(&self) -> std::io::Result<SocketAddr> {
        self.traffic.local_addr()
    }

    /// The admin port really bound.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// When a port fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        tracing::info!(addr = %self.traffic_addr()?, port = "traffic", "listening");
        tracing::info!(addr = %self.admin_addr()?, port = "admin", "listening");
        let shared = self.shared;
        let admin = axum::serve(self.admin, admin::router(Arc::clone(&shared)));
        let admin = tokio::spawn(async move { admin.await });
        let watcher = tokio::spawn(watch_routes(Arc::clone(&shared)));
        let graceful = GracefulShutdown::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                accepted = self.traffic.accept() => match accepted {
                    Ok((stream, peer)) => serve(stream, peer.ip(), &shared, &graceful),
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        // Out of file descriptors: others must end first.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                () = &mut shutdown => break,
            }
        }
        shared.draining.store(true, Ordering::Relaxed);
        drop(self.traffic);
        let patience = shared.settings.drain_timeout;
        if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
            tracing::warn!("calls were still running after the drain timeout");
        }
        shared.breakers.shutdown(Duration::from_secs(2)).await;
        watcher.abort();
        admin.abort();
        Ok(())
    }
}

/// Serves one connection.
fn serve(stream: TcpStream, peer: IpAddr, shared: &Arc<Shared>, graceful: &GracefulShutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay");
    }
    let shared = Arc::clone(shared);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request, peer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, %peer, "a connection ended badly");
        }
    });
}

/// Counts one call in flight while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Makes the table of these routes.
    fn route(&self, routes: &[RouteSpec]) -> Result<(), RouteError> {
        let mut targets = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let checked = route.check(self.settings.namespace.as_deref());
            // Without a file its two fields were flags.
            let place = match self.settings.routes_file {
                Some(_) => format!("route {}: ", index + 1),
                None => "--".to_owned(),
            };
            let checked = checked.map_err(|error| RouteError(format!("{place}{error}")))?;
            let guard = self
                .breakers
                .guard(&checked.id, self.settings.fallback.get(&checked.id).cloned());
            targets.push(Arc::new(Target::new(checked, guard, self.breakers.instance())));
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::new(targets));
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let limit = self.settings.max_in_flight;
        let counted = Counted(&self.in_flight);
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= limit {
            let why = Rejected {
                state: Presented::State(State::Closed),
                reason: RejectReason::Overload,
                retry_after_ms: Some(1_000),
            };
            return rejected(why, 503, "", self.breakers.instance());
        }
        if request.method() == Method::CONNECT {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here\n");
        }
        let host = request.headers().get(http::header::HOST);
        if host.is_some_and(|host| host.to_str().map_or(true, |host| host.contains(['/', '@', ' ', ',']))) {
            return plain(StatusCode::BAD_REQUEST, "bad Host\n");
        }
        let host = host
            .and_then(|host| host.to_str().ok())
            .or_else(|| request.uri().host())
            .map(str::to_owned);
        let table = Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        let Some(target) = table.find(host.as_deref(), request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND, "no route\n");
        };
        let response = target.serve(request, peer).await;
        drop(counted);
        response
    }
}

/// Reads the routes again when the file changes; a bad edit keeps the good table.
async fn watch_routes(shared: Arc<Shared>) {
    let Some(file) = shared.settings.routes_file.clone() else {
        return;
    };
    let mut known = tokio::fs::read_to_string(&file).await.unwrap_or_default();
    loop {
        tokio::time::sleep(ROUTES_EVERY).await;
        let text = match tokio::fs::read_to_string(&file).await {
            Ok(text) if text != known => text,
            _ => continue,
        };
        match parse_routes(&text).and_then(|routes| shared.route(&routes)) {
            Ok(()) => tracing::info!(file = %file.display(), "new routes"),
            Err(error) => tracing::error!(file = %file.display(), %error, "bad routes; the good ones stay"),
        }
        known = text;
    }
}

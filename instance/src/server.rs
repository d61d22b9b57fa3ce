//! Both ports: accept, hand over, drain.

use crate::activity::{Activity, Running};
use crate::body::Body;
use crate::call::Meter;
use crate::connect::Endpoint;
use crate::connection;
use crate::drain::{Drain, Stage};
use crate::fallback::Allowed;
use crate::limits::Limits;
use crate::refusal;
use crate::rejection::plain;
use crate::routes::{Checked, RouteSpec, Table};
use crate::store_watch::StoreMeasures;
use crate::target::{Context, Target};
use crate::workers::{self, Workers};
use crds::CircuitBreakerSpec;
use crossbeam_utils::CachePadded;
use http::{Request, Response};
use hyper::body::Incoming;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tiebar::guard::Breakers;
use tiebar::id::ServiceId;
use tiebar::policy::Config;
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Rules to start from while the store has none.
#[derive(Debug, Clone)]
pub struct Starting {
    /// What the guard judges by.
    pub config: Config,
    /// What the proxy answers by.
    pub spec: CircuitBreakerSpec,
}

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
    pub starting: BTreeMap<ServiceId, Starting>,
    /// Prefixes of the URLs that `fallback.service` may name; none: no fallback to a service.
    pub allow_fallback: Vec<String>,
    /// What callers may ask.
    pub limits: Limits,
    /// How long running calls may take to end at shutdown.
    pub drain_timeout: Duration,
    /// Threads that serve the traffic. The rest happens in the runtime that [`Instance::run`] is called in.
    pub workers: NonZeroUsize,
    /// Measurements of the store, when it is watched.
    pub store: Option<StoreMeasures>,
}

impl Settings {
    /// The defaults, on these addresses, with these routes.
    #[must_use]
    pub fn new(listen: &str, admin_listen: &str, routes: Vec<RouteSpec>) -> Self {
        Self {
            listen: listen.to_owned(),
            admin_listen: admin_listen.to_owned(),
            routes,
            routes_file: None,
            namespace: None,
            starting: BTreeMap::new(),
            allow_fallback: Vec::new(),
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(25),
            workers: NonZeroUsize::MIN,
            store: None,
        }
    }
}

/// Which port a connection came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Traffic,
    Admin,
}

impl Port {
    /// Health can be asked for to the very end.
    pub(crate) fn lasts_until(self) -> Stage {
        match self {
            Self::Traffic => Stage::Draining,
            Self::Admin => Stage::Cut,
        }
    }
}

/// State shared by all connections.
pub(crate) struct Shared {
    pub(crate) breakers: Breakers,
    pub(crate) settings: Settings,
    pub(crate) allowed: Allowed,
    /// One for each thread that serves connections, lest they share what every call touches: connections to upstreams,
    /// and counts of references.
    tables: Box<[CachePadded<RwLock<Arc<Table>>>]>,
    meters: Mutex<BTreeMap<ServiceId, Arc<Meter>>>,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) drain: Arc<Drain>,
    /// Connections and tunnels that a drain waits for.
    pub(crate) tasks: TaskTracker,
}

/// One proxy, its ports taken.
pub struct Instance {
    traffic: TcpListener,
    admin: TcpListener,
    workers: Workers,
    shared: Arc<Shared>,
    /// What the routes were made from.
    sources: crate::reload::Sources,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

/// After a failed accept: out of file descriptors, so others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the last outcomes may take to reach the store.
const FAREWELL: Duration = Duration::from_secs(2);

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
        let workers = Workers::start(settings.workers)
            .map_err(|error| anyhow::anyhow!("cannot start {} threads: {error}", settings.workers))?;
        let allowed = Allowed::parse(&settings.allow_fallback).map_err(anyhow::Error::msg)?;
        let shared = Arc::new(Shared {
            breakers,
            allowed,
            tables: (0..settings.workers.get()).map(|_| CachePadded::default()).collect(),
            settings,
            meters: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            drain: Arc::default(),
            tasks: TaskTracker::new(),
        });
        let sources = crate::reload::Sources::read(&shared.settings).await?;
        let place = match &shared.settings.routes_file {
            Some(file) => format!("--routes {}: ", file.display()),
            None => String::new(),
        };
        shared
            .route(&sources)
            .map_err(|error| anyhow::anyhow!("{place}{error}"))?;
        Ok(Self {
            traffic,
            admin,
            workers,
            shared,
            sources,
        })
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
    /// When a port has no address.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        tracing::info!(addr = %self.traffic_addr()?, port = "traffic", "listening");
        tracing::info!(addr = %self.admin_addr()?, port = "admin", "listening");
        let shared = self.shared;
        // Whoever drops this future has both ports given up.
        let watcher = spawn(crate::reload::watch(Arc::clone(&shared), self.sources));
        let workers = Arc::new(self.workers);
        let admin = spawn(accept(
            self.admin,
            Port::Admin,
            Arc::clone(&shared),
            Arc::clone(&workers),
        ));
        let traffic = spawn(accept(
            self.traffic,
            Port::Traffic,
            Arc::clone(&shared),
            Arc::clone(&workers),
        ));
        shutdown.await;
        tracing::info!("draining");
        shared.drain.enter(Stage::Draining);
        // It takes over what is in the backlog, then gives up the port.
        let _ = traffic.await;
        shared.tasks.close();
        let patience = shared.settings.drain_timeout;
        if tokio::time::timeout(patience, shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                calls = shared.in_flight.load(std::sync::atomic::Ordering::Relaxed),
                "calls were still running after the drain timeout; they are cut"
            );
        }
        shared.drain.enter(Stage::Cut);
        shared.breakers.shutdown(FAREWELL).await;
        drop((watcher, admin, workers));
        Ok(())
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Accepts connections; traffic until the drain begins, the admin port's until the end.
async fn accept(listener: TcpListener, port: Port, shared: Arc<Shared>, workers: Arc<Workers>) {
    let drain = Arc::clone(&shared.drain);
    let mut ended = std::pin::pin!(drain.reached(port.lasts_until()));
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut ended => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let to = Arc::clone(&shared);
                let serve = move |stream| connection::serve(stream, peer.ip(), port, to);
                match port {
                    Port::Traffic => {
                        if let Err(error) = workers.serve(stream, &shared.tasks, serve) {
                            tracing::warn!(%error, "a connection was not handed over");
                        }
                    }
                    Port::Admin => drop(tokio::spawn(serve(stream))),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// Makes the table of these routes.
    ///
    /// # Errors
    /// Which route is wrong, and how; the table stays as it was.
    pub(crate) fn route(&self, sources: &crate::reload::Sources) -> Result<(), crate::routes::RouteError> {
        let checked = sources.check(self.settings.namespace.as_deref())?;
        let target = |(route, endpoint): &(Checked, Endpoint)| {
            let starting = self.settings.starting.get(&route.id);
            let guard = self
                .breakers
                .guard(&route.id, starting.map(|starting| starting.config.clone()));
            let context = Context {
                meter: self.meter(&route.id),
                instance: self.breakers.instance().to_owned(),
                allowed: self.allowed.clone(),
                limits: self.settings.limits.clone(),
                starting: starting.map(|starting| starting.spec.clone()),
                tasks: self.tasks.clone(),
                drain: Arc::clone(&self.drain),
            };
            Arc::new(Target::new(route.clone(), endpoint.clone(), guard, context))
        };
        for table in &self.tables {
            let fresh = Table::new(checked.iter().map(target).collect());
            *table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
        Ok(())
    }

    /// Ends the guards whose routes are gone and whose calls are over, and drops their measurements: a file that changes
    /// for ever must not fill the memory.
    pub(crate) async fn forget_unrouted(&self) {
        self.breakers.sweep(FAREWELL).await;
        let known: BTreeSet<ServiceId> = self.breakers.guards().iter().map(|guard| guard.id().clone()).collect();
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.retain(|id, _| known.contains(id));
    }

    /// The measurements of a breaker, which outlive its routes by the last call.
    pub(crate) fn meter(&self, id: &ServiceId) -> Arc<Meter> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(meters.entry(id.clone()).or_default())
    }

    /// The calling thread's table.
    fn table(&self) -> Arc<Table> {
        read(&self.tables[workers::number()])
    }

    /// Closes connections to upstreams that nobody needs.
    pub(crate) fn sweep(&self) {
        for table in &self.tables {
            read(table).sweep();
        }
    }
}

fn read(table: &RwLock<Arc<Table>>) -> Arc<Table> {
    Arc::clone(&table.read().unwrap_or_else(PoisonError::into_inner))
}

/// Answers one request of the traffic port.
pub(crate) async fn answer(activity: &Arc<Activity>, request: Request<Incoming>) -> Response<Body> {
    let shared = &activity.shared;
    let (running, all) = Running::begin(activity);
    let response = match refusal::check(&request) {
        Err(refused) => plain(refused.status, refused.text),
        Ok(authority) => {
            let table = shared.table();
            match table.find(authority.as_ref(), request.uri().path()) {
                None => plain(http::StatusCode::NOT_FOUND, "no route\n"),
                Some(target) if all > shared.settings.limits.max_in_flight => target.overloaded(),
                Some(target) => target.serve(request, authority, activity).await,
            }
        }
    };
    response.map(|body| body.holding(running))
}

//! Breakers from Kubernetes.
//!
//! ```text
//!   watch ──▶ world ──▶ programs ──▶ store          every replica watches; the leader alone writes
//!                          │           │
//!                          ▼           ▼ announcements
//!   status ◀── budget ◀── reports ◀────┘
//! ```
//!
//! Everything is by comparison: a program or a report looks at the resource and the store as they are, so it does not
//! matter which of several changes caused it, nor how many were missed. `kube`'s `Controller` was rejected: it keys its
//! work by resource, while here several resources may claim one id, one resource has two kinds of work with different
//! urgency, and a status is written at most once a second.

mod budget;
mod context;
mod due;
mod http;
mod lease;
mod notes;
mod program;
mod pulse;
mod report;
mod watch;
mod world;

use crate::metrics::Metrics;
use budget::Budget;
use context::{Context, Periods, dispatch, locked};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::runtime::events::Reporter;
use lease::{Campaign, Timing};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiebar::redis::Keys;
use tiebar::store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use world::World;

/// Ids worked on at once towards the store.
const PROGRAMS: usize = 16;
/// Statuses worked on at once, and how many more may be when they are transitions.
const REPORTS: usize = 24;
const URGENT_REPORTS: usize = 8;

/// Settings of the operator in Kubernetes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HOST:PORT` for health and metrics.
    pub listen: String,
    /// What to watch; empty: everything.
    pub namespaces: Vec<String>,
    /// Who owns the ids; default the cluster's own, with the namespaces.
    pub cluster_id: Option<String>,
    /// Requests per second for statuses and events.
    pub kube_qps: u32,
    /// The names of keys, to be shown.
    pub keys: Keys,
    /// Divides the periods; 1 but in tests.
    pub pace: u32,
}

/// The operator, connected to a cluster, listening.
pub struct Cluster {
    client: kube::Client,
    store: Arc<dyn Store>,
    settings: Settings,
    listener: TcpListener,
}

impl Cluster {
    /// Finds the cluster and takes the port.
    ///
    /// # Errors
    /// One line that says what is missing.
    pub async fn bind(store: Arc<dyn Store>, settings: Settings) -> Result<Self, String> {
        // Fails when the process has one already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = kube::Config::infer().await.map_err(|error| {
            format!("no cluster: {error}; wanted a service account, a kubeconfig, or --breakers PATH for files")
        })?;
        config.connect_timeout = Some(Duration::from_secs(3));
        // Each part tries again in its own time.
        config.default_retry = false;
        let client = kube::Client::try_from(config).map_err(|error| format!("the cluster's address: {error}"))?;
        Self::with_client(client, store, settings).await
    }

    /// Takes the port; the cluster is the client's.
    ///
    /// # Errors
    /// One line, when the address is taken or none.
    pub async fn with_client(client: kube::Client, store: Arc<dyn Store>, settings: Settings) -> Result<Self, String> {
        let listener = TcpListener::bind(&settings.listen)
            .await
            .map_err(|error| format!("cannot listen on {} (--listen): {error}", settings.listen))?;
        Ok(Self {
            client,
            store,
            settings,
            listener,
        })
    }

    /// The address really bound.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reconciles until `shutdown`, then gives the lease back.
    ///
    /// # Errors
    /// One line, when the cluster cannot be identified or the port fails.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), String> {
        let addr = self.local_addr().map_err(|error| error.to_string())?;
        tracing::info!(%addr, "listening");
        let mut shutdown = std::pin::pin!(shutdown);
        let owner = tokio::select! {
            owner = self.owner() => owner?,
            () = &mut shutdown => return Ok(()),
        };
        let timing = Timing::default();
        let me = identity();
        let namespace = self.client.default_namespace().to_owned();
        tracing::info!(owner, identity = me, lease = %format!("{namespace}/{}", lease::NAME), "starting");
        let mut campaign = Campaign::new(Api::namespaced(self.client.clone(), &namespace), me.clone(), timing);
        let (notes, mut queue) = notes::Notes::new();
        let watches = self.settings.namespaces.len().max(1);
        let context = Arc::new(Context {
            client: self.client.clone(),
            store: self.store,
            keys: self.settings.keys.clone(),
            owner,
            periods: Periods::divided_by(self.settings.pace),
            timing,
            programs: Arc::default(),
            reports: Arc::default(),
            budget: Budget::new(self.settings.kube_qps),
            notes,
            metrics: Metrics::default(),
            term: campaign.term(),
            world: Mutex::new(World::new(watches)),
            health: Mutex::default(),
            programmed: Mutex::default(),
            reported: Mutex::default(),
        });
        let alive = Arc::new(http::Alive::new());
        let server = axum::serve(self.listener, http::router(Arc::clone(&context), Arc::clone(&alive)));
        let scopes: Vec<Option<String>> = match &*self.settings.namespaces {
            [] => vec![None],
            named => named.iter().cloned().map(Some).collect(),
        };
        let watching = scopes
            .into_iter()
            .enumerate()
            .map(|(number, scope)| watch::watch(Arc::clone(&context), number, scope));
        let reporter = Reporter {
            controller: "tiebar-operator".to_owned(),
            instance: Some(me),
        };
        let result = tokio::select! {
            result = server => result.map_err(|error| format!("the port: {error}")),
            () = campaign.run(|| alive.turn()) => Ok(()),
            _ = join_all(watching) => Ok(()),
            () = pulse::probe(&context) => Ok(()),
            () = notes::write(&context, &mut queue, reporter) => Ok(()),
            () = lead(&context, context.term.clone()) => Ok(()),
            () = &mut shutdown => Ok(()),
        };
        // Whatever acted under the lease is dropped by now.
        match tokio::time::timeout(timing.write, campaign.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back; it expires"),
            Err(_) => tracing::warn!("the lease could not be given back in time; it expires"),
        }
        result
    }

    /// The name under which this operator owns ids.
    async fn owner(&self) -> Result<String, String> {
        let mut owner = match &self.settings.cluster_id {
            Some(id) => return Ok(id.clone()),
            None => self.cluster().await?,
        };
        let mut namespaces = self.settings.namespaces.clone();
        namespaces.sort();
        for namespace in namespaces {
            owner = format!("{owner}/{namespace}");
        }
        Ok(owner)
    }

    /// The uid of `kube-system`, which stands for the cluster; asked for until the API server answers.
    async fn cluster(&self) -> Result<String, String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let mut failures = 0;
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(5), namespaces.get_metadata("kube-system")).await;
            let problem = match asked {
                Ok(Ok(namespace)) => return Ok(namespace.metadata.uid.unwrap_or_default()),
                Ok(Err(kube::Error::Api(status))) if [401, 403].contains(&status.code) => {
                    let message = &status.message;
                    return Err(format!(
                        "cannot tell which cluster this is: {message}; wanted the right to get the namespace kube-system, or --cluster-id"
                    ));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer within 5 s".to_owned(),
            };
            if failures == 0 {
                tracing::warn!(error = problem, "the API server does not answer; trying on");
            }
            tokio::time::sleep(context::backoff(failures)).await;
            failures += 1;
        }
    }
}

/// Unlike any other process', also after a restart of the same pod.
fn identity() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let random = RandomState::new().hash_one(std::process::id());
    format!("{}_{random:016x}", host.trim())
}

/// Works while this replica leads, and stops at once when it does not, until dropped.
async fn lead(context: &Arc<Context>, mut terms: channel::Receiver<Option<lease::Term>>) {
    loop {
        let Ok(term) = terms.wait_for(Option::is_some).await.map(|term| *term) else {
            return std::future::pending().await;
        };
        // What this replica saw go while it followed was the former leader's to bury, and what it programmed when it led
        // before may have been another's since.
        context.world().take_vacated();
        locked(&context.programmed).clear();
        let same = |now: &Option<lease::Term>| {
            now.zip(term)
                .is_some_and(|(now, term)| (now.created, now.transitions) == (term.created, term.transitions))
        };
        tokio::select! {
            _ = terms.wait_for(|now| !same(now)) => {}
            () = work(context) => {}
        }
    }
}

async fn work(context: &Arc<Context>) {
    let program = |id, _| {
        let context = Arc::clone(context);
        async move { program::program(&context, &id).await }
    };
    let report = |key, urgent| {
        let context = Arc::clone(context);
        async move { report::report(&context, &key, urgent).await }
    };
    tokio::join!(
        dispatch(Arc::clone(&context.programs), false, PROGRAMS, program),
        dispatch(Arc::clone(&context.reports), false, REPORTS, report),
        dispatch(Arc::clone(&context.reports), true, URGENT_REPORTS, report),
        pulse::listen(context),
        pulse::tick(context),
    );
}

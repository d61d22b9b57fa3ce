//! Tiebar's dashboard: what an engineer on call needs at a glance, and few, careful actions.
//!
//! One [`Dashboard`] reads a store by one subscription (`collector`), keeps an immutable picture of the fleet
//! (`model`), and draws it for pages (`pages`), streams (`live`) and programs (`api`). Everything drawn is a pure
//! function of picture and instant (`view`, `detail`, `incidents`). Rejected: a front-end framework – the pages
//! are complete without a script, and the script only replaces what the server drew anew.

mod acting;
mod actions;
mod answers;
mod api;
mod app;
mod assets;
mod auth;
mod chart;
mod collector;
mod detail;
mod evidence;
mod gauge;
mod guesses;
mod incidents;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod live;
mod metrics;
mod model;
mod observed;
mod operator;
mod pages;
mod problem;
mod query;
mod security;
mod series;
mod settings_table;
mod shapes;
mod signing;
mod view;
mod words;

pub use actions::Actions;
pub use auth::{Auth, parse_tokens};
#[cfg(feature = "kubernetes")]
pub use kubernetes::Kubernetes;
pub use operator::Operator;

use crate::app::App;
use crate::collector::Collector;
use crate::security::Hosts;
use std::net::SocketAddr;
use std::sync::Arc;
use tiebar::store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Settings of a dashboard.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HOST:PORT`.
    pub listen: String,
    /// Host names it answers to besides the loopback's and its own address.
    pub hosts: Vec<String>,
    /// Who may look.
    pub auth: Auth,
    /// Who may act, and where that is written.
    pub actions: Actions,
    /// What stands before every key, for commands that are shown; none: there is no store to ask by hand.
    pub key_prefix: Option<String>,
    /// The most live streams at once; further viewers poll.
    pub max_viewers: usize,
}

/// A dashboard, listening.
pub struct Dashboard {
    listener: TcpListener,
    store: Arc<dyn Store>,
    settings: Settings,
}

impl Dashboard {
    /// Takes the port.
    ///
    /// # Errors
    /// When the address is taken or none.
    pub async fn bind(store: Arc<dyn Store>, settings: Settings) -> std::io::Result<Self> {
        let listener = TcpListener::bind(&settings.listen).await?;
        Ok(Self {
            listener,
            store,
            settings,
        })
    }

    /// The address really bound.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the port fails.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        let address = self.listener.local_addr()?;
        let (collector, models) = Collector::new(self.store);
        let ending = CancellationToken::new();
        let mut boot = [0; 8];
        getrandom::fill(&mut boot).map_err(std::io::Error::other)?;
        let app = Arc::new(App {
            models,
            boot: boot.iter().map(|byte| format!("{byte:02x}")).collect(),
            auth: self.settings.auth,
            actions: self.settings.actions,
            hosts: Hosts::new(address, &self.settings.hosts),
            key_prefix: self.settings.key_prefix,
            viewers: Arc::new(Semaphore::new(self.settings.max_viewers)),
            scenes: live::Scenes::default(),
            metrics: metrics::Metrics::default(),
            guesses: guesses::Guesses::default(),
            ending: ending.clone(),
        });
        tracing::info!(addr = %address, "listening");
        let service = app::router(app).into_make_service_with_connect_info::<SocketAddr>();
        // Streams never end by themselves: they are told to before the server waits for them.
        let _guard = ending.clone().drop_guard();
        let server = axum::serve(self.listener, service).with_graceful_shutdown(async move {
            shutdown.await;
            ending.cancel();
        });
        tokio::select! {
            result = server => result,
            () = collector.run() => Ok(()),
        }
    }
}

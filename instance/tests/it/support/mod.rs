//! A proxy over a memory store, upstreams that do as told, and clients that say exactly what they are given.

pub(crate) mod client;
pub(crate) mod process;
pub(crate) mod upstream;

use instance::{Instance, RouteSpec, Settings, Watched};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiebar::guard::Breakers;
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::store::{Exchange, Leader, Programme, Store};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far above what anything here takes; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The id of every test's breaker.
pub(crate) const ID: &str = "shop/inventory";

/// Trips at the third failure in a row, of one instance.
pub(crate) const THREE: &str = "trip: {consecutiveFailures: 3, minimumInstances: 1}";

/// Never trips.
pub(crate) const PATIENT: &str = "trip: {consecutiveFailures: 1000, minimumInstances: 1}";

/// Waits for a condition.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What must come in time.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

pub(crate) struct Proxy {
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) store: Arc<MemoryStore>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn id() -> ServiceId {
    ServiceId::parse(ID).unwrap()
}

/// Programs a breaker as an operator would.
pub(crate) async fn program(store: &MemoryStore, spec: &str) {
    let text = format!(
        "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: inventory, namespace: shop}}\nspec:\n  {}\n",
        spec.trim().replace('\n', "\n  ")
    );
    let document = crds::parse_documents(&text)
        .remove(0)
        .map_err(|error| error.to_string());
    let document = document.unwrap();
    let programme = Programme {
        leader: Leader {
            owner: "test".to_owned(),
            created: 1,
            transitions: 0,
        },
        spec: document.resolved.json,
        policy: document.resolved.policy,
        forced: document.resolved.forced,
    };
    store.configure(&id(), &programme).await.unwrap();
    let seed = Exchange {
        instance: "seeder".to_owned(),
        boot: "seeder".to_owned(),
        seed: true,
        ..Exchange::default()
    };
    store.exchange(&id(), &seed).await.unwrap();
}

impl Proxy {
    /// A proxy in front of an upstream, under these rules.
    pub(crate) async fn start(spec: &str, upstream: &str) -> Self {
        Self::start_with(spec, upstream, |_| {}).await
    }

    pub(crate) async fn start_with(spec: &str, upstream: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let store = Arc::new(MemoryStore::new());
        program(&store, spec).await;
        Self::over(store, upstream, change).await
    }

    pub(crate) async fn over(store: Arc<MemoryStore>, upstream: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let (watched, measures) = Watched::new(Arc::clone(&store) as Arc<dyn Store>);
        let breakers = Breakers::new(watched, tiebar::guard::Settings::new("tested"));
        let routes = vec![RouteSpec::single(ID, upstream)];
        let mut settings = Settings::new("127.0.0.1:0", "127.0.0.1:0", routes);
        settings.store = Some(measures);
        change(&mut settings);
        let instance = Instance::bind(settings, breakers).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (traffic, admin) = (instance.traffic_addr().unwrap(), instance.admin_addr().unwrap());
        let task = tokio::spawn(instance.run(async move { drop(stopped.await) }));
        let proxy = Self {
            traffic,
            admin,
            store,
            stop: Some(stop),
            task,
        };
        eventually("the configuration", async || {
            let configured = proxy.breaker().await?["revision"].as_u64()? > 0;
            configured.then_some(())
        })
        .await;
        proxy
    }

    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn admin(&self, path: &str) -> client::Seen {
        client::get(self.admin, path).await
    }

    /// What `/breakers` says of the test's breaker.
    pub(crate) async fn breaker(&self) -> Option<Value> {
        let all: Value = serde_json::from_slice(&self.admin("/breakers").await.body).ok()?;
        all["items"].as_array()?.iter().find(|item| item["id"] == ID).cloned()
    }

    pub(crate) async fn metrics(&self) -> String {
        let seen = self.admin("/metrics").await;
        assert_eq!(seen.status, 200);
        String::from_utf8(seen.body.to_vec()).unwrap()
    }

    /// One metric's value.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Calls by outcome: success, failure, slow_success, slow_failure, ignored, rejected.
    pub(crate) async fn outcomes(&self) -> [u64; 6] {
        let metrics = self.metrics().await;
        let count = |outcome: &str| {
            let start = format!("tiebar_calls_total{{breaker=\"{ID}\",outcome=\"{outcome}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {start} in:\n{metrics}"))
                .parse()
                .unwrap()
        };
        [
            "success",
            "failure",
            "slow_success",
            "slow_failure",
            "ignored",
            "rejected",
        ]
        .map(count)
    }

    /// Waits until calls by outcome are these.
    pub(crate) async fn wait_outcomes(&self, wanted: [u64; 6]) {
        let last = std::cell::Cell::new([0; 6]);
        let reached = eventually_or(async || {
            last.set(self.outcomes().await);
            last.get() == wanted
        });
        assert!(reached.await, "outcomes are {:?}, wanted {wanted:?}", last.get());
    }

    pub(crate) async fn wait_state(&self, state: &str) {
        eventually(state, async || (self.breaker().await?["state"] == state).then_some(())).await;
    }
}

async fn eventually_or(mut look: impl AsyncFnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !look().await {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

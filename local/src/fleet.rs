//! The parts, wired together in one process.

use super::member::{Member, Ports, Row};
use http::Uri;
use operator::file_mode::FileMode;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::StoreOptions;
use tiebar::guard::Presented;
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::state::State;
use tiebar::store::{Event, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use ui::{Dashboard, Operator};
use upstream::{FaultProfile, Upstream};

/// The breaker everything here is about.
pub(crate) const SERVICE: &str = "unreliable_service";
/// Its rules, unless `--breakers` says otherwise: those of the walk-through.
const BREAKER: &str = include_str!("../../examples/unreliable-service.yaml");
/// Transitions kept for the summary.
const TIMELINE: usize = 1_000;
/// A killed instance starts again after so long.
const DEAD_FOR: Duration = Duration::from_secs(5);

pub(crate) struct Settings {
    pub(crate) redis: Option<String>,
    pub(crate) store: StoreOptions,
    pub(crate) instances: u16,
    pub(crate) breakers: Option<PathBuf>,
    pub(crate) port_offset: u16,
    pub(crate) rate: u16,
}

/// Where the breaker is kept.
pub(crate) enum Backend {
    Memory(Arc<MemoryStore>),
    Redis { url: String, options: StoreOptions },
}

impl Backend {
    /// A store for one part: parts that share a Redis share no connection, as separate processes would not.
    pub(crate) fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Memory(memory) => Arc::clone(memory) as _,
            Self::Redis { url, options } => Arc::new(options.open(url).map_err(anyhow::Error::msg)?),
        })
    }
}

/// How the service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    Sick,
    /// Well, after so many milliseconds.
    Slow(u32),
}

impl Health {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Sick => "sick",
            Self::Slow(_) => "slow",
        }
    }

    fn profile(self) -> FaultProfile {
        let well = FaultProfile::HEALTHY;
        match self {
            Self::Well => well,
            Self::Sick => FaultProfile {
                error_percent: 100,
                ..well
            },
            Self::Slow(latency_ms) => FaultProfile { latency_ms, ..well },
        }
    }
}

/// Everything at one moment.
pub(crate) struct Picture {
    pub(crate) at: Duration,
    pub(crate) health: &'static str,
    pub(crate) stored: String,
    pub(crate) instances: Vec<Row>,
    pub(crate) timeline: Vec<String>,
}

pub(crate) struct Fleet {
    backend: Backend,
    store: Arc<dyn Store>,
    cut: bool,
    id: ServiceId,
    offset: u16,
    rate: u16,
    health: Health,
    upstream: upstream::Handle,
    members: Vec<Member>,
    others: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: watch::Sender<bool>,
    seen: Vec<Event>,
    /// The store's time at the start, in ms.
    started: u64,
    timeline: Vec<String>,
    _folder: tempfile::TempDir,
}

fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // An error means that everything is over, too.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

/// The dashboard's settings: it serves this machine alone, so nobody needs to sign in to act.
fn dashboard(listen: String, operator: &str, key_prefix: Option<String>) -> anyhow::Result<ui::Settings> {
    Ok(ui::Settings {
        listen,
        hosts: Vec::new(),
        auth: ui::Auth::None,
        actions: ui::Actions::Operator {
            operator: Operator::new(&format!("http://{operator}")).map_err(anyhow::Error::msg)?,
            people: Vec::new(),
            local: true,
        },
        key_prefix,
        max_viewers: 100,
    })
}

impl Fleet {
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Self> {
        if let Some(path) = &settings.breakers {
            check(path)?;
        }
        let backend = match settings.redis {
            Some(url) => Backend::Redis {
                url,
                options: settings.store,
            },
            None => Backend::Memory(Arc::new(MemoryStore::new())),
        };
        let store = backend.open()?;
        if matches!(backend, Backend::Redis { .. }) {
            let there = store.now().await;
            there.map_err(|error| anyhow::anyhow!("--redis: {error}"))?;
        }
        let id = ServiceId::parse(SERVICE)?;
        let offset = settings.port_offset;
        let (stop, _) = watch::channel(false);
        let address = |port: u16| format!("127.0.0.1:{}", u32::from(port) + u32::from(offset));
        let taken = |what: &str, address: &str, error: &dyn std::fmt::Display| {
            anyhow::anyhow!("cannot listen on {address} for the {what}: {error}; --port-offset N moves every port")
        };

        let upstream_address = address(9_000);
        let upstream = Upstream::bind(&upstream_address, FaultProfile::HEALTHY)
            .await
            .map_err(|error| taken("service", &upstream_address, &error))?;
        let handle = upstream.handle();
        let mut others = Vec::new();
        let shutdown = stopped(&stop);
        others.push(tokio::spawn(async move {
            upstream.run(shutdown).await;
            Ok(())
        }));

        let folder = tempfile::tempdir()?;
        let path = match settings.breakers {
            Some(path) => path,
            None => {
                let path = folder.path().join("breaker.yaml");
                std::fs::write(&path, BREAKER)?;
                path
            }
        };
        let operator_address = address(8_081);
        let operator = FileMode::bind(
            backend.open()?,
            operator::file_mode::Settings {
                path,
                listen: operator_address.clone(),
                owner: Some("local".to_owned()),
                every: Duration::from_secs(1),
            },
        )
        .await
        .map_err(|error| taken("operator", &operator_address, &error))?;
        let shutdown = stopped(&stop);
        others.push(tokio::spawn(async move { Ok(operator.run(shutdown).await?) }));

        let dashboard_address = address(8_080);
        let key_prefix = match &backend {
            Backend::Memory(_) => None,
            Backend::Redis { options, .. } => Some(options.key_prefix().to_owned()),
        };
        let dashboard = dashboard(dashboard_address.clone(), &operator_address, key_prefix)?;
        let dashboard = Dashboard::bind(Arc::clone(&store), dashboard)
            .await
            .map_err(|error| taken("dashboard", &dashboard_address, &error))?;
        let shutdown = stopped(&stop);
        others.push(tokio::spawn(async move { Ok(dashboard.run(shutdown).await?) }));

        let mut fleet = Self {
            backend,
            store,
            cut: false,
            id,
            offset,
            rate: settings.rate,
            health: Health::Well,
            upstream: handle,
            members: Vec::new(),
            others,
            stop,
            seen: Vec::new(),
            started: 0,
            timeline: Vec::new(),
            _folder: folder,
        };
        fleet.programmed().await;
        for number in 1..=settings.instances {
            let ports = Ports {
                number: 8_000 + number,
                offset,
            };
            let member = Member::start(&fleet.backend, ports, stopped(&fleet.stop)).await?;
            fleet.members.push(member);
        }
        // What an earlier run left in a Redis is not part of this one.
        fleet.seen = fleet.store.events(&fleet.id, 100).await.unwrap_or_default();
        fleet.started = fleet.store.now().await.unwrap_or_default();
        fleet.load()?;
        Ok(fleet)
    }

    /// The rules come before the instances, which would complain of there being none. When they do not come, say because
    /// another operator owns the breaker, the instances start all the same.
    async fn programmed(&self) {
        let there = async {
            while !matches!(self.store.config(&self.id).await, Ok(Some(stored)) if stored.programmed.is_some()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), there).await;
    }

    fn load(&mut self) -> anyhow::Result<()> {
        let targets: Vec<Uri> = self
            .members
            .iter()
            .map(|member| {
                format!(
                    "http://127.0.0.1:{}",
                    u32::from(member.ports.number) + u32::from(self.offset)
                )
                .parse()
            })
            .collect::<Result<_, _>>()?;
        let plan = loadgen::Plan::steady(targets, f64::from(self.rate), None);
        let shutdown = stopped(&self.stop);
        self.others.push(tokio::spawn(async move {
            loadgen::run(plan, |_| {}, shutdown).await;
            Ok(())
        }));
        Ok(())
    }

    pub(crate) fn welcome(&self) -> String {
        let port = |port: u32| port + u32::from(self.offset);
        let store = match self.backend {
            Backend::Memory(_) => "a store inside this process",
            Backend::Redis { .. } => "Redis",
        };
        format!(
            "Tiebar: {} instances share one circuit breaker, kept in {store}.\n  \
             dashboard  http://127.0.0.1:{}\n  \
             service    http://127.0.0.1:{}\n  \
             instances  http://127.0.0.1:{} …   (what each knows: http://127.0.0.1:{}/breakers)\n  \
             status     http://127.0.0.1:{}/breakers\n\n",
            self.members.len(),
            port(8_080),
            port(9_000),
            port(8_001),
            port(8_101),
            port(8_081),
        )
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(crate) fn set_health(&mut self, health: Health) {
        if health != self.health {
            self.health = health;
            if let Err(error) = self.upstream.set_faults(health.profile()) {
                tracing::error!(%error, "the service keeps its faults");
            }
        }
    }

    /// Kills an instance that holds a probe, if there is one; its name.
    pub(crate) fn kill_prober(&mut self) -> Option<String> {
        let probes = |member: &&mut Member| {
            let status = member.status();
            status.is_some_and(|status| status.state == Presented::State(State::HalfOpen) && status.in_flight > 0)
        };
        let member = self.members.iter_mut().find(probes)?;
        member.kill();
        Some(member.name.clone())
    }

    /// Starts what was killed long enough ago, under the same name.
    pub(crate) async fn revive(&mut self) {
        for member in &mut self.members {
            if member.killed.is_some_and(|at| at.elapsed() >= DEAD_FOR) {
                match Member::start(&self.backend, member.ports, stopped(&self.stop)).await {
                    Ok(next) => *member = next.succeed(member),
                    Err(error) => tracing::error!(%error, "not started again"),
                }
            }
        }
    }

    /// Cuts the embedded store off, or brings it back; whether it is cut now. None: the store is not ours to cut.
    pub(crate) fn toggle_store(&mut self) -> Option<bool> {
        let Backend::Memory(memory) = &self.backend else {
            return None;
        };
        self.cut = !self.cut;
        memory.set_reachable(!self.cut);
        Some(self.cut)
    }

    pub(crate) async fn picture(&mut self, at: Duration) -> Picture {
        self.look().await;
        let stored = match self.store.snapshot(&self.id).await {
            Ok(Some(snapshot)) => snapshot.view.state.to_string(),
            Ok(None) => "nothing yet".to_owned(),
            Err(_) => "nothing: it is gone".to_owned(),
        };
        Picture {
            at,
            health: self.health.name(),
            stored,
            instances: self.members.iter().map(Member::row).collect(),
            timeline: self.timeline.clone(),
        }
    }

    /// Takes over new transitions.
    async fn look(&mut self) {
        let Ok(events) = self.store.events(&self.id, 100).await else {
            return;
        };
        let fresh: Vec<&Event> = events.iter().rev().filter(|event| !self.seen.contains(event)).collect();
        for event in fresh {
            if self.timeline.len() < TIMELINE {
                let from = event.from.map_or("nothing", |state| state.as_str());
                let by = if event.instance.is_empty() {
                    "the operator"
                } else {
                    &event.instance
                };
                // By the store's clock, which wrote it.
                let seconds = event.at.saturating_sub(self.started) as f64 / 1_000.0;
                let evidence = operator::evidence::words(&event.snapshot);
                self.timeline.push(format!(
                    "{seconds:>5.1}s {from} → {} {} by {by}{evidence}",
                    event.to, event.reason
                ));
            }
        }
        self.seen = events;
    }

    /// Resolves when a part ends by itself, which none should.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        loop {
            let others = self.others.iter_mut().filter(|task| task.is_finished());
            let ended = self.members.iter_mut().filter_map(Member::ended).chain(others).next();
            if let Some(task) = ended {
                return match task.await {
                    Ok(Ok(())) => anyhow::anyhow!("a part ended by itself"),
                    Ok(Err(error)) => error,
                    Err(error) => anyhow::anyhow!("a part failed: {error}"),
                };
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        let _ = self.stop.send_replace(true);
        let all = async {
            for member in &mut self.members {
                member.wait().await;
            }
            for task in self.others.drain(..) {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }
}

/// `--breakers` that say nothing about the service would show nothing.
fn check(path: &std::path::Path) -> anyhow::Result<()> {
    let reading = operator::read(path);
    if let Some(error) = reading.errors.first() {
        anyhow::bail!("--breakers {error}");
    }
    let id = ServiceId::parse(SERVICE)?;
    if !reading.documents.contains_key(&id) {
        anyhow::bail!(
            "--breakers {}: no CircuitBreaker whose service is {SERVICE}",
            path.display()
        );
    }
    Ok(())
}

//! The parts, wired together in one process.

use http::Uri;
use instance::{Instance, RouteSpec};
use operator::file_mode::FileMode;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::StoreOptions;
use tiebar::guard::{Breakers, Guard};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::store::{Event, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use upstream::{FaultProfile, Upstream};

/// The breaker everything here is about.
const SERVICE: &str = "unreliable_service";
/// Its rules, unless `--breakers` says otherwise: those of the walk-through.
const BREAKER: &str = include_str!("../../examples/unreliable-service.yaml");
/// Transitions kept for the summary.
const TIMELINE: usize = 1_000;

pub(crate) struct Settings {
    pub(crate) redis: Option<String>,
    pub(crate) store: StoreOptions,
    pub(crate) instances: u16,
    pub(crate) breakers: Option<PathBuf>,
    pub(crate) port_offset: u16,
    pub(crate) rate: u16,
}

/// What one instance did.
#[derive(Default, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) blocked: u64,
}

/// Everything at one moment.
pub(crate) struct Picture {
    pub(crate) at: Duration,
    pub(crate) sick: bool,
    pub(crate) stored: String,
    pub(crate) instances: Vec<Row>,
    pub(crate) timeline: Vec<String>,
}

struct Member {
    guard: Guard,
    port: u16,
    task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) struct Fleet {
    store: Arc<dyn Store>,
    /// The embedded store, which can be cut off.
    memory: Option<Arc<MemoryStore>>,
    cut: bool,
    id: ServiceId,
    offset: u16,
    rate: u16,
    sick: bool,
    upstream: upstream::Handle,
    members: Vec<Member>,
    others: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: watch::Sender<bool>,
    seen: Vec<Event>,
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

const WELL: FaultProfile = FaultProfile::HEALTHY;

impl Fleet {
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Self> {
        let (store, memory): (Arc<dyn Store>, _) = match &settings.redis {
            Some(url) => {
                let redis = settings.store.open(url).map_err(anyhow::Error::msg)?;
                redis
                    .now()
                    .await
                    .map_err(|error| anyhow::anyhow!("--redis {url}: {error}"))?;
                (Arc::new(redis), None)
            }
            None => {
                let memory = Arc::new(MemoryStore::new());
                (Arc::clone(&memory) as _, Some(memory))
            }
        };
        let id = ServiceId::parse(SERVICE)?;
        let offset = settings.port_offset;
        let (stop, _) = watch::channel(false);
        let address = |port: u16| format!("127.0.0.1:{}", u32::from(port) + u32::from(offset));
        let taken = |what: &str, address: &str, error: &dyn std::fmt::Display| {
            anyhow::anyhow!("cannot listen on {address} for the {what}: {error}; --port-offset N moves every port")
        };

        let upstream_address = address(9_000);
        let upstream = Upstream::bind(&upstream_address, WELL)
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
            Arc::clone(&store),
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

        let mut fleet = Self {
            store,
            memory,
            cut: false,
            id,
            offset,
            rate: settings.rate,
            sick: false,
            upstream: handle,
            members: Vec::new(),
            others,
            stop,
            seen: Vec::new(),
            timeline: Vec::new(),
            _folder: folder,
        };
        for number in 1..=settings.instances {
            let member = fleet.member(8_000 + number).await?;
            fleet.members.push(member);
        }
        // What an earlier run left in a Redis is not part of this one.
        fleet.seen = fleet.store.events(&fleet.id, 100).await.unwrap_or_default();
        fleet.load()?;
        Ok(fleet)
    }

    /// Starts the instance of a port.
    async fn member(&self, port: u16) -> anyhow::Result<Member> {
        let address = |port: u16| format!("127.0.0.1:{}", u32::from(port) + u32::from(self.offset));
        let settings = tiebar::guard::Settings::new(&format!("local:{port}"));
        let breakers = Breakers::new(Arc::clone(&self.store), settings);
        let guard = breakers.guard(&self.id, None);
        let upstream = format!("http://127.0.0.1:{}", u32::from(self.offset) + 9_000);
        let routes = vec![RouteSpec::single(SERVICE, &upstream)];
        let settings = instance::Settings {
            drain_timeout: Duration::from_secs(1),
            ..instance::Settings::new(&address(port), &address(port + 100), routes)
        };
        let instance = Instance::bind(settings, breakers)
            .await
            .map_err(|error| anyhow::anyhow!("{error}; --port-offset N moves every port"))?;
        let task = tokio::spawn(instance.run(stopped(&self.stop)));
        Ok(Member { guard, port, task })
    }

    fn load(&mut self) -> anyhow::Result<()> {
        let targets: Vec<Uri> = self
            .members
            .iter()
            .map(|member| format!("http://127.0.0.1:{}", u32::from(member.port) + u32::from(self.offset)).parse())
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
        let store = if self.memory.is_some() {
            "a store inside this process"
        } else {
            "Redis"
        };
        format!(
            "Tiebar: {} instances share one circuit breaker, kept in {store}.\n  \
             service    http://127.0.0.1:{}\n  \
             instances  http://127.0.0.1:{} …   (what each knows: http://127.0.0.1:{}/breakers)\n  \
             status     http://127.0.0.1:{}/breakers\n\n",
            self.members.len(),
            port(9_000),
            port(8_001),
            port(8_101),
            port(8_081),
        )
    }

    pub(crate) fn set_sick(&mut self, sick: bool) {
        if sick != self.sick {
            self.sick = sick;
            let profile = if sick {
                FaultProfile {
                    error_percent: 100,
                    ..WELL
                }
            } else {
                WELL
            };
            if let Err(error) = self.upstream.set_faults(profile) {
                tracing::error!(%error, "the service keeps its faults");
            }
        }
    }

    /// Ends an instance without a word, as a crash does, and starts it again under the same name.
    pub(crate) async fn kill_and_restart(&mut self) -> String {
        let Some(member) = self.members.first_mut() else {
            return "there is no instance".to_owned();
        };
        member.task.abort();
        let _ = (&mut member.task).await;
        let port = member.port;
        // The port is free once the listener is dropped, which the abort did.
        match self.member(port).await {
            Ok(member) => {
                self.members[0] = member;
                format!("local:{port} was killed and started again: what it probed is given back when its lease ends")
            }
            Err(error) => format!("local:{port} was killed and did not start again: {error}"),
        }
    }

    pub(crate) fn toggle_store(&mut self) -> String {
        let Some(memory) = &self.memory else {
            return "stop the redis-server to cut the store".to_owned();
        };
        self.cut = !self.cut;
        memory.set_reachable(!self.cut);
        if self.cut {
            "the store is cut off: each instance goes on alone"
        } else {
            "the store is back"
        }
        .to_owned()
    }

    pub(crate) async fn picture(&mut self, at: Duration) -> Picture {
        self.look(at).await;
        let instances = self.members.iter().map(|member| {
            let (status, counters) = (member.guard.status(), member.guard.counters());
            let alone = if status.degraded {
                " (alone)"
            } else if status.isolated {
                " (isolated)"
            } else {
                ""
            };
            Row {
                name: format!("local:{}", member.port),
                state: format!("{}{alone}", status.state.as_str()),
                calls: counters.calls[..5].iter().sum(),
                failed: counters.calls[1] + counters.calls[3],
                blocked: counters.calls[5],
            }
        });
        let stored = match self.store.snapshot(&self.id).await {
            Ok(Some(snapshot)) => snapshot.view.state.to_string(),
            Ok(None) => "nothing yet".to_owned(),
            Err(_) => "nothing: it is gone".to_owned(),
        };
        Picture {
            at,
            sick: self.sick,
            stored,
            instances: instances.collect(),
            timeline: self.timeline.clone(),
        }
    }

    /// Takes over new transitions.
    async fn look(&mut self, at: Duration) {
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
                let evidence = if event.snapshot == "{}" { "" } else { &event.snapshot };
                let seconds = at.as_secs_f64();
                self.timeline.push(format!(
                    "{seconds:>5.1}s {from} → {} {} by {by} {evidence}",
                    event.to, event.reason
                ));
            }
        }
        self.seen = events;
    }

    /// Resolves when a part ends by itself, which none should.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        loop {
            let ended = self
                .members
                .iter_mut()
                .map(|member| &mut member.task)
                .chain(self.others.iter_mut())
                .find(|task| task.is_finished());
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

    pub(crate) async fn stop(self) {
        let _ = self.stop.send_replace(true);
        let all = async {
            for task in self.members.into_iter().map(|member| member.task).chain(self.others) {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }
}

//! Everything that a fault can hit: a Redis behind a password, instances on links of their own, operator, dashboard,
//! a circuit that is closed and busy, one that is open for a day, and one that can be tripped at a bad moment.

use crate::binaries::binary;
use crate::fault_link::{FaultLink, Target, Trouble};
use crate::fleet::{Instance, Operator, Upstream, document};
use crate::http_client::{Answer, Metrics, get, try_get};
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::wait::{PATIENCE, eventually, holds};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Nobody listens on port 1 of a machine that runs tests: whoever calls there, fails.
const NOWHERE: &str = "http://127.0.0.1:1";
const SHORT: &str = "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 2s}}";
/// Counts for an hour and never trips.
const COUNTING: &str = "{trip: {failureRateThreshold: 100, minimumNumberOfCalls: 100000, minimumInstances: 1, \
                        slidingWindow: {type: TimeBased, duration: 1h}}}";
/// Open for longer than any run lasts, the long one included.
const LONG: &str = "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 24h}}";

/// The dashboard.
#[derive(Debug)]
pub struct Dashboard {
    /// The process.
    pub process: Process,
    /// `http://HOST:PORT`.
    pub url: String,
}

impl Dashboard {
    /// Starts one.
    pub async fn start(folder: &Path, store: &str, more: &[&str]) -> Self {
        let fixed = ["--listen", "127.0.0.1:0", "--redis", store, "--log-format", "json"];
        let args: Vec<&str> = fixed.iter().chain(more).copied().collect();
        let process = Process::start("dashboard", &binary("tiebar-ui"), folder, &args);
        let url = format!("http://{}", process.listening(None).await);
        Self { process, url }
    }

    /// `/api/v1/breakers`.
    pub async fn list(&self) -> Value {
        let answer = try_get(&format!("{}/api/v1/breakers", self.url)).await;
        answer.map_or(Value::Null, |answer| answer.json())
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::new(get(&format!("{}/metrics", self.url)).await.body)
    }
}

/// What an ensemble is to be like.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How many instances; 0 is taken for 2.
    pub instances: usize,
    /// More of redis-server's arguments.
    pub redis_args: Vec<String>,
    /// Its environment.
    pub redis_environment: Vec<(String, String)>,
    /// Encrypted: the port and, for all that connect, the flags.
    pub tls: Option<(u16, Vec<String>)>,
    /// The instances' environments, from the first on.
    pub instance_environments: Vec<Vec<(String, String)>>,
}

/// Everything, ready.
#[derive(Debug)]
pub struct Ensemble {
    /// The proxies.
    pub instances: Vec<Instance>,
    /// The operator.
    pub operator: Operator,
    /// The dashboard.
    pub dashboard: Dashboard,
    /// The service behind [`Self::WELL`].
    pub upstream: Upstream,
    /// One link an instance.
    pub links: Vec<FaultLink>,
    /// The link of operator and dashboard.
    pub office: FaultLink,
    /// The store.
    pub redis: RedisServer,
    /// A second store, while there is one.
    pub other: Option<RedisServer>,
    /// From the second store to the first, for replication.
    pub replication: Option<FaultLink>,
    /// The file with the password.
    pub password_file: PathBuf,
    /// Where files may be put; gone with the ensemble.
    pub folder: TempDir,
}

impl Ensemble {
    /// The id of the closed, busy circuit.
    pub const WELL: &'static str = "well";
    /// The id of the open circuit.
    pub const SICK: &'static str = "sick";
    /// The id of a closed circuit before a service that is not there.
    pub const LATE: &'static str = "late";

    /// The id of a circuit that counts and never trips.
    pub const COUNTED: &'static str = "counted";

    /// Starts everything, trips [`Self::SICK`] and waits until everybody knows.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let password_file = path.join("password");
        write(&password_file, "first\n");
        let documents = path.join("breakers");
        std::fs::create_dir(&documents).expect("a folder");
        let specs = [
            (Self::WELL, SHORT),
            (Self::SICK, LONG),
            (Self::LATE, LONG),
            (Self::COUNTED, COUNTING),
        ];
        let all: String = specs.iter().map(|(id, spec)| document(id, spec)).collect();
        write(&documents.join("all.yaml"), &all);

        let args: Vec<&str> = settings.redis_args.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> = settings
            .redis_environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let redis = RedisServer::start_with(path, &args, &environment, Some("first")).await;
        let upstream = Upstream::start(path).await;
        let routes = path.join("routes.yaml");
        let mut table = String::new();
        let leads = [
            (Self::WELL, &*upstream.url),
            (Self::COUNTED, &*upstream.url),
            (Self::SICK, NOWHERE),
            (Self::LATE, NOWHERE),
        ];
        for (id, to) in leads {
            let _ = writeln!(table, "- {{service: {id}, upstream: '{to}', pathPrefix: /{id}}}");
        }
        write(&routes, &table);

        let target = match settings.tls {
            Some((port, _)) => Target::Port(port),
            None => Target::Socket(redis.socket()),
        };
        let password = password_file.to_str().expect("a readable name").to_owned();
        let mut more = vec!["--redis-password-file".to_owned(), password];
        more.extend(settings.tls.iter().flat_map(|(_, flags)| flags.clone()));
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let url = |link: &FaultLink| match settings.tls {
            Some(_) => format!("rediss://localhost:{}", link.port()),
            None => link.url(),
        };
        let office = FaultLink::open(target.clone()).await;
        let operator = Operator::start_with(path, &documents, &url(&office), &more).await;
        let dashboard = Dashboard::start(path, &url(&office), &more).await;
        let (mut instances, mut links) = (Vec::new(), Vec::new());
        for number in 1..=settings.instances.max(2) {
            let link = FaultLink::open(target.clone()).await;
            let store = url(&link);
            let flags: Vec<&str> = ["--redis", &store].iter().chain(&more).copied().collect();
            let name = format!("i{number}");
            let environment = settings
                .instance_environments
                .get(number - 1)
                .cloned()
                .unwrap_or_default();
            instances.push(Instance::over(path, &name, &routes, &flags, environment).await);
            links.push(link);
        }
        let ensemble = Self {
            instances,
            operator,
            dashboard,
            upstream,
            links,
            office,
            redis,
            other: None,
            replication: None,
            password_file,
            folder,
        };
        for id in [Self::WELL, Self::LATE, Self::COUNTED, Self::SICK] {
            ensemble.agree(id, "closed").await;
        }
        ensemble.trip(Self::SICK, 0).await;
        ensemble.agree(Self::SICK, "open").await;
        ensemble
    }

    /// One call through one instance.
    pub async fn call(&self, instance: usize, id: &str) -> Answer {
        get(&format!("{}/{id}", self.instances[instance].url)).await
    }

    /// Calls through one instance until its circuit is open.
    ///
    /// # Panics
    /// When it does not open.
    pub async fn trip(&self, id: &str, through: usize) {
        eventually(PATIENCE, &format!("{id} is tripped"), async || {
            let answer = self.call(through, id).await;
            holds(answer.blocked().is_some(), answer.body)
        })
        .await;
    }

    /// The server that takes the writes now.
    #[must_use]
    pub fn primary(&self) -> &RedisServer {
        self.other.as_ref().unwrap_or(&self.redis)
    }

    /// Waits until the store and every instance are in a state, under programmed rules.
    pub async fn agree(&self, id: &str, state: &str) {
        let bound = Duration::from_secs(15);
        eventually(bound, &format!("everybody holds {id} for {state}"), async || {
            let stored = self.primary().get(&key(id, "state")).await;
            holds(stored.as_deref() == Some(state), format!("stored: {stored:?}"))?;
            for instance in &self.instances {
                let known = instance.breaker_of(id).await;
                let ready = known["state"] == state && known["revision"].as_u64() > Some(0);
                holds(
                    ready && known["degraded"] == false,
                    format!("{}: {known}", instance.name),
                )?;
            }
            Ok::<(), String>(())
        })
        .await;
    }

    /// Whether an instance says that it goes on alone: metrics and breakers.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn says(&self, instance: usize, degraded: bool) -> Result<(), String> {
        let instance = &self.instances[instance];
        for id in [Self::WELL, Self::SICK] {
            let known = instance.breaker_of(id).await;
            holds(known["degraded"] == degraded, format!("{}: {known}", instance.name))?;
            let shown = instance
                .metrics()
                .await
                .value("tiebar_store_fallback_active", &[("breaker", id)]);
            let wanted = Some(f64::from(u8::from(degraded)));
            holds(shown == wanted, format!("{}: fallback {shown:?}", instance.name))?;
        }
        Ok(())
    }

    /// Every link, in this condition.
    pub fn all_suffer(&self, trouble: Trouble) {
        for link in self.links.iter().chain([&self.office]) {
            link.suffer(trouble);
        }
    }

    /// Every link, to this server.
    pub fn all_lead_to(&self, server: &RedisServer) {
        for link in self.links.iter().chain([&self.office]) {
            link.lead_to(Target::Socket(server.socket()));
        }
    }
}

/// A key of a breaker.
pub(crate) fn key(id: &str, suffix: &str) -> String {
    format!("cb:{id}:{suffix}")
}

/// Replaces a file in one step.
pub(crate) fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).expect("the folder can be written");
    std::fs::rename(&new, file).expect("the folder can be written");
}

/// Calls through every instance, again and again: those to the closed circuit must succeed, those to the open one must be
/// rejected at once.
#[derive(Debug)]
pub struct Traffic {
    running: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Seen>>,
}

/// What calls saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many there were.
    pub calls: u64,
    /// The slowest.
    pub slowest: Duration,
    /// How long each took.
    pub took: Vec<Duration>,
    /// Those that went otherwise than they must.
    pub wrong: Vec<String>,
}

impl Seen {
    /// The time within which so many of a hundred calls were answered.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        let place = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(place).copied().unwrap_or_default()
    }
}

impl Traffic {
    /// Starts it.
    #[must_use]
    pub fn start(ensemble: &Ensemble) -> Self {
        Self::to(ensemble, &[(Ensemble::WELL, 200), (Ensemble::SICK, 503)])
    }

    /// Starts calls to the open circuit alone.
    #[must_use]
    pub fn to_the_open(ensemble: &Ensemble) -> Self {
        Self::to(ensemble, &[(Ensemble::SICK, 503)])
    }

    fn to(ensemble: &Ensemble, services: &[(&str, u16)]) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let mut tasks = Vec::new();
        for instance in &ensemble.instances {
            for (id, status) in services {
                let (running, url) = (Arc::clone(&running), format!("{}/{id}", instance.url));
                tasks.push(tokio::spawn(stream_of_calls(running, url, *status)));
            }
        }
        Self { running, tasks }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When a call was never answered.
    pub async fn stop(self) -> Seen {
        self.running.store(false, Ordering::Relaxed);
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await.expect("every call is answered");
            all.calls += seen.calls;
            all.slowest = all.slowest.max(seen.slowest);
            all.took.extend(seen.took);
            all.wrong.extend(seen.wrong);
        }
        all
    }
}

async fn stream_of_calls(running: Arc<AtomicBool>, url: String, status: u16) -> Seen {
    let mut seen = Seen::default();
    while running.load(Ordering::Relaxed) {
        match try_get(&url).await {
            Ok(answer) => {
                // What is rejected for another reason than being open has hit the store's absence, or leaked.
                let reason = answer.blocked();
                let right = answer.status == status
                    && (status == 200 || matches!(reason.as_deref(), Some("open" | "isolated")));
                if !right {
                    seen.wrong.push(format!("{url}: {} {}", answer.status, answer.body));
                }
                seen.slowest = seen.slowest.max(answer.took);
                seen.took.push(answer.took);
            }
            Err(error) => seen.wrong.push(error),
        }
        seen.calls += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen
}

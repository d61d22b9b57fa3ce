//! A whole Tiebar: redis-server, unreliable service, operator, instances, each a process.

use crate::binaries::binary;
use crate::http_client::{Answer, Metrics, get, send, try_get};
use crate::process::Process;
use crate::redis_server::{self, RedisServer};
use crate::wait::{PATIENCE, eventually, holds};
use http::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The breaker under test.
const SERVICE: &str = "unreliable_service";

/// Three failures in a row open it for two seconds, and one instance's word suffices.
pub const WALK_THROUGH: &str = "{trip: {consecutiveFailures: 3, minimumInstances: 1}, open: {duration: 2s}, \
                                halfOpen: {permittedCalls: 3, maxDuration: 10s}}";

/// A `CircuitBreaker` document; `spec` is inline YAML.
#[must_use]
pub fn document(service: &str, spec: &str) -> String {
    let name = service.replace('_', "-");
    let spec = format!("{{serviceName: {service}, {}", spec.trim_start_matches('{'));
    format!("---\napiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The unreliable service.
#[derive(Debug)]
pub struct Upstream {
    /// The process.
    pub process: Process,
    /// `http://HOST:PORT`.
    pub url: String,
}

impl Upstream {
    /// Starts one that does well.
    pub async fn start(folder: &Path) -> Self {
        let args = [
            "--listen",
            "127.0.0.1:0",
            "--error-percent",
            "0",
            "--log-format",
            "json",
        ];
        let process = Process::start("upstream", &binary("tiebar-upstream"), folder, &args);
        let url = format!("http://{}", process.listening(None).await);
        Self { process, url }
    }

    /// Replaces the fault profile; absent fields are 0.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn faults(&self, profile: &str) {
        let answer = send(Method::PUT, &format!("{}/_faults", self.url), profile).await;
        let answer = answer.expect("the service answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Every answer is a 500.
    pub async fn fail(&self) {
        self.faults(r#"{"errorPercent": 100}"#).await;
    }

    /// Every answer is a 200.
    pub async fn heal(&self) {
        self.faults("{}").await;
    }

    /// `/_stats`.
    pub async fn stats(&self) -> Value {
        get(&format!("{}/_stats", self.url)).await.json()
    }

    /// Requests since the last [`Self::forget`].
    pub async fn requests(&self) -> u64 {
        self.stats().await["requests"].as_u64().expect("a count")
    }

    /// Counts from zero.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn forget(&self) {
        let answer = send(Method::DELETE, &format!("{}/_stats", self.url), "").await;
        answer.expect("the service answers");
    }
}

/// One proxy.
#[derive(Debug)]
pub struct Instance {
    /// The process.
    pub process: Process,
    /// Its name in the fleet.
    pub name: String,
    /// `http://HOST:PORT` of the traffic port.
    pub url: String,
    /// `http://HOST:PORT` of the admin port.
    pub admin: String,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
}

impl Instance {
    /// Starts one. `store` is the address of a Redis, there or not.
    pub async fn start(folder: &Path, name: &str, store: &str, upstream: &str, more: &[&str]) -> Self {
        let fixed = [
            "--service",
            SERVICE,
            "--upstream",
            upstream,
            "--redis",
            store,
            "--instance-id",
            name,
        ];
        Self::launch(folder, name, &[&fixed, more].concat(), Vec::new()).await
    }

    /// Starts one over a file of routes, in an environment.
    pub async fn over(
        folder: &Path,
        name: &str,
        routes: &Path,
        more: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let routes = routes.to_str().expect("a temporary folder has a readable name");
        let fixed = ["--routes", routes, "--instance-id", name];
        Self::launch(folder, name, &[&fixed, more].concat(), environment).await
    }

    /// On ports that are free.
    async fn launch(folder: &Path, name: &str, args: &[&str], environment: Vec<(String, String)>) -> Self {
        let free = [
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ];
        let args: Vec<String> = free.iter().chain(args).map(ToString::to_string).collect();
        let (process, url, admin) = launch(folder, name, &args, &environment).await;
        Self {
            process,
            name: name.to_owned(),
            url,
            admin,
            args,
            environment,
            folder: folder.to_owned(),
        }
    }

    /// Starts it again under the same name, on other ports.
    pub async fn start_again(&mut self) {
        (self.process, self.url, self.admin) = launch(&self.folder, &self.name, &self.args, &self.environment).await;
    }

    /// One call through it.
    pub async fn call(&self) -> Answer {
        get(&self.url).await
    }

    /// What it knows about the breaker; null while it does not answer.
    pub async fn breaker(&self) -> Value {
        let answer = try_get(&format!("{}/breakers", self.admin)).await;
        answer.map_or(Value::Null, |answer| answer.json()["items"][0].clone())
    }

    /// What it knows about one breaker of several; null while it does not answer, or has none.
    pub async fn breaker_of(&self, id: &str) -> Value {
        let answer = try_get(&format!("{}/breakers", self.admin)).await;
        let all = answer.map_or(Value::Null, |answer| answer.json());
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let item = items.into_iter().find(|item| item["id"] == id);
        item.unwrap_or(Value::Null)
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::new(get(&format!("{}/metrics", self.admin)).await.body)
    }
}

async fn launch(
    folder: &Path,
    name: &str,
    args: &[String],
    environment: &[(String, String)],
) -> (Process, String, String) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let process = Process::start_in(name, &binary("tiebar-instance"), folder, &args, environment);
    let url = format!("http://{}", process.listening(Some("traffic")).await);
    let admin = format!("http://{}", process.listening(Some("admin")).await);
    (process, url, admin)
}

/// The operator over a folder of documents.
#[derive(Debug)]
pub struct Operator {
    /// The process.
    pub process: Process,
    /// `http://HOST:PORT`.
    pub url: String,
    /// The folder it watches.
    pub documents: PathBuf,
}

impl Operator {
    /// Starts one over a folder.
    pub async fn start(folder: &Path, documents: &Path, store: &str) -> Self {
        Self::start_with(folder, documents, store, &[]).await
    }

    /// Starts one with more arguments.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(folder: &Path, documents: &Path, store: &str, more: &[&str]) -> Self {
        let path = documents.to_str().expect("a temporary folder has a readable name");
        let args = [
            "--breakers",
            path,
            "--redis",
            store,
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let process = Process::start("operator", &binary("tiebar-operator"), folder, &args);
        let url = format!("http://{}", process.listening(None).await);
        Self {
            process,
            url,
            documents: documents.to_owned(),
        }
    }

    /// Writes a document.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, file: &str, text: &str) {
        // Renamed into place: the operator never reads half a file.
        let new = self.documents.join("new");
        std::fs::write(&new, text).expect("the folder can be written");
        std::fs::rename(&new, self.documents.join(file)).expect("the folder can be written");
    }

    /// Removes a document.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.documents.join(file)).expect("the file is there");
    }

    /// `GET /breakers`.
    pub async fn report(&self) -> Value {
        get(&format!("{}/breakers", self.url)).await.json()
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::new(get(&format!("{}/metrics", self.url)).await.body)
    }

    /// The status of a breaker; null when it has none.
    pub async fn status(&self, id: &str) -> Value {
        let report = self.report().await;
        let items = report["items"].as_array().cloned().unwrap_or_default();
        let item = items.into_iter().find(|item| item["id"] == id);
        item.map_or(Value::Null, |item| item["status"].clone())
    }
}

/// Everything, ready.
#[derive(Debug)]
pub struct Fleet {
    /// The proxies.
    pub instances: Vec<Instance>,
    /// The operator.
    pub operator: Operator,
    /// The service.
    pub upstream: Upstream,
    /// The store.
    pub redis: RedisServer,
    /// Where files may be put; gone with the fleet.
    pub folder: TempDir,
}

/// What a fleet is to be like.
#[derive(Debug, Clone)]
pub struct FleetBuilder {
    spec: String,
    instances: usize,
}

impl FleetBuilder {
    /// How many proxies; default 3.
    #[must_use]
    pub fn instances(mut self, count: usize) -> Self {
        self.instances = count;
        self
    }

    /// Starts everything and waits until every proxy is closed under the programmed rules.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn start(self) -> Fleet {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, store) = (folder.path(), redis_server::url(folder.path()));
        let documents = path.join("breakers");
        std::fs::create_dir(&documents).expect("a folder");
        std::fs::write(documents.join("a.yaml"), document(SERVICE, &self.spec)).expect("a file");
        let redis = RedisServer::start(path).await;
        let upstream = Upstream::start(path).await;
        let operator = Operator::start(path, &documents, &store).await;
        let mut instances = Vec::new();
        for number in 1..=self.instances {
            instances.push(Instance::start(path, &format!("i{number}"), &store, &upstream.url, &[]).await);
        }
        let fleet = Fleet {
            instances,
            operator,
            upstream,
            redis,
            folder,
        };
        fleet.agrees("closed").await;
        fleet
    }
}

impl Fleet {
    /// The breaker's id.
    pub const ID: &'static str = SERVICE;

    /// Three proxies under this spec, inline YAML.
    #[must_use]
    pub fn with(spec: &str) -> FleetBuilder {
        FleetBuilder {
            spec: spec.to_owned(),
            instances: 3,
        }
    }

    /// Waits until the store and every proxy are in a state, under programmed rules.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn agrees(&self, state: &str) {
        eventually(PATIENCE, &format!("everybody is {state}"), async || {
            let stored = self.redis.get(&Self::key("state")).await;
            holds(stored.as_deref() == Some(state), format!("stored: {stored:?}"))?;
            for instance in &self.instances {
                let known = instance.breaker().await;
                let ready = known["state"] == state && known["revision"].as_u64() > Some(0);
                holds(ready, format!("{}: {known}", instance.name))?;
            }
            Ok::<(), String>(())
        })
        .await;
    }

    /// A key of the breaker.
    #[must_use]
    pub fn key(suffix: &str) -> String {
        format!("cb:{SERVICE}:{suffix}")
    }

    /// Makes the service fail and calls through one proxy until its circuit is open; the number of failures the store
    /// judged by. The number of calls may be larger: one waits at most 20 ms for the store's word on those before it.
    ///
    /// # Panics
    /// When it does not open.
    pub async fn trip(&self, through: usize) -> u64 {
        self.upstream.fail().await;
        for _ in 0..1_000 {
            if self.instances[through].call().await.blocked().is_some() {
                let failures = self.redis.get(&Self::key("failures")).await;
                return failures.and_then(|count| count.parse().ok()).expect("a count");
            }
        }
        panic!("1,000 failures opened nothing");
    }

    /// Calls at once, `each` through every proxy; the answers with the proxy's index.
    pub async fn storm(&self, each: usize) -> Vec<(usize, Answer)> {
        let calls = (0..self.instances.len() * each).map(|call| {
            let instance = call % self.instances.len();
            let url = self.instances[instance].url.clone();
            tokio::spawn(async move { (instance, get(&url).await) })
        });
        let calls: Vec<_> = calls.collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("every call is answered"));
        }
        answers
    }
}

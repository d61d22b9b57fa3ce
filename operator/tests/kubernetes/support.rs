//! A cluster, a Redis and operators as processes.

use crds::testing::{ApiServer, Said, Settings, wait_for};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;
use tiebar::redis::{KeyStyle, Keys, RedisSettings, RedisStore};
use tiebar::state::{Kind, State};
use tiebar::store::{Batch, Exchange, Outcome, Reply, Store as _};

/// The operator's, in Redis.
const PASSWORD: &str = "secret";

/// A redis-server of one's own, on a free port, gone with the value.
pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Redis {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let mut redis = Self {
            child: None,
            port,
            folder: tempfile::tempdir().expect("a folder"),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        };
        // The tests may do everything, operators what `acl` prints for them.
        let roles = operator::acl(&Keys::new("cb:", KeyStyle::Plain)).replace("PASSWORD", PASSWORD);
        let role = roles.lines().find(|line| line.starts_with("user tiebar-operator "));
        let users = format!("user default on nopass ~* &* +@all\n{}\n", role.expect("a role"));
        std::fs::write(redis.folder.path().join("users.acl"), users).expect("users");
        redis.resume();
        redis
    }

    pub(crate) fn resume(&mut self) {
        let child = Command::new("redis-server")
            .arg("--aclfile")
            .arg(self.folder.path().join("users.acl"))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server"));
        wait_for("redis-server", Duration::from_secs(30), || {
            self.cli(&["PING"]).contains("PONG") || self.cli(&["PING"]).contains("NOAUTH")
        });
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// For operators, with no more rights than they need.
    pub(crate) fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// The same, by way of somebody else's port.
    pub(crate) fn url_through(&self, port: u16) -> String {
        format!("redis://tiebar-operator:{PASSWORD}@127.0.0.1:{port}")
    }

    /// Fails if anybody asked for what is not theirs.
    pub(crate) fn nothing_was_denied(&self) {
        assert_eq!(self.cli(&["ACL", "LOG"]), "");
    }

    /// Commands it has carried out so far.
    pub(crate) fn commands(&self) -> u64 {
        let info = self.cli(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Every command from now on.
    pub(crate) fn monitor(&self) -> Monitor {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let output = file.reopen().expect("a file");
        let child = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "MONITOR"])
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
            .expect("redis-cli");
        let monitor = Monitor { child, file };
        wait_for("MONITOR", SOON, || monitor.text().starts_with("OK"));
        monitor
    }

    pub(crate) fn store(&self) -> RedisStore {
        let settings = RedisSettings::new(&format!("redis://127.0.0.1:{}", self.port));
        RedisStore::new(settings).expect("an address")
    }

    /// The keys of one breaker.
    pub(crate) fn keys_of(&self, id: &str) -> Vec<String> {
        let listed = self.cli(&["KEYS", &format!("cb:{id}:*")]);
        let mut keys: Vec<String> = listed
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What Redis is asked, as it says so itself.
pub(crate) struct Monitor {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Monitor {
    fn text(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap_or_default()
    }

    /// The terms under which configurations were written, one for each write, in order: the function signs what it changes,
    /// and nothing else.
    pub(crate) fn terms(&self) -> Vec<u64> {
        let text = self.text();
        let signatures = text
            .lines()
            .filter(|line| line.contains(" lua] \"HSET\"") && line.contains("\"owner\""));
        signatures
            .filter_map(|line| line.split("\"transitions\" \"").nth(1)?.split('"').next()?.parse().ok())
            .collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An operator as a process of its own, running as its service account.
pub(crate) struct Operator {
    child: Child,
    pub(crate) address: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Operator {
    pub(crate) fn start(kubeconfig: &Path, redis: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tiebar-operator"))
            .args(["--redis", redis, "--listen", "127.0.0.1:0", "--log-level", "info"])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the operator");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().expect("a log").push(line);
            }
        });
        let mut operator = Self {
            child,
            address: String::new(),
            log,
        };
        let begun = Instant::now();
        while operator.address.is_empty() {
            let line = operator.log().into_iter().find(|line| line.contains("listening"));
            if let Some(address) = line.and_then(|line| line.split("addr=").nth(1).map(str::to_owned)) {
                operator.address = address.split_whitespace().next().unwrap_or_default().to_owned();
            }
            let ended = operator.child.try_wait().expect("a process");
            assert!(ended.is_none(), "the operator ended: {:?}", operator.log());
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", operator.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        operator
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("a log").clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a process").is_none()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.id().to_string()]).status();
        assert!(status.expect("kill").success(), "kill {name}");
    }

    /// Stops it in its tracks: it keeps its memory, its connections, and what it was about to do.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().expect("a process").code()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.address).expect("its port");
        let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// The value of a metric by the beginning of its line.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let found = text.lines().find(|candidate| candidate.starts_with(line));
        found
            .and_then(|found| found.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!(
                "the operator's last lines:\n{}",
                log[log.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

enum Server {
    Shared(&'static ApiServer),
    Own(Box<ApiServer>),
}

/// A namespace with the operator's service account, and breakers.
pub(crate) struct Place {
    server: Server,
    pub(crate) namespace: String,
    pub(crate) account: PathBuf,
}

impl Place {
    /// A namespace of the API server that all tests share.
    pub(crate) fn new(namespace: &str) -> Self {
        Self::on(Server::Shared(ApiServer::shared()), namespace)
    }

    /// A namespace of an API server of its own.
    pub(crate) fn own(namespace: &str, settings: Settings) -> Self {
        let server = ApiServer::start(settings);
        server.install();
        Self::on(Server::Own(Box::new(server)), namespace)
    }

    fn on(server: Server, namespace: &str) -> Self {
        let mut place = Self {
            server,
            namespace: namespace.to_owned(),
            account: PathBuf::new(),
        };
        let server = place.server();
        server.namespace(namespace);
        place.grant(include_str!("../../rbac.yaml"), &["-n", namespace]);
        place.account = place.new_account("tiebar-operator");
        place
    }

    fn grant(&self, text: &str, arguments: &[&str]) {
        // Server-side: tests that begin together all make the same cluster role.
        let arguments = [&["apply", "--server-side", "-f", "-"], arguments].concat();
        let _ = self.server().kubectl_input(&arguments, text).expect_ok("rights");
    }

    /// A service account with the operator's rights; its kubeconfig.
    pub(crate) fn new_account(&self, name: &str) -> PathBuf {
        let (server, namespace) = (self.server(), &*self.namespace);
        let subject = format!("subjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]");
        let rbac = "apiVersion: rbac.authorization.k8s.io/v1";
        let role = "roleRef: {apiGroup: rbac.authorization.k8s.io, name: tiebar-operator, kind:";
        self.grant(
            &format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n\
                 {rbac}\nkind: ClusterRoleBinding\nmetadata: {{name: {namespace}-{name}}}\n{role} ClusterRole}}\n{subject}\n---\n\
                 {rbac}\nkind: RoleBinding\nmetadata: {{name: {name}, namespace: {namespace}}}\n{role} Role}}\n{subject}\n"
            ),
            &[],
        );
        let arguments = ["create", "token", name, "-n", namespace, "--duration", "2h"];
        let token = server.kubectl(&arguments).expect_ok("a token");
        let account = server.kubeconfig_with(&format!("{namespace}-{name}"), token.trim());
        // The operator's own namespace, which in a pod it reads beside its token.
        let text = std::fs::read_to_string(&account).expect("a kubeconfig");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["contexts"][0]["context"]["namespace"] = namespace.into();
        std::fs::write(&account, config.to_string()).expect("a kubeconfig");
        account
    }

    /// What a service account of this namespace asked the API server for, in the order of arrival.
    pub(crate) fn requests(&self, account: &str) -> Vec<Value> {
        let user = format!("system:serviceaccount:{}:{account}", self.namespace);
        let mut requests = self.server().audit();
        requests.retain(|request| request["user"]["username"] == *user);
        requests.sort_by_key(|request| request["requestReceivedTimestamp"].as_str().map(str::to_owned));
        requests
    }

    pub(crate) fn server(&self) -> &ApiServer {
        match &self.server {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }

    /// The API server, when nobody else uses it.
    pub(crate) fn server_mut(&mut self) -> &mut ApiServer {
        match &mut self.server {
            Server::Shared(_) => panic!("shared"),
            Server::Own(server) => server,
        }
    }

    /// An operator for this namespace.
    pub(crate) fn operator(&self, redis: &Redis, arguments: &[&str]) -> Operator {
        let arguments = [&["--namespace", &self.namespace], arguments].concat();
        Operator::start(&self.account, &redis.url(), &arguments)
    }

    /// `NAMESPACE/NAME`.
    pub(crate) fn id(&self, name: &str) -> ServiceId {
        ServiceId::parse(&format!("{}/{name}", self.namespace)).expect("an id")
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Said {
        let arguments = [&["-n", &self.namespace], arguments].concat();
        self.server().kubectl(&arguments)
    }

    /// Applies breakers `b0`, `b1` …, all with one specification.
    pub(crate) fn apply_all(&self, count: usize, spec: &str) {
        let namespace = &self.namespace;
        let text: Vec<String> = (0..count)
            .map(|number| {
                format!(
                    "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\n\
                     metadata: {{name: b{number}, namespace: {namespace}}}\nspec: {spec}\n"
                )
            })
            .collect();
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let _ = self
            .server()
            .kubectl_input(&arguments, &text.join("---\n"))
            .expect_ok("apply");
    }

    /// Applies a breaker.
    pub(crate) fn apply(&self, name: &str, spec: &str) {
        self.apply_with(name, "", spec);
    }

    /// Applies a breaker with annotations, as `a: b, c: d`.
    pub(crate) fn apply_with(&self, name: &str, annotations: &str, spec: &str) {
        let namespace = &self.namespace;
        let text = format!(
            "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\n\
             metadata: {{name: {name}, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {spec}\n"
        );
        let _ = self
            .server()
            .kubectl_input(&["apply", "-f", "-"], &text)
            .expect_ok("apply");
    }

    pub(crate) fn delete(&self, name: &str) {
        let _ = self
            .kubectl(&["delete", "cb", name, "--wait=true", "--timeout=30s"])
            .expect_ok("delete");
    }

    /// A breaker as it is, or null.
    pub(crate) fn get(&self, name: &str) -> Value {
        let said = self.kubectl(&["get", "cb", name, "-o", "json"]);
        serde_json::from_str(&said.out).unwrap_or_default()
    }

    /// Waits until a breaker's status is as it should be, and says how long that took.
    pub(crate) fn until(&self, name: &str, what: &str, within: Duration, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.get(name)["status"].clone();
            if is_so(&status) {
                println!("{}/{name}: {what} after {:?}", self.namespace, begun.elapsed());
                return status;
            }
            assert!(
                begun.elapsed() < within,
                "{name}: {what}: not within {within:?}: {status:#}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn until_ready(&self, name: &str) -> Value {
        self.until(name, "Ready", SOON, |status| holds(status, "Ready"))
    }

    /// The reasons of the events about a breaker.
    pub(crate) fn events(&self, name: &str) -> Vec<String> {
        let said = self.kubectl(&["get", "events.events.k8s.io", "-o", "json"]);
        let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter(|item| item["regarding"]["name"] == name)
            .map(|item| item["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// Long enough for anything on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// An instance without a process: outcomes straight into the store.
pub(crate) struct Caller {
    pub(crate) store: RedisStore,
    id: ServiceId,
    batch: u64,
}

impl Caller {
    pub(crate) fn new(redis: &Redis, id: ServiceId) -> Self {
        Self {
            store: redis.store(),
            id,
            batch: 0,
        }
    }

    async fn exchange(&mut self, batch: Option<Batch>) -> Reply {
        let request = Exchange {
            instance: "orders-1".to_owned(),
            boot: "boot".to_owned(),
            seed: true,
            batch,
            ..Exchange::default()
        };
        self.store.exchange(&self.id, &request).await.expect("an exchange")
    }

    /// The generation now.
    pub(crate) async fn generation(&mut self) -> u64 {
        let reply = self.exchange(None).await;
        reply.view.expect("a state").generation
    }

    /// Fails so often; the state then.
    pub(crate) async fn fail(&mut self, times: usize) -> State {
        let generation = self.generation().await;
        self.batch += 1;
        let failure = Outcome {
            kind: Kind::Failure,
            cause: 0,
        };
        let batch = Batch {
            number: self.batch,
            generation,
            outcomes: vec![failure; times],
            causes: vec!["503".to_owned()],
            ..Batch::default()
        };
        self.exchange(Some(batch)).await.view.expect("a state").state
    }
}

/// Status and reason of a condition.
pub(crate) fn condition(status: &Value, kind: &str) -> (String, String) {
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = list
        .iter()
        .find(|condition| condition["type"] == kind)
        .cloned()
        .unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Whether a condition is true.
pub(crate) fn holds(status: &Value, kind: &str) -> bool {
    condition(status, kind).0 == "True"
}

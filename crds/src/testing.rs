//! A real API server for tests: etcd and kube-apiserver in a temporary folder, on free ports, RBAC on.
//!
//! Start-up takes seconds, so the tests of one binary share one ([`ApiServer::shared`]) and keep apart by namespaces.
//! The `envtest` crate was rejected: it compiles Go into the test binary and lags behind kube. The API server makes its own
//! certificate and signing key, so nothing here does.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with other tests too.
const START: Duration = Duration::from_secs(120);
/// The user that may do everything.
const ADMIN: &str = "admin";
const CONTROLLERS: &str = "system:kube-controller-manager";
/// What service accounts ask for is written down, once it is answered.
const AUDIT: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}"#;

/// Asks until the answer is yes.
///
/// # Panics
/// When it is not within the bound.
pub fn wait_for(what: &str, within: Duration, mut ask: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ask() {
        assert!(begun.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A child that ends with this value, and with this process however that ends.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    /// The end of its input is its signal; a line tells it that all is done.
    watchdog: Child,
    log: PathBuf,
}

impl Process {
    /// `folder` goes too when this process dies without cleaning up: a test binary drops no statics.
    fn start(name: &'static str, command: &mut Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).expect("a log file");
        let errors = output.try_clone().expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _ || { kill -9 \"$0\"; sleep 1; rm -rf \"$1\"; }"])
            .arg(child.id().to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self {
            name,
            child,
            watchdog: watchdog.expect("a shell"),
            log,
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{} says:\n{}", self.name, lines.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mut input) = self.watchdog.stdin.take() {
            let _ = input.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// The output of a command that must not fail.
    ///
    /// # Panics
    /// When it did.
    #[must_use]
    pub fn expect_ok(self, what: &str) -> String {
        assert!(self.ok, "{what}: {}{}", self.out, self.err);
        self.out
    }
}

/// How to start.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Further flags of kube-apiserver.
    pub api_flags: Vec<String>,
    /// Also run kube-controller-manager: service accounts, garbage collection, the end of a namespace.
    pub controllers: bool,
    /// Keep an audit log of what service accounts ask for.
    pub audit: bool,
}

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    // In the order in which they are to end.
    controllers: Option<Process>,
    api: Option<Process>,
    etcd: Process,
    settings: Settings,
    bin: PathBuf,
    etcd_port: u16,
    port: u16,
    folder: tempfile::TempDir,
}

/// The folder of Kubernetes' programs; they are built when they are not there yet, or taken from `KUBEBUILDER_ASSETS`.
fn programs() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/kubernetes/build");
    let output = Command::new(script).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(output.status.success(), "{script} failed; see above");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn random_token() -> String {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").expect("/dev/urandom");
    source.read_exact(&mut bytes).expect("random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ApiServer {
    /// The one that the tests of this binary share, with the `CircuitBreaker` resource installed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(|| {
            let server = Self::start(Settings {
                audit: true,
                ..Settings::default()
            });
            server.install();
            server
        })
    }

    /// Starts one of its own.
    ///
    /// # Panics
    /// With the logs, when it does not come up.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let bin = programs();
        let folder = tempfile::Builder::new()
            .prefix("tiebar-api")
            .tempdir()
            .expect("a folder");
        let mut etcd = Process::start(
            "etcd",
            Command::new(bin.join("etcd"))
                .arg("--data-dir")
                .arg(folder.path().join("etcd"))
                .args(["--unsafe-no-fsync", "--enable-grpc-gateway=false"])
                .args(["--listen-client-urls", "http://127.0.0.1:0"])
                .args(["--advertise-client-urls", "http://127.0.0.1:0"])
                .args(["--listen-peer-urls", "http://127.0.0.1:0"])
                .args(["--initial-advertise-peer-urls", "http://127.0.0.1:0"])
                .args(["--initial-cluster", "default=http://127.0.0.1:0"]),
            folder.path(),
        );
        let mut etcd_port = 0;
        wait_for("etcd", START, || {
            assert!(!etcd.has_ended(), "etcd ended. {}", etcd.log());
            etcd_port = listening(&etcd.log).unwrap_or(0);
            etcd_port > 0
        });
        let token = |user: &str, group: &str| format!("{},{user},{user},\"{group}\"\n", random_token());
        let tokens = token(ADMIN, "system:masters") + &token(CONTROLLERS, "system:authenticated");
        fs::write(folder.path().join("tokens.csv"), tokens).expect("tokens");
        fs::write(folder.path().join("audit.json"), AUDIT).expect("a policy");
        let mut server = Self {
            controllers: None,
            api: None,
            etcd,
            settings,
            bin,
            etcd_port,
            port: 0,
            folder,
        };
        // A free port may be taken by somebody else before the API server has it.
        for _ in 0..5 {
            server.port = free_port();
            if server.start_api() {
                if server.settings.controllers {
                    server.start_controllers();
                }
                return server;
            }
        }
        panic!("kube-apiserver does not start. {}", server.logs());
    }

    /// Stops the API server (and nothing else) until [`ApiServer::resume`].
    pub fn stop(&mut self) {
        self.api = None;
    }

    /// Starts the API server again, where it was, with the data it had.
    ///
    /// # Panics
    /// With the logs, when it does not come up.
    pub fn resume(&mut self) {
        assert!(self.start_api(), "kube-apiserver does not start again. {}", self.logs());
    }

    /// False when it ended, as it does when its port is taken.
    fn start_api(&mut self) -> bool {
        let path = |name: &str| self.folder.path().join(name);
        let mut audit = Vec::new();
        if self.settings.audit {
            audit.push(format!("--audit-policy-file={}", path("audit.json").display()));
            audit.push(format!("--audit-log-path={}", path("audit.log").display()));
        }
        let mut api = Process::start(
            "kube-apiserver",
            Command::new(self.bin.join("kube-apiserver"))
                .arg("--etcd-servers")
                .arg(format!("http://127.0.0.1:{}", self.etcd_port))
                .args(["--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1"])
                .args(["--secure-port", &self.port.to_string()])
                .arg("--cert-dir")
                .arg(path("certificates"))
                .arg("--token-auth-file")
                .arg(path("tokens.csv"))
                .args(["--service-account-issuer", "https://kubernetes.default.svc"])
                .arg("--service-account-key-file")
                .arg(path("certificates/apiserver.key"))
                .arg("--service-account-signing-key-file")
                .arg(path("certificates/apiserver.key"))
                .args([
                    "--service-cluster-ip-range",
                    "10.0.0.0/24",
                    "--authorization-mode",
                    "RBAC",
                ])
                .args(audit)
                .args(&self.settings.api_flags),
            self.folder.path(),
        );
        self.write_kubeconfigs();
        let mut ended = false;
        wait_for("kube-apiserver", START, || {
            ended = api.has_ended();
            ended || self.kubectl(&["get", "--raw", "/readyz"]).ok
        });
        self.api = Some(api);
        !ended
    }

    fn start_controllers(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        self.controllers = Some(Process::start(
            "kube-controller-manager",
            Command::new(self.bin.join("kube-controller-manager"))
                .arg("--kubeconfig")
                .arg(self.kubeconfig_of(CONTROLLERS))
                .args([
                    "--leader-elect=false",
                    "--secure-port=0",
                    "--use-service-account-credentials",
                ])
                .arg("--root-ca-file")
                .arg(path("certificates/apiserver.crt"))
                .arg("--service-account-private-key-file")
                .arg(path("certificates/apiserver.key")),
            self.folder.path(),
        ));
        wait_for("the default service account", START, || {
            self.kubectl(&["get", "serviceaccount", "default"]).ok
        });
    }

    fn write_kubeconfigs(&self) {
        let tokens = fs::read_to_string(self.folder.path().join("tokens.csv")).expect("tokens");
        for line in tokens.lines() {
            let mut fields = line.split(',');
            if let (Some(token), Some(user)) = (fields.next(), fields.next()) {
                self.kubeconfig_with(user, token);
            }
        }
    }

    fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.folder
            .path()
            .join(format!("{}.kubeconfig", user.replace(':', "-")))
    }

    /// Writes a kubeconfig for a token, as `kubectl create token` gives for a service account; `user` names the file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn kubeconfig_with(&self, user: &str, token: &str) -> PathBuf {
        let certificate = self.folder.path().join("certificates/apiserver.crt");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url(), "certificate-authority": certificate}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        });
        let path = self.kubeconfig_of(user);
        fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// A kubeconfig of a user who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(ADMIN)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A folder that goes with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The audit log so far: each request of a service account, in the order of the answers.
    #[must_use]
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The last lines of every log.
    #[must_use]
    pub fn logs(&self) -> String {
        let all = [Some(&self.etcd), self.api.as_ref(), self.controllers.as_ref()];
        let all: Vec<String> = all.into_iter().flatten().map(Process::log).collect();
        all.join("\n")
    }

    /// Runs kubectl as admin.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        self.kubectl_with(&self.kubeconfig(), arguments, "")
    }

    /// Runs kubectl as admin with a standard input, for `-f -`.
    #[must_use]
    pub fn kubectl_input(&self, arguments: &[&str], input: &str) -> Said {
        self.kubectl_with(&self.kubeconfig(), arguments, input)
    }

    /// Runs kubectl as whom a kubeconfig says.
    ///
    /// # Panics
    /// When kubectl cannot be run.
    #[must_use]
    pub fn kubectl_with(&self, kubeconfig: &Path, arguments: &[&str], input: &str) -> Said {
        let mut child = Command::new(self.bin.join("kubectl"))
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            // Its discovery cache is kept per address, and addresses come again.
            .env("HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        // Beside reading: neither pipe may fill up while the other is waited for.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("kubectl");
        let _ = writer.join();
        Said {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Installs the `CircuitBreaker` resource and waits until it is served.
    ///
    /// # Panics
    /// When the API server does not take it.
    pub fn install(&self) {
        let definition = crate::yaml();
        let said = self.kubectl_input(&["apply", "--server-side", "-f", "-"], &definition);
        let _ = said.expect_ok("the definition");
        wait_for("CircuitBreakers", START, || {
            self.kubectl(&["get", "circuitbreakers", "--all-namespaces"]).ok
        });
    }

    /// Makes a namespace.
    ///
    /// # Panics
    /// When it is there already.
    pub fn namespace(&self, name: &str) {
        let _ = self.kubectl(&["create", "namespace", name]).expect_ok("a namespace");
    }
}

/// The port in etcd's log, once it serves.
fn listening(log: &Path) -> Option<u16> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().find(|line| line.contains("serving client traffic"))?;
    let address = line.split("\"address\":\"").nth(1)?.split('"').next()?;
    address.rsplit(':').next()?.parse().ok()
}

//! A process under test: started, watched, signalled and ended by its own id.

use crate::wait::{PATIENCE, eventually};
pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Lines shown of each process when a test fails.
const SHOWN: usize = 40;

/// One running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    lines: Arc<Mutex<Vec<String>>>,
}

/// What a process that ended left.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Process {
    /// Starts a program in a folder. Its environment holds nothing of ours that could change its flags.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, program: &Path, folder: &Path, args: &[&str]) -> Self {
        Self::start_in(name, program, folder, args, &[])
    }

    /// Starts a program with these variables besides.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_in(
        name: &str,
        program: &Path,
        folder: &Path,
        args: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        allow_many_files();
        let mut child = command(program, folder, args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
        let lines = Arc::default();
        follow(child.stdout.take(), &lines);
        follow(child.stderr.take(), &lines);
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Self {
            name: name.to_owned(),
            pid: pid.expect("it has an id while nobody waited for it"),
            child,
            lines,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// All it printed so far, both streams.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line for which `pick` has an answer.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn logged<T>(&self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        eventually(PATIENCE, &format!("{}: {what}", self.name), async || {
            let log = self.log();
            log.iter().find_map(|line| pick(line)).ok_or_else(|| log.join("\n"))
        })
        .await
    }

    /// The address it says it listens on; `port` is the field of that name, where there are several.
    ///
    /// # Panics
    /// When it does not say so in time.
    pub async fn listening(&self, port: Option<&str>) -> String {
        self.logged("listening", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening" && line["port"].as_str() == port)
                .then(|| line["addr"].as_str().map(str::to_owned))?
        })
        .await
    }

    /// What the kernel shows to everybody: the arguments.
    ///
    /// # Panics
    /// When there is no such process any more.
    #[must_use]
    pub fn command_line(&self) -> String {
        let bytes = std::fs::read(self.proc("cmdline")).expect("the process is there");
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    /// Bytes of memory it occupies.
    ///
    /// # Panics
    /// When there is no such process any more.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(self.proc("status")).expect("the process is there");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.expect("a process has memory") * 1_024
    }

    /// How many files and sockets it has open.
    ///
    /// # Panics
    /// When there is no such process any more.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd"))
            .expect("the process is there")
            .count()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid.as_raw_nonzero())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process is there");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        end.unwrap_or_else(|_| panic!("{} did not end", self.name))
            .expect("a child can be waited for")
    }

    /// Kills it without a chance to say anything, and waits for its end.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// SIGTERM, and the code it ends with.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- {}:", self.name);
            for line in log.iter().skip(log.len().saturating_sub(SHOWN)) {
                eprintln!("{line}");
            }
        }
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it does not end in time.
pub async fn run(program: &Path, folder: &Path, args: &[&str]) -> Ended {
    let output = tokio::time::timeout(PATIENCE, command(program, folder, args).output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{} {args:?} did not end", program.display()))
        .expect("it can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A thousand calls at once are as many sockets, here and in each child, which inherits this.
fn allow_many_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        let all = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, all).expect("a limit may be raised to its maximum");
    });
}

pub(crate) fn command(program: &Path, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TIEBAR_")) {
            command.env_remove(name);
        }
    }
    command
}

fn follow(stream: Option<impl AsyncRead + Unpin + Send + 'static>, lines: &Arc<Mutex<Vec<String>>>) {
    let Some(stream) = stream else { return };
    let lines = Arc::clone(lines);
    tokio::spawn(async move {
        let mut read = BufReader::new(stream).lines();
        while let Ok(Some(line)) = read.next_line().await {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

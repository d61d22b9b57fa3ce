//! Programs that the benchmark runs: found or the run fails, ended with their guard, their CPU time by the kernel's books.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// One of this workspace's release binaries, which `make bench` builds first; they are beside this program's own folder.
pub(crate) fn own(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a program has a path");
    let release = here.ancestors().nth(2).expect("target/release/deps/PROGRAM");
    let path = release.join(name);
    assert!(path.exists(), "{} is missing; `make bench` builds it", path.display());
    path
}

/// What `.ci/bench-tools` made, outside the checkout.
pub(crate) fn tool(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    let path = cache.join("tiebar/bench").join(name);
    assert!(
        path.exists(),
        "{} is missing; `.ci/bench-tools` makes it",
        path.display()
    );
    path
}

/// Its output; a program that fails, fails the run.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `.ci/bench-tools` installs what is missing"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A running program with its children.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; `.ci/bench-tools` installs what is missing"));
        Self(child)
    }

    /// Waits until it has said a line, on either piped stream, in which something is found; both are read to their end.
    pub(crate) fn says<T: Send + 'static>(&mut self, what: &str, find: fn(&str) -> Option<T>) -> T {
        let (out, err) = (
            self.0.stdout.take().expect("piped"),
            self.0.stderr.take().expect("piped"),
        );
        let (found, said) = mpsc::channel();
        for stream in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let found = found.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(this) = find(&line) {
                        let _ = found.send(this);
                    }
                }
            });
        }
        said.recv_timeout(Duration::from_secs(15))
            .unwrap_or_else(|_| panic!("{what}: not said within 15 s"))
    }

    /// CPU nanoseconds so far, of all threads that live, children's included.
    pub(crate) fn cpu(&self) -> u64 {
        cpu_of(self.0.id())
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = read(format!("/proc/{}/status", self.0.id()));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .expect("VmRSS")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // nginx' master ends its workers when it is asked, not when it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn read(path: String) -> String {
    std::fs::read_to_string(&path).unwrap_or_default()
}

fn cpu_of(process: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let mut all = 0;
    for thread in threads.flatten() {
        let path = thread.path().display().to_string();
        let ran = read(format!("{path}/schedstat"));
        all += ran.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        for child in read(format!("{path}/children")).split_whitespace() {
            all += child.parse().map_or(0, cpu_of);
        }
    }
    all
}

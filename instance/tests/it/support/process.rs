//! The real binary, as a child.

use super::{client, soon};
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiebar-instance"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A proxy in a process of its own, without a store.
pub(crate) struct Child {
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: tokio::process::Child,
    log: JoinHandle<Vec<String>>,
}

impl Child {
    pub(crate) async fn start(upstream: &str, more: &[&str]) -> Self {
        let always = [
            "--service",
            super::ID,
            "--upstream",
            upstream,
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            // Nobody listens there.
            "--redis",
            "redis://127.0.0.1:1",
            "--log-format",
            "json",
        ];
        let mut child = command(&[&always[..], more].concat())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = async |port: &str| loop {
            let line = soon("the log", lines.next_line()).await.unwrap().expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if line["message"] == "listening" && line["port"] == port {
                break line["addr"].as_str().unwrap().parse().unwrap();
            }
        };
        let (traffic, admin) = (address("traffic").await, address("admin").await);
        let log = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                all.push(line);
            }
            all
        });
        Self {
            traffic,
            admin,
            child,
            log,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1_024
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub(crate) async fn terminate(&self) {
        let pid = self.pid().to_string();
        let killed = Command::new("kill").args(["-s", "TERM", &pid]).status().await.unwrap();
        assert!(killed.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the process' end", self.child.wait()).await.unwrap()
    }

    /// Everything it logged; it must have ended.
    pub(crate) async fn log(self) -> Vec<String> {
        soon("the log's end", self.log).await.unwrap()
    }

    pub(crate) async fn ready(&self) -> client::Seen {
        client::get(self.admin, "/readyz").await
    }
}

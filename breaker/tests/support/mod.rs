//! A real redis-server for one test binary, on a socket of its own; it ends with its guard.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod servers;
pub mod twin;

use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct RedisServer {
    child: Child,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server without persistence. A missing binary fails the test: `make test` installs it.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed; `make test` does that");
        let server = Self { child, folder };
        let client = redis::Client::open(format!("unix://{}", server.socket())).expect("a client");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
        while client.get_multiplexed_async_connection().await.is_err() {
            assert!(std::time::Instant::now() < deadline, "redis-server did not come up");
            tokio::task::yield_now().await;
        }
        server
    }

    pub fn socket(&self) -> String {
        self.folder.path().join("redis.sock").display().to_string()
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

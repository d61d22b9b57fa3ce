//! Redis servers of every kind on free ports of this machine; they end with their guard.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A port that nobody listened on a moment ago. Redis must be told a number: it prints none that it picked.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One process, killed when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    pub folder: TempDir,
}

impl Server {
    /// Starts `redis-server`, or a Sentinel when the first line of `config` says so, and waits until it listens.
    pub fn start(port: u16, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, port, config)
    }

    pub fn start_in(folder: TempDir, port: u16, config: &str) -> Self {
        let file = folder.path().join("redis.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).current_dir(folder.path()).stdout(log(folder.path()));
        if config.contains("sentinel monitor") {
            command.arg("--sentinel");
        }
        let child = command
            .spawn()
            .expect("redis-server must be installed; `make test` does that");
        let server = Self { child, port, folder };
        let deadline = Instant::now() + Duration::from_secs(15);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "port {port} never opened: {}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn log(folder: &Path) -> Stdio {
    std::fs::File::create(folder.join("log")).unwrap().into()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `redis-cli`'s answer.
pub fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(args)
        .output()
        .expect("redis-cli must be installed; `make test` does that");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

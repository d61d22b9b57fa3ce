//! A redis-server of its own, on a socket file: no port to find, none that another takes while it is down.

use crate::process::Process;
use crate::wait::{PATIENCE, eventually};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use tiebar::state::{Reason, State};

/// A server without persistence: started again, it is empty.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts a server in a folder.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(folder: &Path) -> Self {
        let server = Self {
            process: launch(folder),
            folder: folder.to_owned(),
        };
        server.up().await;
        server
    }

    /// Its address for `--redis`.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.folder)
    }

    /// Kills it, with all it knows.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again after [`Self::kill`], empty.
    pub async fn start_again(&mut self) {
        self.process = launch(&self.folder);
        self.up().await;
    }

    /// Stops it in its tracks: connections stay, answers do not come.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Asks it something.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connect().await.expect("redis-server is up");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// `GET`.
    pub async fn get(&self, key: &str) -> Option<String> {
        self.ask(&["GET", key]).await
    }

    /// The transitions in the stream of a breaker, oldest first, as `from → to reason`.
    pub async fn transitions(&self, id: &str) -> Vec<String> {
        type Entry = (String, std::collections::HashMap<String, String>);
        let entries: Vec<Entry> = self.ask(&["XRANGE", &format!("cb:{id}:events"), "-", "+"]).await;
        let code = |entry: &Entry, name: &str| entry.1.get(name)?.parse::<u64>().ok();
        let state = |entry: &Entry, name: &str| {
            let state = code(entry, name).and_then(State::from_code);
            state.map_or("none", State::as_str)
        };
        let line = |entry: &Entry| {
            let reason = code(entry, "reason").and_then(Reason::from_code);
            let reason = reason.map_or("unknown", Reason::as_str);
            format!("{} → {} {reason}", state(entry, "from"), state(entry, "to"))
        };
        entries.iter().map(line).collect()
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let socket = format!("unix://{}", socket(&self.folder).display());
        redis::Client::open(socket)?.get_multiplexed_async_connection().await
    }

    async fn up(&self) {
        eventually(PATIENCE, "redis-server is up", async || {
            let mut connection = self.connect().await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await
        })
        .await;
    }
}

/// The address a server in this folder has or would have.
pub(crate) fn url(folder: &Path) -> String {
    format!("redis+unix://{}", socket(folder).display())
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

fn launch(folder: &Path) -> Process {
    let socket = socket(folder);
    let socket = socket.to_str().expect("a temporary folder has a readable name");
    let args = [
        "--port",
        "0",
        "--save",
        "",
        "--appendonly",
        "no",
        "--unixsocket",
        socket,
    ];
    // `make test` installs it.
    Process::start("redis-server", Path::new("redis-server"), folder, &args)
}

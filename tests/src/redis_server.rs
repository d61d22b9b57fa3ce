//! A redis-server of its own, on a socket file: no port to find, none that another takes while it is down.

use crate::process::Process;
use crate::wait::{PATIENCE, eventually};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tiebar::state::{Reason, State};

/// A server without persistence: started again, it is empty.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    folder: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    password: Option<String>,
}

impl RedisServer {
    /// Starts a server in a folder.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[], &[], None).await
    }

    /// Starts a server with more arguments, in an environment, behind a password.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_with(
        folder: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
        password: Option<&str>,
    ) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<(String, String)> = environment.iter().map(pair).collect();
        let password = password.map(str::to_owned);
        let server = Self {
            process: launch(folder, &args, &environment, password.as_deref()),
            folder: folder.to_owned(),
            args,
            environment,
            password,
        };
        server.up().await;
        server
    }

    /// The file it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its password.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Exchanges the password and throws everybody out.
    pub async fn change_password(&mut self, password: &str) {
        self.ask::<()>(&["CONFIG", "SET", "requirepass", password]).await;
        self.password = Some(password.to_owned());
        self.throw_out().await;
    }

    /// Closes every connection but the one that asks.
    pub async fn throw_out(&self) {
        for kind in ["normal", "pubsub"] {
            self.ask::<u64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
                .await;
        }
    }

    /// How often one command was carried out, by a client or inside the function.
    pub async fn calls(&self, command: &str) -> u64 {
        let text: String = self.ask(&["INFO", "commandstats"]).await;
        let start = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
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
        self.process = launch(&self.folder, &self.args, &self.environment, self.password.as_deref());
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
        let start = Instant::now();
        let mut connection = loop {
            // On a machine with much to do a connection may take longer than the client waits.
            match self.connect().await {
                Ok(connection) => break connection,
                Err(error) => assert!(start.elapsed() < PATIENCE, "redis-server is not up: {error}"),
            }
        };
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
        let password = self
            .password
            .as_ref()
            .map_or_else(String::new, |password| format!("?pass={password}"));
        let socket = format!("unix://{}{password}", socket(&self.folder).display());
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

fn launch(folder: &Path, more: &[String], environment: &[(String, String)], password: Option<&str>) -> Process {
    let socket = socket(folder);
    let socket = socket.to_str().expect("a temporary folder has a readable name");
    let mut args = vec![
        "--port",
        "0",
        "--save",
        "",
        "--appendonly",
        "no",
        "--unixsocket",
        socket,
    ];
    if let Some(password) = password {
        args.extend(["--requirepass", password, "--masterauth", password]);
    }
    args.extend(more.iter().map(String::as_str));
    // `make test` installs it.
    Process::start_in("redis-server", Path::new("redis-server"), folder, &args, environment)
}

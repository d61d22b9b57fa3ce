//! What the flags of every binary have in common: store, logs, signals, one-line errors.
//!
//! In the library, behind a feature, because a package of its own would be one more top-level folder for three structs.

use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// The log flags.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// How log lines look: `text` for people, `json` for machines
    #[arg(
        long,
        global = true,
        env = "TIEBAR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logs"
    )]
    log_format: LogFormat,
    /// The least severe level that is logged: off, error, warn, info, debug or trace
    #[arg(
        long,
        global = true,
        env = "TIEBAR_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logs"
    )]
    log_level: LevelFilter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// As [`Self::start`], but at this level unless another than the default was asked for: something else is shown.
    pub fn start_quietly(mut self, level: LevelFilter) {
        if self.log_level == LevelFilter::INFO {
            self.log_level = level;
        }
        self.start();
    }

    /// Starts logging to standard error, for the rest of the process.
    pub fn start(&self) {
        let logs = tracing_subscriber::fmt()
            .with_max_level(self.log_level)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        match self.log_format {
            LogFormat::Text => logs.init(),
            LogFormat::Json => logs.json().flatten_event(true).init(),
        }
    }
}

/// The exit code of what `main` did; an error goes to standard error as one line, its causes included.
pub fn ended(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the process' flags; a mistake is printed as one line, since it often ends up in a container's log.
///
/// # Errors
/// The code to exit with: 0 after `--help` and `--version`, 2 after a mistake.
pub fn parse_flags<F: Parser + CommandFactory + FromArgMatches>() -> Result<F, ExitCode> {
    F::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // Fails when the reader has seen enough, which is fine.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let text = error.to_string();
        let noise =
            |line: &str| line.is_empty() || line.starts_with("Usage:") || line.starts_with("For more information");
        let told: Vec<&str> = text.lines().map(str::trim).filter(|line| !noise(line)).collect();
        eprintln!("{}", told.join("; ").replace(":; ", ": "));
        ExitCode::from(2)
    })
}

/// A GEP-2257 duration, as a clap value parser.
///
/// # Errors
/// When the text is no duration.
pub fn duration(text: &str) -> Result<Duration, crate::duration::InvalidDuration> {
    crate::duration::parse(text).map(Duration::from_millis)
}

/// A timeout of nothing would take every reply for lost, and one of hours would never notice that the store is gone.
#[cfg(feature = "redis")]
fn store_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("wanted 1ms to 1m".to_owned())
    }
}

/// What `--version` says: the version, and the commit when the build was told it (`TIEBAR_COMMIT`).
///
/// Told rather than asked of git, because an image is built from a context without `.git`.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| match option_env!("TIEBAR_COMMIT") {
        None | Some("") => env!("CARGO_PKG_VERSION").to_owned(),
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
    });
    &VERSION
}

/// Resolves at SIGTERM or Ctrl-C. Listens from the call on, not from the first poll.
///
/// # Errors
/// When the process may not listen for signals.
pub fn terminated() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Where the store is.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Args)]
pub struct StoreFlags {
    /// The Redis that keeps the breakers: redis://HOST:PORT, rediss:// for TLS, redis+unix:///PATH,
    /// redis+sentinel://HOST:PORT,…/MASTER-NAME or redis+cluster://HOST:PORT,… (rediss+… for TLS)
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS",
        value_name = "URL",
        default_value = "redis://127.0.0.1:6379",
        help_heading = "Store"
    )]
    redis: String,
    #[command(flatten)]
    options: StoreOptions,
}

/// How to speak to the store, wherever it is.
#[cfg(feature = "redis")]
#[derive(Debug, Clone, Args)]
pub struct StoreOptions {
    /// The Redis user; the password comes from --redis-password-file
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS_USERNAME",
        value_name = "NAME",
        help_heading = "Store"
    )]
    redis_username: Option<String>,
    /// A file that holds the Redis password, so that it shows in no process list
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = "Store"
    )]
    redis_password_file: Option<std::path::PathBuf>,
    /// The authorities that TLS trusts, PEM [default: the web's]
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS_CA_FILE",
        value_name = "FILE",
        help_heading = "Store"
    )]
    redis_ca_file: Option<std::path::PathBuf>,
    /// The certificate to show to the Redis, PEM; with --redis-key-file
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS_CERT_FILE",
        value_name = "FILE",
        help_heading = "Store"
    )]
    redis_cert_file: Option<std::path::PathBuf>,
    /// The key of that certificate, PEM; these four files are read again at each connection
    #[arg(
        long,
        global = true,
        env = "TIEBAR_REDIS_KEY_FILE",
        value_name = "FILE",
        help_heading = "Store"
    )]
    redis_key_file: Option<std::path::PathBuf>,
    /// How long to wait for a reply, such as 200ms; 1ms to 1m
    #[arg(long, global = true, env = "TIEBAR_STORE_TIMEOUT", value_name = "DURATION", default_value = "200ms", value_parser = store_timeout,
          help_heading = "Store")]
    store_timeout: Duration,
    /// Stands before every key
    #[arg(
        long,
        global = true,
        env = "TIEBAR_KEY_PREFIX",
        value_name = "TEXT",
        default_value = "cb:",
        help_heading = "Store"
    )]
    key_prefix: String,
    /// How keys are spelled: `plain` (cb:ID:state), `hash-tag` (cb:{ID}:state), `auto`: hash-tag on a cluster, else plain
    #[arg(
        long,
        global = true,
        env = "TIEBAR_KEY_STYLE",
        value_name = "STYLE",
        default_value = "auto",
        help_heading = "Store"
    )]
    key_style: KeyStyleFlag,
}

#[cfg(feature = "redis")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyStyleFlag {
    Auto,
    Plain,
    HashTag,
}

#[cfg(feature = "redis")]
impl StoreFlags {
    /// The store; it connects at first use.
    ///
    /// # Errors
    /// One line that names the flag and what would be right.
    pub fn open(&self) -> Result<crate::redis::RedisStore, String> {
        self.options.open(&self.redis)
    }
}

#[cfg(feature = "redis")]
impl StoreOptions {
    /// What stands before every key.
    #[must_use]
    pub fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The store at an address; it connects at first use.
    ///
    /// # Errors
    /// One line that names the flag and what would be right.
    pub fn open(&self, url: &str) -> Result<crate::redis::RedisStore, String> {
        use crate::redis::{KeyStyle, RedisSettings, RedisStore, WANTED};
        let files = [
            ("--redis-password-file", &self.redis_password_file),
            ("--redis-ca-file", &self.redis_ca_file),
            ("--redis-cert-file", &self.redis_cert_file),
            ("--redis-key-file", &self.redis_key_file),
        ];
        for (flag, file) in files {
            if let Some(file) = file {
                std::fs::read(file).map_err(|error| format!("{flag} {}: {error}", file.display()))?;
            }
        }
        if self.redis_cert_file.is_some() != self.redis_key_file.is_some() {
            return Err("--redis-cert-file and --redis-key-file: wanted both or neither".to_owned());
        }
        let style = match self.key_style {
            KeyStyleFlag::Plain => KeyStyle::Plain,
            KeyStyleFlag::HashTag => KeyStyle::HashTag,
            KeyStyleFlag::Auto if url.contains("+cluster://") => KeyStyle::HashTag,
            KeyStyleFlag::Auto => KeyStyle::Plain,
        };
        RedisStore::new(RedisSettings {
            url: url.to_owned(),
            prefix: self.key_prefix.clone(),
            style,
            timeout: self.store_timeout,
            username: self.redis_username.clone(),
            password: None,
            password_file: self.redis_password_file.clone(),
            ca_file: self.redis_ca_file.clone(),
            cert_file: self.redis_cert_file.clone(),
            key_file: self.redis_key_file.clone(),
        })
        .map_err(|error| {
            format!(
                "--redis {:?}: {error}; wanted {WANTED}",
                crate::redis::without_password(url)
            )
        })
    }
}

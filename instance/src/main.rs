//! `tiebar-instance`: flags and signals around the library.

use clap::Parser;
use instance::{Instance, RouteSpec, Settings};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreFlags, duration, parse_flags, terminated};
use tiebar::guard::Breakers;
use tiebar::policy::Config;

/// Forwards HTTP calls to a service, guarded by its shared circuit breaker.
#[derive(Debug, Parser)]
// Negative numbers are values out of range, not unknown flags.
#[command(name = "tiebar-instance", version = tiebar::cli::version(), allow_negative_numbers = true)]
struct Flags {
    /// The breaker's id: NAME or NAMESPACE/NAME
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_SERVICE",
        value_name = "ID",
        requires = "upstream",
        conflicts_with = "routes"
    )]
    service: Option<String>,
    /// Where calls go: http://HOST:PORT, or h2c://HOST:PORT for HTTP/2 without TLS
    #[arg(long, env = "TIEBAR_INSTANCE_UPSTREAM", value_name = "URL", requires = "service")]
    upstream: Option<String>,
    /// A YAML file with routes for several services, read again when it changes
    #[arg(long, env = "TIEBAR_INSTANCE_ROUTES", value_name = "FILE")]
    routes: Option<PathBuf>,
    /// CircuitBreakers to start from while the store has none: a YAML file
    #[arg(long, env = "TIEBAR_INSTANCE_BREAKERS", value_name = "FILE")]
    breakers: Option<PathBuf>,
    /// Where traffic is taken; port 0 picks a free one, logged as `listening`
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8001"
    )]
    listen: String,
    /// Where health, metrics and breakers are served
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_ADMIN_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8101"
    )]
    admin_listen: String,
    /// The name of this instance, unique in the fleet [default: host name and port]
    #[arg(long, env = "TIEBAR_INSTANCE_INSTANCE_ID", value_name = "NAME")]
    instance_id: Option<String>,
    /// The most calls at once, at least 1; more are rejected
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_MAX_IN_FLIGHT",
        value_name = "CALLS",
        default_value = "10000"
    )]
    max_in_flight: NonZeroUsize,
    /// How long running calls may take to end at shutdown, such as 25s
    #[arg(long, env = "TIEBAR_INSTANCE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "25s", value_parser = duration)]
    drain_timeout: Duration,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    logs: LogFlags,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    match run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let routes = match (&flags.service, &flags.upstream, &flags.routes) {
        (Some(service), Some(upstream), None) => vec![RouteSpec::single(service, upstream)],
        (None, None, Some(_)) => Vec::new(),
        _ => anyhow::bail!("nothing to guard; wanted --service ID --upstream URL, or --routes FILE"),
    };
    let store = flags.store.open().map_err(anyhow::Error::msg)?;
    let shutdown = terminated()?;
    let name = flags.instance_id.clone().unwrap_or_else(|| {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let port = flags.listen.rsplit(':').next().unwrap_or_default();
        format!("{}:{port}", host.trim())
    });
    let breakers = Breakers::new(Arc::new(store), tiebar::guard::Settings::new(&name));
    let settings = Settings {
        listen: flags.listen,
        admin_listen: flags.admin_listen,
        routes,
        routes_file: flags.routes,
        namespace: std::env::var("TIEBAR_NAMESPACE")
            .ok()
            .filter(|namespace| !namespace.is_empty()),
        fallback: flags
            .breakers
            .as_deref()
            .map_or_else(|| Ok(BTreeMap::new()), fallback)?,
        max_in_flight: flags.max_in_flight.get(),
        drain_timeout: flags.drain_timeout,
    };
    Instance::bind(settings, breakers).await?.run(shutdown).await
}

/// Rules from a file, for the time until the store has some.
fn fallback(path: &std::path::Path) -> anyhow::Result<BTreeMap<tiebar::id::ServiceId, Config>> {
    let text =
        std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("--breakers {}: {error}", path.display()))?;
    let mut rules = BTreeMap::new();
    for document in crds::parse_documents(&text) {
        let document = document.map_err(|error| anyhow::anyhow!("--breakers {}: {error}", path.display()))?;
        rules.insert(document.id, Config::local(document.resolved.policy));
    }
    Ok(rules)
}

//! `tiebar-instance`: flags and signals around the library.

use clap::Parser;
use instance::{Instance, Limits, RouteSpec, Settings, Starting, Watched, full_id};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreFlags, duration, parse_flags, terminated};
use tiebar::guard::Breakers;
use tiebar::id::ServiceId;
use tiebar::policy::Config;

/// Forwards HTTP calls to a service, guarded by its shared circuit breaker.
///
/// HTTP/1.1 and HTTP/2 without TLS on one port; gRPC and upgrades such as WebSocket pass. A bare service id takes the
/// namespace in TIEBAR_NAMESPACE, if that is set.
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
    /// Where calls go: http://HOST:PORT, https://HOST:PORT, or h2c://HOST:PORT for HTTP/2 without TLS
    #[arg(long, env = "TIEBAR_INSTANCE_UPSTREAM", value_name = "URL", requires = "service")]
    upstream: Option<String>,
    /// With an https upstream: certificates in PEM to trust instead of the public ones
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_UPSTREAM_CA_FILE",
        value_name = "FILE",
        requires = "upstream"
    )]
    upstream_ca_file: Option<PathBuf>,
    /// A YAML file with routes for several services, read again when it changes: a list of {service, upstream, host,
    /// pathPrefix, stripPrefix, preserveHost, caFile}
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
    /// Where health, metrics and breakers are served, to whoever reaches it
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
    /// A prefix of the URLs that a breaker's fallback service may have; repeatable; without one there is no such fallback
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_ALLOW_FALLBACK",
        value_name = "URL-PREFIX",
        value_delimiter = ','
    )]
    allow_fallback: Vec<String>,
    /// How long running calls may take to end at shutdown, such as 25s
    #[arg(long, env = "TIEBAR_INSTANCE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "25s", value_parser = duration)]
    drain_timeout: Duration,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    logs: LogFlags,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits (bodies are never limited, nor held)")]
struct LimitFlags {
    /// The most calls, streams and tunnels at once, at least 1; more calls are rejected
    #[arg(
        long,
        env = "TIEBAR_INSTANCE_MAX_IN_FLIGHT",
        value_name = "CALLS",
        default_value = "10000"
    )]
    max_in_flight: NonZeroUsize,
    /// The largest request line with headers, in bytes, 1024 to 1048576
    #[arg(long, env = "TIEBAR_INSTANCE_MAX_HEADER_BYTES", value_name = "BYTES", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1_024..=1_048_576))]
    max_header_bytes: u32,
    /// The most headers in a request over HTTP/1.1, 1 to 1000
    #[arg(long, env = "TIEBAR_INSTANCE_MAX_HEADERS", value_name = "HEADERS", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    max_headers: u16,
    /// How long a request's headers may take from their first byte on, such as 15s
    #[arg(long, env = "TIEBAR_INSTANCE_HEADER_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = positive)]
    header_timeout: Duration,
    /// How long a connection may be without a request, such as 75s
    #[arg(long, env = "TIEBAR_INSTANCE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = positive)]
    idle_timeout: Duration,
    /// How long a request's body may pause before there is a response; such as 60s; gRPC's is not limited
    #[arg(long, env = "TIEBAR_INSTANCE_BODY_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = positive)]
    body_timeout: Duration,
    /// How long an idle connection to an upstream is kept; such as 4s; should be less than the upstream's own
    #[arg(long, env = "TIEBAR_INSTANCE_UPSTREAM_IDLE_TIMEOUT", value_name = "DURATION", default_value = "4s", value_parser = duration)]
    upstream_idle_timeout: Duration,
}

/// A duration that is not nothing.
fn positive(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("wanted more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

impl From<LimitFlags> for Limits {
    fn from(flags: LimitFlags) -> Self {
        Self {
            max_in_flight: flags.max_in_flight.get(),
            max_header_bytes: flags.max_header_bytes as usize,
            max_headers: usize::from(flags.max_headers),
            header_timeout: flags.header_timeout,
            idle_timeout: flags.idle_timeout,
            body_timeout: flags.body_timeout,
            upstream_idle_timeout: flags.upstream_idle_timeout,
        }
    }
}

// For what happens beside the traffic, which has its own threads.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    tiebar::cli::ended(run(flags).await)
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let routes = match (&flags.service, &flags.upstream, &flags.routes) {
        (Some(service), Some(upstream), None) => vec![RouteSpec {
            ca_file: flags.upstream_ca_file.clone(),
            ..RouteSpec::single(service, upstream)
        }],
        (None, None, Some(_)) => Vec::new(),
        _ => anyhow::bail!("nothing to guard; wanted --service ID --upstream URL, or --routes FILE"),
    };
    let namespace = std::env::var("TIEBAR_NAMESPACE").ok();
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let starting = match &flags.breakers {
        None => BTreeMap::new(),
        Some(path) => starting(path, namespace.as_deref())
            .map_err(|error| anyhow::anyhow!("--breakers {}: {error}", path.display()))?,
    };
    let store = flags.store.open().map_err(anyhow::Error::msg)?;
    let shutdown = terminated()?;
    let name = flags.instance_id.clone().unwrap_or_else(|| {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let port = flags.listen.rsplit(':').next().unwrap_or_default();
        format!("{}:{port}", host.trim())
    });
    let (store, measures) = Watched::new(Arc::new(store));
    let breakers = Breakers::new(store, tiebar::guard::Settings::new(&name));
    let settings = Settings {
        routes_file: flags.routes,
        namespace,
        starting,
        allow_fallback: flags.allow_fallback,
        limits: flags.limits.into(),
        drain_timeout: flags.drain_timeout,
        workers: workers(),
        store: Some(measures),
        ..Settings::new(&flags.listen, &flags.admin_listen, routes)
    };
    Instance::bind(settings, breakers).await?.run(shutdown).await
}

/// A thread for each processor, within reason: more would but scatter idle connections and weigh on a large machine's
/// sidecars.
fn workers() -> NonZeroUsize {
    const MOST: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |processors| processors.min(MOST))
}

/// Rules from a file, for the time until the store has some.
fn starting(path: &Path, namespace: Option<&str>) -> anyhow::Result<BTreeMap<ServiceId, Starting>> {
    let text = std::fs::read_to_string(path)?;
    let mut rules = BTreeMap::new();
    for document in crds::parse_documents(&text) {
        let document = document.map_err(|error| anyhow::anyhow!("{error}"))?;
        let id = full_id(document.id.as_str(), namespace)?;
        let config = Config {
            forced: document.resolved.forced,
            ..Config::local(document.resolved.policy)
        };
        let spec = document.spec;
        if rules.insert(id.clone(), Starting { config, spec }).is_some() {
            anyhow::bail!("two documents are about {id}; wanted one");
        }
    }
    if rules.is_empty() {
        anyhow::bail!("no CircuitBreaker in it; wanted at least one");
    }
    Ok(rules)
}

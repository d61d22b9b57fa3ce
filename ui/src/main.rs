//! `tiebar-ui`: flags and signals around the library.

use axum::http::HeaderName;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tiebar::cli::{LogFlags, StoreFlags, parse_flags, terminated};
use ui::{Actions, Auth, Dashboard, Operator, Settings};

/// Shows all circuit breakers of a store: their state, why, since when, and what comes next.
#[derive(Debug, Parser)]
#[command(name = "tiebar-ui", version = tiebar::cli::version())]
struct Flags {
    /// Where pages and the JSON API are served; port 0 picks a free one, logged as `listening`
    #[arg(
        long,
        env = "TIEBAR_UI_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080"
    )]
    listen: String,
    /// A host name the dashboard answers to, besides localhost and its own address; repeatable
    #[arg(long, env = "TIEBAR_UI_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Offer to force breakers open or closed, to clear that, and to reset; needs an --auth other than `none`. Written to
    /// --operator, else to the CircuitBreaker resources of the cluster, by the rights the person has there
    #[arg(long, env = "TIEBAR_UI_ACTIONS")]
    actions: bool,
    /// The port of an operator in file mode, which carries actions out
    #[arg(long, env = "TIEBAR_UI_OPERATOR", value_name = "URL")]
    operator: Option<String>,
    /// Who may act, of those who are signed in; repeatable [default: everybody]
    #[arg(long, env = "TIEBAR_UI_ACTION_USERS", value_name = "NAME", value_delimiter = ',')]
    action_users: Vec<String>,
    /// How people prove who they are
    #[arg(long, env = "TIEBAR_UI_AUTH", value_name = "MODE", default_value = "none")]
    auth: AuthMode,
    /// With `--auth token`: a file with one `NAME TOKEN` a line, tokens of 16 characters or more, read again at each use
    /// [default: the cluster reviews tokens]
    #[arg(long, env = "TIEBAR_UI_AUTH_TOKEN_FILE", value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
    /// With `--auth proxy-header`: the header in which the proxy says who it is
    #[arg(
        long,
        env = "TIEBAR_UI_AUTH_HEADER",
        value_name = "HEADER",
        default_value = "X-Forwarded-User"
    )]
    auth_header: String,
    /// With `--auth proxy-header`: where the proxy's connections come from, like 10.0.0.0/8; repeatable
    #[arg(long, env = "TIEBAR_UI_AUTH_PROXIES", value_name = "CIDR", value_delimiter = ',')]
    auth_proxies: Vec<ipnet::IpNet>,
    /// The most live streams at once; further viewers poll
    #[arg(long, env = "TIEBAR_UI_MAX_VIEWERS", value_name = "NUMBER", default_value_t = 1_000)]
    max_viewers: usize,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    logs: LogFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AuthMode {
    /// Everybody who reaches the port may look
    None,
    /// A bearer token, typed once in a browser
    Token,
    /// A proxy signs people in and names them in a header
    ProxyHeader,
}

#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    tiebar::cli::ended(run(flags).await)
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let auth = auth(&flags).await?;
    let actions = actions(&flags).await?;
    let store = flags.store.open().map_err(anyhow::Error::msg)?;
    let key_prefix = Some(store.keys().prefix().to_owned());
    let shutdown = terminated()?;
    let settings = Settings {
        listen: flags.listen.clone(),
        hosts: flags.allow_host,
        auth,
        actions,
        key_prefix,
        max_viewers: flags.max_viewers,
    };
    let dashboard = Dashboard::bind(Arc::new(store), settings).await;
    let dashboard =
        dashboard.map_err(|error| anyhow::anyhow!("cannot listen on {} (--listen): {error}", flags.listen))?;
    Ok(dashboard.run(shutdown).await?)
}

async fn auth(flags: &Flags) -> anyhow::Result<Auth> {
    Ok(match flags.auth {
        AuthMode::None => Auth::None,
        AuthMode::Token => {
            let Some(file) = flags.auth_token_file.clone() else {
                return review().await;
            };
            let wrong =
                |error: &dyn std::fmt::Display| anyhow::anyhow!("--auth-token-file {}: {error}", file.display());
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(&error))?;
            ui::parse_tokens(&text).map_err(|error| wrong(&error))?;
            Auth::Token(file)
        }
        AuthMode::ProxyHeader => {
            if flags.auth_proxies.is_empty() {
                anyhow::bail!("--auth proxy-header needs --auth-proxies CIDR: anybody could send that header");
            }
            let header: HeaderName = flags
                .auth_header
                .parse()
                .map_err(|_| anyhow::anyhow!("--auth-header {:?} is no header's name", flags.auth_header))?;
            Auth::Proxy {
                header,
                sources: flags.auth_proxies.clone(),
            }
        }
    })
}

async fn actions(flags: &Flags) -> anyhow::Result<Actions> {
    if !flags.actions {
        return Ok(Actions::Off);
    }
    if flags.auth == AuthMode::None {
        anyhow::bail!("--actions needs --auth token or --auth proxy-header: nobody acts without a name");
    }
    let Some(url) = &flags.operator else {
        return resources().await;
    };
    Ok(Actions::Operator {
        operator: Operator::new(url).map_err(|error| anyhow::anyhow!("--operator {error}"))?,
        people: flags.action_users.clone(),
        local: false,
    })
}

#[cfg(feature = "kubernetes")]
async fn review() -> anyhow::Result<Auth> {
    let cluster = ui::Kubernetes::connect().await;
    let wrong =
        |error| anyhow::anyhow!("--auth token without --auth-token-file FILE lets a cluster review tokens: {error}");
    cluster.map(Auth::Review).map_err(wrong)
}

#[cfg(not(feature = "kubernetes"))]
async fn review() -> anyhow::Result<Auth> {
    anyhow::bail!("--auth token needs --auth-token-file FILE")
}

#[cfg(feature = "kubernetes")]
async fn resources() -> anyhow::Result<Actions> {
    let cluster = ui::Kubernetes::connect().await;
    let wrong = |error| anyhow::anyhow!("--actions without --operator URL are written to a cluster: {error}");
    cluster.map(Actions::Kubernetes).map_err(wrong)
}

#[cfg(not(feature = "kubernetes"))]
async fn resources() -> anyhow::Result<Actions> {
    anyhow::bail!("--actions needs --operator URL, the port of an operator in file mode")
}

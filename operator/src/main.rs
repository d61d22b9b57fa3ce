//! `tiebar-operator`: flags and signals around the library.

use clap::{Parser, Subcommand};
use operator::file_mode::{FileMode, Settings};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreFlags, parse_flags, terminated};
use tiebar::id::ServiceId;
use tiebar::redis::RedisStore;

/// Programs circuit breakers into Redis and reports their state.
///
/// Reads `CircuitBreaker`s from Kubernetes, or from a file or folder, which it watches; keeps the store as they say, and
/// reports the store's state back.
// All flags are global: `run` may be said or not, before them or after.
#[derive(Debug, Parser)]
#[command(name = "tiebar-operator", version = tiebar::cli::version())]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// A YAML or JSON file, or a folder of them, with CircuitBreakers, instead of Kubernetes; watched
    #[arg(long, global = true, env = "TIEBAR_OPERATOR_BREAKERS", value_name = "PATH")]
    breakers: Option<PathBuf>,
    /// A namespace to watch; repeatable [default: all of them]
    #[arg(
        long,
        global = true,
        env = "TIEBAR_OPERATOR_NAMESPACE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    namespace: Vec<String>,
    /// Statuses and events written to Kubernetes, per second; what concerns a transition goes first
    #[arg(long, global = true, env = "TIEBAR_OPERATOR_KUBE_QPS", value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kube_qps: u32,
    /// For tests: divides the periods after which things are looked at again
    #[arg(
        long,
        global = true,
        env = "TIEBAR_OPERATOR_PACE",
        value_name = "N",
        default_value_t = 1,
        hide = true
    )]
    pace: u32,
    /// Who owns the breakers [default: the uid of kube-system with any --namespace; for files host name and path]
    #[arg(long, global = true, env = "TIEBAR_OPERATOR_CLUSTER_ID", value_name = "TEXT")]
    cluster_id: Option<String>,
    /// Where status and health are served; port 0 picks a free one, logged as `listening`
    #[arg(
        long,
        global = true,
        env = "TIEBAR_OPERATOR_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8081"
    )]
    listen: String,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    logs: LogFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile until stopped (the default)
    Run,
    /// Check files without a store
    Validate {
        /// A file or folder; repeatable
        #[arg(short, long, required = true, value_name = "FILE")]
        file: Vec<PathBuf>,
    },
    /// Print the CustomResourceDefinition, for kubectl apply --server-side -f -
    #[cfg(feature = "kubernetes")]
    Crd,
    /// Print the least rights in Redis per role, as the lines of an ACL file
    Acl,
    /// Say why a breaker did or did not trip
    Explain {
        /// NAME or NAMESPACE/NAME
        id: String,
    },
}

#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    let result = match &flags.command {
        None | Some(Command::Run) => run(&flags).await,
        Some(Command::Validate { file }) => validate(file),
        #[cfg(feature = "kubernetes")]
        Some(Command::Crd) => {
            print!("{}", crds::yaml());
            Ok(())
        }
        Some(Command::Acl) => flags
            .store
            .open()
            .map(|store| print!("{}", operator::acl(store.keys()))),
        Some(Command::Explain { id }) => explain(&flags, id).await,
    };
    tiebar::cli::ended(result)
}

async fn run(flags: &Flags) -> Result<(), String> {
    let store = Arc::new(flags.store.open()?);
    let shutdown = terminated().map_err(|error| format!("cannot wait for signals: {error}"))?;
    tokio::spawn(operator::eviction::watch(store.clone()));
    let Some(path) = &flags.breakers else {
        return run_in_cluster(flags, store, shutdown).await;
    };
    if !path.exists() {
        return Err(format!("--breakers {}: no such file or folder", path.display()));
    }
    let keys = store.keys().clone();
    let settings = Settings {
        path: path.clone(),
        listen: flags.listen.clone(),
        owner: flags.cluster_id.clone(),
        every: Duration::from_secs(1),
    };
    let operator = FileMode::bind(store, settings)
        .await
        .map_err(|error| format!("cannot start on {} (--listen): {error}", flags.listen))?
        .with_keys(keys);
    operator.run(shutdown).await.map_err(|error| error.to_string())
}

#[cfg(feature = "kubernetes")]
async fn run_in_cluster(
    flags: &Flags,
    store: Arc<RedisStore>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), String> {
    let settings = operator::cluster::Settings {
        listen: flags.listen.clone(),
        namespaces: flags.namespace.clone(),
        cluster_id: flags.cluster_id.clone(),
        kube_qps: flags.kube_qps,
        keys: store.keys().clone(),
        pace: flags.pace,
    };
    let cluster = operator::cluster::Cluster::bind(store, settings).await?;
    cluster.run(shutdown).await
}

#[cfg(not(feature = "kubernetes"))]
async fn run_in_cluster(_: &Flags, _: Arc<RedisStore>, _: impl Future<Output = ()> + Send) -> Result<(), String> {
    Err("--breakers PATH is required: this build reads CircuitBreakers from files only".to_owned())
}

fn validate(paths: &[PathBuf]) -> Result<(), String> {
    let (mut good, mut bad) = (0, 0);
    for path in paths {
        let reading = operator::read(path);
        for error in &reading.errors {
            eprintln!("error: {error}");
        }
        for (id, (file, document)) in &reading.documents {
            println!("{}: {id} is valid", file.display());
            for warning in &document.resolved.warnings {
                println!("{}: {id}: warning: {warning}", file.display());
            }
        }
        good += reading.documents.len();
        bad += reading.errors.len();
    }
    if bad > 0 {
        Err(format!("{bad} invalid, {good} valid"))
    } else {
        Ok(())
    }
}

async fn explain(flags: &Flags, id: &str) -> Result<(), String> {
    let id = ServiceId::parse(id).map_err(|error| error.to_string())?;
    let store = flags.store.open()?;
    print!(
        "{}",
        operator::explain(&store, &id)
            .await
            .map_err(|error| error.to_string())?
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Command, Flags};
    use clap::Parser as _;

    #[test]
    fn run_may_be_said_or_not_before_flags_or_after() {
        let given = ["--listen", "127.0.0.1:1", "--breakers", "folder"];
        for words in [
            given.to_vec(),
            [&["run"], &given[..]].concat(),
            [&given[..], &["run"]].concat(),
        ] {
            let flags = Flags::try_parse_from([&["tiebar-operator"], &words[..]].concat()).unwrap();
            assert!(matches!(flags.command, None | Some(Command::Run)));
            assert_eq!((&*flags.listen, flags.namespace.len()), ("127.0.0.1:1", 0), "{words:?}");
            assert_eq!(flags.breakers.unwrap().to_str(), Some("folder"));
        }
    }
}

//! `tiebar-operator`: flags and signals around the library.

use clap::{Parser, Subcommand};
use operator::file_mode::{FileMode, Settings};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreFlags, parse_flags, terminated};
use tiebar::id::ServiceId;

/// Programs circuit breakers into Redis and reports their state.
///
/// Reads `CircuitBreaker` documents from a file or folder, which it watches, and keeps what it programmed as the
/// documents say.
#[derive(Debug, Parser)]
#[command(name = "tiebar-operator", version = tiebar::cli::version())]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    /// A YAML or JSON file, or a folder of them, with CircuitBreakers; watched
    #[arg(long, env = "TIEBAR_OPERATOR_BREAKERS", value_name = "PATH")]
    breakers: Option<PathBuf>,
    /// Who owns the breakers [default: host name and path]
    #[arg(long, env = "TIEBAR_OPERATOR_CLUSTER_ID", value_name = "TEXT")]
    cluster_id: Option<String>,
    /// Where status and health are served; port 0 picks a free one, logged as `listening`
    #[arg(
        long,
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
    Crd,
    /// Say why a breaker did or did not trip
    Explain {
        /// NAME or NAMESPACE/NAME
        id: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    let result = match &flags.command {
        None | Some(Command::Run) => run(&flags).await,
        Some(Command::Validate { file }) => validate(file),
        Some(Command::Crd) => {
            print!("{}", crds::yaml());
            Ok(())
        }
        Some(Command::Explain { id }) => explain(&flags, id).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> Result<(), String> {
    let Some(path) = &flags.breakers else {
        return Err("--breakers PATH is required: this version reads CircuitBreakers from files only".to_owned());
    };
    if !path.exists() {
        return Err(format!("--breakers {}: no such file or folder", path.display()));
    }
    let store = Arc::new(flags.store.open()?);
    let shutdown = terminated().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let settings = Settings {
        path: path.clone(),
        listen: flags.listen.clone(),
        owner: flags.cluster_id.clone(),
        every: Duration::from_secs(1),
    };
    let operator = FileMode::bind(store, settings)
        .await
        .map_err(|error| format!("cannot listen on {} (--listen): {error}", flags.listen))?;
    operator.run(shutdown).await.map_err(|error| error.to_string())
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

//! `tiebar-loadgen`: flags, signals and progress around the library.

mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use http::Uri;
use loadgen::{
    CONCURRENCY_MAX, DEFAULT_TARGETS, Plan, RATE_MAX, Report, Scenario, TIMEOUT_MAX, duration, parse_target,
};
use tiebar::cli::{LogFlags, parse_flags, terminated};

/// Sends load at a fixed rate to services behind circuit breakers, and says whether they did as expected.
///
/// Latency counts from a call's intended start, so a slow service cannot hide behind a generator that waits for it.
/// Progress goes to standard error, the final report to standard output. The exit code is 0 if the scenario's
/// expectations held (without a scenario: if at least one call was answered), 1 if not, 2 for bad flags or a bad scenario.
#[derive(Debug, Parser)]
// Negative numbers are values out of range, not unknown flags.
#[command(name = "tiebar-loadgen", version = tiebar::cli::version(), allow_negative_numbers = true)]
struct Flags {
    /// Where calls go, in turn; repeatable, comma-separated in the environment. Takes precedence over a scenario's
    /// targets [default: http://127.0.0.1:8001, :8002 and :8003]
    #[arg(long, env = "TIEBAR_LOADGEN_TARGET", value_name = "URL", value_delimiter = ',', value_parser = parse_target)]
    target: Vec<Uri>,
    /// Calls per second over all targets, 0 to 100000; in a scenario, for phases without a rate
    #[arg(long, env = "TIEBAR_LOADGEN_RATE", value_name = "CALLS/S", default_value_t = 50.0, value_parser = parse_rate)]
    rate: f64,
    /// How long to send, such as 500ms, 30s or 1m30s [default: until Ctrl-C]
    #[arg(long, env = "TIEBAR_LOADGEN_DURATION", value_name = "DURATION", value_parser = parse_duration,
          conflicts_with = "scenario")]
    duration: Option<Duration>,
    /// The most calls in flight, 1 to 10000; as many wait for their turn, more are counted as overdue and dropped
    #[arg(long, env = "TIEBAR_LOADGEN_CONCURRENCY", value_name = "CALLS", default_value_t = 200,
          value_parser = parse_concurrency)]
    concurrency: usize,
    /// How long a call waits for its answer, such as 10s, at most 1h
    #[arg(long, env = "TIEBAR_LOADGEN_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = parse_timeout)]
    timeout: Duration,
    /// A YAML file with phases and expectations, instead of steady load; see examples/scenario.yaml
    #[arg(long, env = "TIEBAR_LOADGEN_SCENARIO", value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// The upstream whose faults the scenario sets, instead of the one it names
    #[arg(long, env = "TIEBAR_LOADGEN_UPSTREAM", value_name = "URL", value_parser = parse_target, requires = "scenario")]
    upstream: Option<Uri>,
    /// Print the final report as JSON
    #[arg(long, env = "TIEBAR_LOADGEN_JSON")]
    json: bool,
    #[command(flatten)]
    logs: LogFlags,
}

#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    let json = flags.json;
    let plan = match plan(flags) {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    match load(plan)
        .await
        .and_then(|report| Ok((print(&report, json)?, report.passed)))
    {
        Ok(((), true)) => ExitCode::SUCCESS,
        Ok(((), false)) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn plan(flags: Flags) -> Result<Plan, String> {
    let default_targets = || DEFAULT_TARGETS.map(Uri::from_static).to_vec();
    let mut plan = match &flags.scenario {
        Some(file) => Scenario::read(file, flags.upstream)
            .map_err(|error| error.to_string())?
            .into_plan(default_targets(), flags.rate),
        None => Plan::steady(default_targets(), flags.rate, flags.duration),
    };
    if !flags.target.is_empty() {
        plan.targets = flags.target;
    }
    plan.concurrency = flags.concurrency;
    plan.timeout = flags.timeout;
    plan.check().map_err(|invalid| invalid.to_string())?;
    Ok(plan)
}

async fn load(plan: Plan) -> Result<Report, String> {
    let shutdown = terminated().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let mut progress = progress::Progress::new(&plan);
    let report = loadgen::run(plan, |now| progress.show(now), shutdown).await;
    progress.finish();
    Ok(report)
}

fn print(report: &Report, json: bool) -> Result<(), String> {
    use std::io::Write;
    let text = if json {
        serde_json::to_string_pretty(report).map_err(|error| error.to_string())? + "\n"
    } else {
        report.to_string()
    };
    // Not `print!`, which panics when the reader has gone.
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot write the report: {error}"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("expected calls per second, a number from 0 to {RATE_MAX}"))
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    let calls = text.parse().ok().filter(|calls| (1..=CONCURRENCY_MAX).contains(calls));
    calls.ok_or_else(|| format!("expected a whole number from 1 to {CONCURRENCY_MAX}"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| format!("expected {} of more than 0s", duration::FORM))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|timeout| {
        if timeout <= TIMEOUT_MAX {
            Ok(timeout)
        } else {
            Err("expected at most 1h".to_owned())
        }
    })
}

//! `tiebar-upstream`: flags and signals around the library.

use std::process::ExitCode;

use clap::Parser;
use tiebar::cli::{LogFlags, parse_flags, terminated};
use upstream::{FaultProfile, LATENCY_MS_MAX, Upstream};

/// The unreliable service that Tiebar's circuit breakers are tried against.
///
/// Any path answers by the fault profile, which the flags below start with and `PUT /_faults` (or `PATCH`) changes while
/// it runs; `GET /_stats` counts what was answered. HTTP/1.1 and h2c on one port; requests of type application/grpc get
/// gRPC answers.
#[derive(Debug, Parser)]
// Negative numbers are values out of range, not unknown flags.
#[command(name = "tiebar-upstream", version = tiebar::cli::version(), allow_negative_numbers = true)]
struct Flags {
    /// The address to listen on; port 0 picks a free one, logged as `listening`
    #[arg(
        long,
        env = "TIEBAR_UPSTREAM_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9000"
    )]
    listen: String,
    #[command(flatten)]
    faults: FaultFlags,
    #[command(flatten)]
    logs: LogFlags,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Fault profile (percentages are shares of all requests, together at most 100)")]
struct FaultFlags {
    /// Requests answered with --error-status, in %, 0 to 100
    #[arg(long, env = "TIEBAR_UPSTREAM_ERROR_PERCENT", value_name = "PERCENT", default_value_t = 60, value_parser = percent())]
    error_percent: u8,
    /// The HTTP status of failing answers, 400 to 599
    #[arg(long, env = "TIEBAR_UPSTREAM_ERROR_STATUS", value_name = "STATUS", default_value_t = 500,
          value_parser = clap::value_parser!(u16).range(400..=599))]
    error_status: u16,
    /// How long every answer takes at least, in ms, 0 to 3600000
    #[arg(long, env = "TIEBAR_UPSTREAM_LATENCY_MS", value_name = "MS", default_value_t = 0, value_parser = ms())]
    latency_ms: u32,
    /// The most that is added to --latency-ms, drawn per request, in ms, 0 to 3600000
    #[arg(long, env = "TIEBAR_UPSTREAM_JITTER_MS", value_name = "MS", default_value_t = 0, value_parser = ms())]
    jitter_ms: u32,
    /// Requests that never get an answer, in %, 0 to 100
    #[arg(long, env = "TIEBAR_UPSTREAM_HANG_PERCENT", value_name = "PERCENT", default_value_t = 0, value_parser = percent())]
    hang_percent: u8,
    /// Requests whose TCP connection is reset instead of an answer, in %, 0 to 100
    #[arg(long, env = "TIEBAR_UPSTREAM_RESET_PERCENT", value_name = "PERCENT", default_value_t = 0, value_parser = percent())]
    reset_percent: u8,
    /// Chooses which requests go wrong; the same seed gives the same sequence
    #[arg(long, env = "TIEBAR_UPSTREAM_SEED", value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=100)
}

fn ms() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(LATENCY_MS_MAX))
}

impl From<FaultFlags> for FaultProfile {
    fn from(flags: FaultFlags) -> Self {
        let FaultFlags {
            error_percent,
            error_status,
            latency_ms,
            jitter_ms,
            hang_percent,
            reset_percent,
            seed,
        } = flags;
        Self {
            error_percent,
            error_status,
            latency_ms,
            jitter_ms,
            hang_percent,
            reset_percent,
            seed,
        }
    }
}

#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.start();
    tiebar::cli::ended(serve(flags).await)
}

async fn serve(flags: Flags) -> Result<(), String> {
    let profile = FaultProfile::from(flags.faults);
    profile
        .validate()
        .map_err(|invalid| format!("fault profile: {invalid}"))?;
    let terminated = terminated().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let upstream = Upstream::bind(&flags.listen, profile)
        .await
        .map_err(|error| format!("cannot listen on {} (--listen): {error}", flags.listen))?;
    upstream.run(terminated).await;
    Ok(())
}

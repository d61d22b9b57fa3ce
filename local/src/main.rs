//! `cargo run`: upstream, instances, load and operator in one process, over the embedded store or a real Redis.

mod fleet;
mod screen;

use clap::Parser;
use fleet::Fleet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreOptions, duration, parse_flags, terminated};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Runs a whole Tiebar on this machine: an unreliable service, three proxies that share its circuit breaker, load, and
/// the operator.
///
/// The service is scripted: sick for a while, then well, again and again. On a terminal, type a letter and Enter to
/// interfere.
#[derive(Debug, Parser)]
#[command(name = "tiebar-local", version = tiebar::cli::version())]
struct Flags {
    /// A Redis to keep the breaker in [default: a store inside this process]
    #[arg(long, env = "TIEBAR_REDIS", value_name = "URL", help_heading = "Store")]
    redis: Option<String>,
    /// How many proxies, 1 to 100
    #[arg(long, env = "TIEBAR_LOCAL_INSTANCES", value_name = "NUMBER", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    instances: u16,
    /// CircuitBreakers instead of the built-in one: a YAML file or a folder; they must name `unreliable_service`
    #[arg(long, env = "TIEBAR_LOCAL_BREAKERS", value_name = "PATH")]
    breakers: Option<PathBuf>,
    /// Added to every port (9000, 8001 …, 8101 …, 8081)
    #[arg(long, env = "TIEBAR_LOCAL_PORT_OFFSET", value_name = "NUMBER", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=50_000))]
    port_offset: u16,
    /// Stop after so long, such as 30s [default: at Ctrl-C]
    #[arg(long, env = "TIEBAR_LOCAL_DURATION", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// Calls per second over all proxies, 1 to 10000
    #[arg(long, env = "TIEBAR_LOCAL_RATE", value_name = "CALLS/S", default_value_t = 30,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rate: u16,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    logs: LogFlags,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    flags.logs.clone().start_quietly();
    match run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One turn of the script: so long sick, then so long well. Sick is short, so that half-open finds the service well.
const SICK: Duration = Duration::from_secs(6);
const CYCLE: Duration = Duration::from_secs(22);
/// Before the first sickness, so that one sees it well.
const START: Duration = Duration::from_secs(4);

async fn run(flags: Flags) -> anyhow::Result<()> {
    let terminated = terminated()?;
    let mut fleet = Fleet::start(fleet::Settings {
        redis: flags.redis,
        store: flags.store,
        instances: flags.instances,
        breakers: flags.breakers,
        port_offset: flags.port_offset,
        rate: flags.rate,
    })
    .await?;
    let mut screen = screen::Screen::new(fleet.welcome());
    let end = async {
        match flags.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(terminated, end);
    let started = tokio::time::Instant::now();
    let mut script = true;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let mut keys = BufReader::new(tokio::io::stdin()).lines();
    let mut listening = true;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let at = started.elapsed();
                if script {
                    let sick = at >= START && Duration::from_millis(((at - START).as_millis() % CYCLE.as_millis()) as u64) < SICK;
                    fleet.set_sick(sick);
                }
                screen.show(&fleet.picture(at).await);
            }
            line = keys.next_line(), if listening => match line {
                Ok(Some(line)) => match line.trim() {
                    "h" => { script = false; fleet.set_sick(false); screen.say("the service is well from now on"); }
                    "b" => { script = false; fleet.set_sick(true); screen.say("the service is sick from now on"); }
                    "a" => { script = true; screen.say("the script goes on"); }
                    "k" => screen.say(&fleet.kill_and_restart().await),
                    "s" => screen.say(&fleet.toggle_store()),
                    "q" => break,
                    _ => screen.say("h heal, b break, a script again, k kill an instance, s cut or restore the store, q quit"),
                },
                // No terminal: nobody will type.
                _ => listening = false,
            },
            failed = fleet.failed() => return Err(failed),
            () = &mut terminated => break,
            () = &mut end => break,
        }
    }
    let picture = fleet.picture(started.elapsed()).await;
    screen.summary(&picture);
    fleet.stop().await;
    Ok(())
}

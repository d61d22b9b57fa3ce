//! `cargo run`: upstream, instances, load, operator and dashboard in one process, over the embedded store or a real Redis.

mod fleet;
mod keys;
mod member;
mod play;
mod screen;

use clap::Parser;
use fleet::{Fleet, Health};
use keys::Keys;
use play::Play;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tiebar::cli::{LogFlags, StoreOptions, duration, parse_flags, terminated};
use tokio::time::MissedTickBehavior;
use tracing::level_filters::LevelFilter;

/// Runs a whole Tiebar on this machine: an unreliable service, three proxies that share its circuit breaker, load,
/// the operator and the dashboard.
///
/// The service is scripted: sick for a while, then well, again and again. On a terminal, keys interfere.
#[derive(Debug, Parser)]
// Negative numbers are values out of range, not unknown flags.
#[command(name = "tiebar-local", version = tiebar::cli::version(), allow_negative_numbers = true)]
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
    /// Added to every port (8080, 9000, 8001 …, 8101 …, 8081)
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
pub(crate) async fn main() -> ExitCode {
    let flags = match parse_flags::<Flags>() {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    // Warnings are what the picture shows; on a terminal they would tear it.
    let terminal = std::io::stdout().is_terminal();
    flags.logs.clone().start_quietly(if terminal {
        LevelFilter::ERROR
    } else {
        LevelFilter::WARN
    });
    tiebar::cli::ended(run(flags).await)
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
    let mut keys = Keys::listen();
    let mut screen = screen::Screen::new(fleet.welcome(), keys.there());
    let end = async {
        match flags.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(terminated, end);
    let started = tokio::time::Instant::now();
    let mut script = true;
    let mut play: Option<Play> = None;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    // A promise in milliseconds is not watched four times a second.
    let mut watch = tokio::time::interval(Duration::from_millis(2));
    watch.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let outcome = loop {
        tokio::select! {
            _ = tick.tick() => {
                let at = started.elapsed();
                if script && !play.as_ref().is_some_and(Play::holds_service) {
                    fleet.set_health(scripted(at));
                }
                fleet.revive().await;
                screen.show(&fleet.picture(at).await);
            }
            _ = watch.tick(), if play.is_some() => {
                if let Some(news) = play.as_mut().and_then(|play| play.look(&mut fleet)) {
                    // What led to it comes first.
                    screen.show(&fleet.picture(started.elapsed()).await);
                    screen.say(&stamped(started.elapsed(), &news.line));
                    if news.over {
                        play = None;
                    }
                }
            }
            key = keys.next() => match key {
                'h' | 'b' | 'k' | 's' => {
                    // Healing and breaking are the person's from now on.
                    script = script && matches!(key, 'k' | 's');
                    let (begun, line) = Play::begin(key, &mut fleet);
                    play = begun.or(play);
                    screen.say(&stamped(started.elapsed(), &line));
                }
                'a' => { script = true; screen.say(&stamped(started.elapsed(), "the script goes on")); }
                'q' => break Ok(()),
                _ => {}
            },
            failed = fleet.failed() => break Err(failed),
            () = &mut terminated => break Ok(()),
            () = &mut end => break Ok(()),
        }
    };
    drop(keys);
    if outcome.is_ok() {
        screen.summary(&fleet.picture(started.elapsed()).await);
    }
    fleet.stop().await;
    outcome
}

/// The script: well at first, then so long sick and so long well, again and again.
fn scripted(at: Duration) -> Health {
    let turn = at.checked_sub(START).map(|at| at.as_millis() % CYCLE.as_millis());
    match turn {
        Some(turn) if turn < SICK.as_millis() => Health::Sick,
        _ => Health::Well,
    }
}

fn stamped(at: Duration, line: &str) -> String {
    format!("{:>5.1}s {line}", at.as_secs_f64())
}

//! Open-loop load against services behind circuit breakers, and a verdict on what they did.
//!
//! *Open-loop*: calls have intended starts, a fixed time apart, and latency counts from there. A generator that waits
//! for the answer before it sends the next call slows down together with the service it measures, and reports the wait
//! of one call where a hundred users would have waited ("coordinated omission"). Timers fire on whole milliseconds, so
//! latencies contain 1 to 2 ms of the generator's own; to measure less, use a closed-loop tool.
//!
//! A [`Plan`] (built in code, or read from a [`Scenario`]) says what to send where; [`run`] sends it, tells a closure
//! about progress ([`Snapshot`]), and returns a [`Report`] whose [`Report::passed`] is the verdict.
//!
//! ```no_run
//! # async fn example() {
//! use std::time::Duration;
//!
//! let targets = vec!["http://127.0.0.1:8001".parse().expect("a URL")];
//! let plan = loadgen::Plan::steady(targets, 50.0, Some(Duration::from_secs(10)));
//! let report = loadgen::run(plan, |now| println!("{} calls", now.total.calls), std::future::pending()).await;
//! print!("{report}");
//! # }
//! ```

mod answer;
mod arrivals;
mod client;
pub mod duration;
mod histogram;
mod plan;
mod report;
mod rounds;
mod run;
mod scenario;
mod snapshot;
mod tally;
mod verdict;

pub use answer::{CircuitState, Kind};
pub use histogram::Latency;
pub use plan::{
    CONCURRENCY_MAX, DEFAULT_TARGETS, Expectations, InvalidPlan, Phase, Plan, RATE_MAX, ShareRange, TIMEOUT_MAX,
    parse_target,
};
pub use report::{HalfOpenReport, LatencyByKind, PhaseReport, Report, TargetReport};
pub use run::run;
pub use scenario::{Scenario, ScenarioError};
pub use snapshot::{PhaseProgress, Snapshot, TargetSnapshot};
pub use tally::{Counts, States};
pub use verdict::Finding;

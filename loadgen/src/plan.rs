//! What to send where, and what to expect of it.

use std::time::Duration;

use http::Uri;
use upstream::FaultProfile;

use crate::answer::CircuitState;

/// The three instances that run on one machine by default.
pub const DEFAULT_TARGETS: [&str; 3] = [
    "http://127.0.0.1:8001",
    "http://127.0.0.1:8002",
    "http://127.0.0.1:8003",
];
/// The highest rate, in calls per second over all targets.
pub const RATE_MAX: f64 = 100_000.0;
/// The most calls in flight at once.
pub const CONCURRENCY_MAX: usize = 10_000;
/// The longest a call may wait for its answer.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Each costs some 400 KB of histograms.
const TARGETS_MAX: usize = 100;
const PHASES_MAX: usize = 100;

/// A run: phases one after the other, each with its rate and the upstream's faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where calls go, in turn; `http` only, 1–100. The path is part of it.
    pub targets: Vec<Uri>,
    /// The most calls in flight: 1–10,000, default 200. As many again wait for their turn; more are *overdue*: counted,
    /// never started.
    pub concurrency: usize,
    /// How long a call may wait for its answer from its actual start: > 0, ≤ 1 h, default 10 s.
    pub timeout: Duration,
    /// The upstream whose `/_faults` is set when a phase with faults begins.
    pub upstream: Option<Uri>,
    /// What happens, in order; 1–100.
    pub phases: Vec<Phase>,
    /// What the run as a whole is expected to show.
    pub expect: Expectations,
    /// How often progress is told: > 0, default 1 s.
    pub progress_every: Duration,
}

/// A stretch of load at one rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// What progress and report call it.
    pub name: String,
    /// How long it lasts; `None`: until shutdown.
    pub duration: Option<Duration>,
    /// Calls per second over all targets: 0 (none) to 100,000.
    pub rate: f64,
    /// Faults that the upstream is given before the phase begins; `None`: it keeps those it has.
    pub faults: Option<FaultProfile>,
    /// What calls whose intended start is in this phase are expected to show.
    pub expect: Expectations,
}

/// What must hold for the verdict to be good. Shares are of all calls that ended, 0 to 1; overdue calls are in none.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Expectations {
    /// Calls that succeeded.
    pub ok_share: Option<ShareRange>,
    /// Calls that failed or had no answer.
    pub failed_share: Option<ShareRange>,
    /// Calls that a breaker rejected.
    pub blocked_share: Option<ShareRange>,
    /// States that `x-circuit-state` must have shown, in any order.
    pub states_seen: Vec<CircuitState>,
    /// The most calls that may pass as probes in one half-open spell, over all targets.
    pub max_probes_per_round: Option<u64>,
}

/// A share's bounds, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShareRange {
    /// 0 to 1, default 0.
    #[serde(deserialize_with = "crate::scenario::share")]
    pub min: f64,
    /// 0 to 1, default 1.
    #[serde(deserialize_with = "crate::scenario::share")]
    pub max: f64,
}

/// Why a plan cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPlan(pub(crate) String);

// === impl Plan ===

impl Plan {
    /// One phase at `rate` calls per second, for `duration` or until shutdown, with every other setting at its default.
    #[must_use]
    pub fn steady(targets: Vec<Uri>, rate: f64, duration: Option<Duration>) -> Self {
        let phase = Phase {
            name: "load".to_owned(),
            duration,
            rate,
            faults: None,
            expect: Expectations::default(),
        };
        Self::phased(targets, vec![phase])
    }

    /// These phases in order, with every other setting at its default.
    #[must_use]
    pub fn phased(targets: Vec<Uri>, phases: Vec<Phase>) -> Self {
        Self {
            targets,
            concurrency: 200,
            timeout: Duration::from_secs(10),
            upstream: None,
            phases,
            expect: Expectations::default(),
            progress_every: Duration::from_secs(1),
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the field as a scenario does, its value and what would be right.
    pub fn check(&self) -> Result<(), InvalidPlan> {
        let within = |holds: bool, message: String| if holds { Ok(()) } else { Err(InvalidPlan(message)) };
        let (targets, phases) = (self.targets.len(), self.phases.len());
        within(
            (1..=TARGETS_MAX).contains(&targets),
            format!("targets: {targets} of them, expected 1 to {TARGETS_MAX}"),
        )?;
        within(
            (1..=PHASES_MAX).contains(&phases),
            format!("phases: {phases} of them, expected 1 to {PHASES_MAX}"),
        )?;
        within(
            (1..=CONCURRENCY_MAX).contains(&self.concurrency),
            format!("concurrency: {}, expected 1 to {CONCURRENCY_MAX}", self.concurrency),
        )?;
        within(
            !self.timeout.is_zero() && self.timeout <= TIMEOUT_MAX,
            format!(
                "timeout: {:?}, expected more than 0 and at most {TIMEOUT_MAX:?}",
                self.timeout
            ),
        )?;
        within(
            !self.progress_every.is_zero(),
            "progress_every: 0, expected more".to_owned(),
        )?;
        for url in self.targets.iter().chain(&self.upstream) {
            within(is_http(url), format!("{url:?} is no {HTTP_URL}"))?;
        }
        self.expect.check("expect")?;
        for (index, phase) in self.phases.iter().enumerate() {
            let Phase {
                name,
                duration,
                rate,
                faults,
                expect,
            } = phase;
            let at = format!("phases[{index}] ({name:?})");
            within(
                (0.0..=RATE_MAX).contains(rate),
                format!("{at}.rate: {rate}, expected 0 to {RATE_MAX}"),
            )?;
            within(
                duration.is_none_or(|duration| !duration.is_zero()),
                format!("{at}.duration: 0s, expected more than that"),
            )?;
            within(
                duration.is_some() || index + 1 == phases,
                format!("{at}.duration: missing, expected {}", crate::duration::FORM),
            )?;
            let same_name = self.phases.iter().take(index).any(|earlier| earlier.name == *name);
            within(
                !same_name,
                format!("phases[{index}].name: {name:?} again, expected a name of its own"),
            )?;
            expect.check(&format!("{at}.expect"))?;
            if let Some(faults) = faults {
                faults
                    .validate()
                    .map_err(|invalid| InvalidPlan(format!("{at}.faults: {invalid}")))?;
                within(
                    self.upstream.is_some(),
                    format!("upstream: missing, expected the URL of the upstream that {at}.faults are set on"),
                )?;
            }
        }
        Ok(())
    }

    /// Whether anything is expected beyond being able to run.
    pub(crate) fn expects(&self) -> bool {
        let nothing = Expectations::default();
        self.expect != nothing || self.phases.iter().any(|phase| phase.expect != nothing)
    }
}

// === impl Expectations ===

impl Expectations {
    pub(crate) fn shares(&self) -> [(&'static str, Option<ShareRange>); 3] {
        [
            ("okShare", self.ok_share),
            ("failedShare", self.failed_share),
            ("blockedShare", self.blocked_share),
        ]
    }

    fn check(&self, at: &str) -> Result<(), InvalidPlan> {
        for (name, range) in self.shares() {
            let Some(ShareRange { min, max }) = range else { continue };
            if !(0.0 <= min && min <= max && max <= 1.0) {
                let message = format!("{at}.{name}: min {min}, max {max}, expected 0 ≤ min ≤ max ≤ 1");
                return Err(InvalidPlan(message));
            }
        }
        Ok(())
    }
}

// === impl ShareRange ===

impl Default for ShareRange {
    fn default() -> Self {
        Self { min: 0.0, max: 1.0 }
    }
}

pub(crate) const HTTP_URL: &str = "URL such as http://127.0.0.1:8001 (scheme http, no TLS)";

fn is_http(url: &Uri) -> bool {
    url.scheme_str() == Some("http") && url.host().is_some_and(|host| !host.is_empty())
}

/// A URL as people write it: the slash that parsing adds to a bare address is gone.
pub(crate) fn label(url: &Uri) -> String {
    let text = url.to_string();
    if url.path() == "/" && url.query().is_none() {
        text.trim_end_matches('/').to_owned()
    } else {
        text
    }
}

/// Parses a URL that calls can go to.
///
/// # Errors
/// Says what was wrong with it and what would be right.
pub fn parse_target(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is no {HTTP_URL}");
    text.parse::<Uri>().ok().filter(is_http).ok_or_else(wrong)
}

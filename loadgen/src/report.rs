//! What a finished run has to say, for people (`Display`) and for machines (JSON).

use std::fmt;
use std::time::Duration;

use crate::answer::CircuitState;
use crate::histogram::Latency;
use crate::plan;
use crate::run::Gathered;
use crate::tally::{Counts, States};
use crate::verdict::{Finding, Observed, judge};

/// The result of a run.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The verdict: it ran, at least one call was answered, and every expectation held over the whole plan.
    pub passed: bool,
    /// How long it took, waiting for the last calls included, in seconds.
    pub seconds: f64,
    /// Whether it was told to stop before its end.
    pub interrupted: bool,
    /// Why it could not go on, if so.
    pub problem: Option<String>,
    /// Over all targets.
    pub total: Counts,
    /// Calls that were in flight when a run that was told to stop gave up waiting; not in `total`.
    pub abandoned: u64,
    /// From the intended start to the end of the answer. In JSON: milliseconds.
    #[serde(rename = "latencyMs")]
    pub latency: LatencyByKind,
    /// What half-open spells looked like from outside.
    pub half_open: HalfOpenReport,
    /// In the plan's order.
    pub targets: Vec<TargetReport>,
    /// In the plan's order, those never reached included.
    pub phases: Vec<PhaseReport>,
    /// The expectations; the whole run's first.
    pub findings: Vec<Finding>,
}

/// Latencies of all calls, and of those that ended in one way: a rejection takes no time and would hide the rest.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct LatencyByKind {
    /// Every call that ended, unanswered ones included.
    pub all: Latency,
    /// Those that succeeded.
    pub ok: Latency,
    /// Those that failed with an answer.
    pub failed: Latency,
    /// Those that a breaker rejected.
    pub blocked: Latency,
}

/// Half-open spells, as told by `x-circuit-state`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HalfOpenReport {
    /// How many there were.
    pub rounds: u64,
    /// The most calls that passed in one.
    pub max_probes: u64,
}

/// What one target did.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetReport {
    /// Its URL as in the plan.
    pub target: String,
    /// Its calls.
    #[serde(flatten)]
    pub counts: Counts,
    /// Of all its calls. In JSON: milliseconds.
    #[serde(rename = "latencyMs")]
    pub latency: Latency,
    /// The states that its answers named.
    pub states: States,
    /// The state that its last answer named.
    pub last_state: Option<CircuitState>,
}

/// What happened to the calls that should have started in one phase.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Its calls.
    #[serde(flatten)]
    pub counts: Counts,
    /// Of all its calls. In JSON: milliseconds.
    #[serde(rename = "latencyMs")]
    pub latency: Latency,
    /// The states that answers named.
    pub states: States,
}

/// Sums up and judges.
pub(crate) fn write(gathered: &Gathered, elapsed: Duration) -> Report {
    let Gathered {
        plan, total, rounds, ..
    } = gathered;
    let whole = Observed {
        counts: total.counts,
        states: total.states,
        max_probes: rounds.max_probes(),
    };
    let mut findings = judge(None, &plan.expect, whole);
    for (index, (phase, tally)) in plan.phases.iter().zip(&gathered.phases).enumerate() {
        let of_phase = Observed {
            counts: tally.counts,
            states: tally.states,
            max_probes: rounds.max_probes_in(index),
        };
        findings.extend(judge(Some(&phase.name), &phase.expect, of_phase));
    }
    let could_run = gathered.problem.is_none() && total.counts.answered() > 0;
    let all_shown = !(gathered.interrupted && plan.expects());
    let [ok, failed, blocked] = gathered.by_kind.each_ref().map(crate::histogram::Latencies::summary);
    Report {
        passed: could_run && all_shown && findings.iter().all(|finding| finding.held),
        seconds: elapsed.as_secs_f64(),
        interrupted: gathered.interrupted,
        problem: gathered.problem.clone(),
        total: total.counts,
        abandoned: gathered.abandoned,
        latency: LatencyByKind {
            all: total.latencies.summary(),
            ok,
            failed,
            blocked,
        },
        half_open: HalfOpenReport {
            rounds: rounds.count(),
            max_probes: rounds.max_probes(),
        },
        targets: (plan.targets.iter().zip(&gathered.targets))
            .map(|(uri, target)| TargetReport {
                target: plan::label(uri),
                counts: target.tally.counts,
                latency: target.tally.latencies.summary(),
                states: target.tally.states,
                last_state: target.state,
            })
            .collect(),
        phases: (plan.phases.iter().zip(&gathered.phases))
            .map(|(phase, tally)| PhaseReport {
                name: phase.name.clone(),
                counts: tally.counts,
                latency: tally.latencies.summary(),
                states: tally.states,
            })
            .collect(),
        findings,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || {
            let targets = self
                .targets
                .iter()
                .map(|t| (t.target.as_str(), t.counts, t.latency, Some(t.states)));
            // A single phase is the total again.
            let phases = self.phases.iter().filter(|_| self.phases.len() > 1);
            let phases = phases.map(|p| (p.name.as_str(), p.counts, p.latency, Some(p.states)));
            let total = std::iter::once(("all", self.total, self.latency.all, None));
            targets.chain(phases).chain(total)
        };
        let width = rows().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
        writeln!(
            f,
            "{:width$} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8} {:>8}   states",
            "", "calls", "ok", "failed", "blocked", "no reply", "overdue", "p50 ms", "p95 ms", "p99 ms", "max ms"
        )?;
        for (name, counts, latency, states) in rows() {
            let Counts {
                calls,
                ok,
                failed,
                blocked,
                unanswered,
                overdue,
            } = counts;
            let seen: Vec<&str> = states
                .iter()
                .flat_map(|states| states.seen().map(CircuitState::name))
                .collect();
            let line = format!(
                "{name:width$} {calls:>8} {ok:>8} {failed:>8} {blocked:>8} {unanswered:>8} {overdue:>8}   {}   {}",
                Columns(latency),
                seen.join(" ")
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        let (counts, latency) = (self.total, self.latency);
        let by_kind = [
            ("ok", counts.ok, latency.ok),
            ("failed", counts.failed, latency.failed),
            ("blocked", counts.blocked, latency.blocked),
        ];
        for (name, _, latency) in by_kind.into_iter().filter(|(_, calls, _)| *calls > 0) {
            // 53 is the width of the six counts, less the space before them.
            writeln!(f, "{name:width$} {:53}   {}", "", Columns(latency))?;
        }
        let HalfOpenReport { rounds, max_probes } = self.half_open;
        writeln!(
            f,
            "{:.1} s; {rounds} half-open rounds, at most {max_probes} probes in one",
            self.seconds
        )?;
        if self.abandoned > 0 {
            writeln!(f, "{} calls were still in flight at the end", self.abandoned)?;
        }
        for Finding {
            phase,
            expectation,
            wanted,
            seen,
            held,
        } in &self.findings
        {
            let mark = if *held { "held  " } else { "FAILED" };
            let phase = phase.as_deref().unwrap_or("whole run");
            writeln!(f, "{mark} {phase}: {expectation} {wanted}; seen: {seen}")?;
        }
        if let Some(problem) = &self.problem {
            writeln!(f, "FAILED {problem}")?;
        } else if self.total.answered() == 0 {
            writeln!(f, "FAILED not one call was answered")?;
        } else if self.interrupted && !self.findings.is_empty() {
            writeln!(f, "FAILED stopped before its end, so not everything expected was shown")?;
        }
        writeln!(f, "{}", if self.passed { "PASSED" } else { "NOT PASSED" })
    }
}

/// The four percentiles in ms, as table columns.
struct Columns(Latency);

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |latency: Duration| latency.as_secs_f64() * 1_000.0;
        let Latency { p50, p95, p99, max } = self.0;
        write!(f, "{:>8.1} {:>8.1} {:>8.1} {:>8.1}", ms(p50), ms(p95), ms(p99), ms(max))
    }
}

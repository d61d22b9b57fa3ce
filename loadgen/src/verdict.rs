//! Whether what was seen is what was expected.

use crate::plan::Expectations;
use crate::tally::{Counts, States};

/// One expectation, and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The phase's name; `None`: the whole run.
    pub phase: Option<String>,
    /// The expectation's name in a scenario.
    pub expectation: &'static str,
    /// What should have been.
    pub wanted: String,
    /// What was.
    pub seen: String,
    /// Whether that is good.
    pub held: bool,
}

/// What an expectation is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed {
    pub(crate) counts: Counts,
    pub(crate) states: States,
    pub(crate) max_probes: u64,
}

/// Judges every expectation that is there.
pub(crate) fn judge(phase: Option<&str>, expect: &Expectations, observed: Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |expectation, wanted, seen, held| {
        findings.push(Finding {
            phase: phase.map(str::to_owned),
            expectation,
            wanted,
            seen,
            held,
        });
    };
    let Observed {
        counts,
        states,
        max_probes,
    } = observed;
    let counted = [counts.ok, counts.failed + counts.unanswered, counts.blocked];
    for ((name, range), count) in expect.shares().into_iter().zip(counted) {
        let Some(range) = range else { continue };
        let wanted = format!("{} to {}", range.min, range.max);
        if counts.calls == 0 {
            // 0 of 0 is no share, and a phase that sent nothing shows nothing.
            find(name, wanted, "no calls".to_owned(), false);
            continue;
        }
        // Far below 2^53 calls.
        #[allow(clippy::cast_precision_loss)]
        let share = count as f64 / counts.calls as f64;
        let held = (range.min..=range.max).contains(&share);
        find(name, wanted, format!("{share:.4} ({count} of {})", counts.calls), held);
    }
    if !expect.states_seen.is_empty() {
        let held = expect.states_seen.iter().all(|state| states.count(*state) > 0);
        let join = |names: Vec<&str>| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        let wanted = join(expect.states_seen.iter().map(|state| state.name()).collect());
        find(
            "statesSeen",
            wanted,
            join(states.seen().map(|state| state.name()).collect()),
            held,
        );
    }
    if let Some(most) = expect.max_probes_per_round {
        find(
            "maxProbesPerRound",
            format!("at most {most}"),
            max_probes.to_string(),
            max_probes <= most,
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::CircuitState;
    use crate::plan::ShareRange;

    fn observed(ok: u64, failed: u64, blocked: u64, unanswered: u64) -> Observed {
        let calls = ok + failed + blocked + unanswered;
        let counts = Counts {
            calls,
            ok,
            failed,
            blocked,
            unanswered,
            overdue: 0,
        };
        Observed {
            counts,
            states: States::default(),
            max_probes: 0,
        }
    }

    fn held(expect: &Expectations, observed: Observed) -> bool {
        let findings = judge(None, expect, observed);
        assert_eq!(findings.len(), 1, "one expectation, one finding");
        findings[0].held
    }

    #[test]
    fn shares_are_of_ended_calls_and_bounds_are_inclusive() {
        let expect = |min, max| Expectations {
            blocked_share: Some(ShareRange { min, max }),
            ..Expectations::default()
        };
        assert!(held(&expect(0.25, 0.25), observed(1, 1, 1, 1)));
        assert!(!held(&expect(0.26, 1.0), observed(1, 1, 1, 1)));
        assert!(!held(&expect(0.0, 0.24), observed(1, 1, 1, 1)));
        assert!(
            !held(&expect(0.0, 1.0), observed(0, 0, 0, 0)),
            "without calls nothing was shown"
        );
    }

    #[test]
    fn an_unanswered_call_is_a_failed_one() {
        let range = Some(ShareRange { min: 0.5, max: 0.5 });
        let expect = Expectations {
            failed_share: range,
            ..Expectations::default()
        };
        assert!(held(&expect, observed(1, 1, 1, 1)));
    }

    #[test]
    fn every_state_listed_must_have_been_seen() {
        let expect = Expectations {
            states_seen: vec![CircuitState::Open],
            ..Expectations::default()
        };
        assert!(!held(&expect, observed(1, 0, 0, 0)));
    }

    #[test]
    fn one_probe_too_many_fails() {
        let expect = Expectations {
            max_probes_per_round: Some(5),
            ..Expectations::default()
        };
        assert!(held(
            &expect,
            Observed {
                max_probes: 5,
                ..observed(1, 0, 0, 0)
            }
        ));
        assert!(!held(
            &expect,
            Observed {
                max_probes: 6,
                ..observed(1, 0, 0, 0)
            }
        ));
    }

    #[test]
    fn nothing_expected_nothing_found() {
        assert!(judge(None, &Expectations::default(), observed(0, 0, 0, 0)).is_empty());
    }
}

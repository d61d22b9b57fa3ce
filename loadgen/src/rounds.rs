//! Half-open spells, told apart by nothing but the answers' `x-circuit-state`.
//!
//! A *spell* is the stretch from a first probe's answer until one of the targets that took part has moved on, so it
//! should see at most `permittedCalls` probes. Rejected: ending it at the first answer of any target that says otherwise,
//! which splits spells and misses a stampede, because targets learn of a transition milliseconds apart and calls that were
//! admitted before it are still being answered. Hence "moved on": a call *started* after that target's last half-open
//! answer says something else. A probe that ends late belongs to the spell in which it started.
//!
//! Two rounds with no call in between (a very short open state, a very low rate) look like one spell.

use tokio::time::Instant;

use crate::answer::{Answer, CircuitState, Kind};

/// What has been seen of one spell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spell {
    /// The phase of its first probe.
    pub(crate) phase: usize,
    pub(crate) probes: u64,
}

/// Counts probes by spell; remembers a number per phase, not per spell.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// Per target: when it last answered half-open in the current spell.
    last_half_open: Vec<Option<Instant>>,
    current: Option<Spell>,
    /// The spell before, and when it was over: its late probes still belong to it.
    previous: Option<(Spell, Instant)>,
    spells: u64,
    max_by_phase: Vec<u64>,
}

impl Rounds {
    pub(crate) fn new(targets: usize, phases: usize) -> Self {
        Self {
            last_half_open: vec![None; targets],
            current: None,
            previous: None,
            spells: 0,
            max_by_phase: vec![0; phases],
        }
    }

    /// Takes an answer's evidence: `target` and `phase` are indices, `started` and `ended` the call's own times.
    pub(crate) fn observe(&mut self, target: usize, phase: usize, started: Instant, ended: Instant, answer: Answer) {
        let Some(state) = answer.state else { return };
        let moved_on = || self.last_half_open[target].is_some_and(|last| started >= last);
        if state == CircuitState::HalfOpen && answer.kind != Kind::Blocked {
            self.probe(target, phase, started, ended);
        } else if state == CircuitState::HalfOpen && self.current.is_some() {
            // No probe, but this target knows of the round, so that it can also tell when it is over.
            self.last_half_open[target] = Some(ended);
        } else if state != CircuitState::HalfOpen && moved_on() {
            self.previous = self.current.take().map(|spell| (spell, started));
            self.last_half_open.fill(None);
        }
    }

    /// Spells so far.
    pub(crate) fn count(&self) -> u64 {
        self.spells
    }

    /// The most probes in a spell that began in `phase`; 0 without one.
    pub(crate) fn max_probes_in(&self, phase: usize) -> u64 {
        self.max_by_phase[phase]
    }

    /// The most probes in any spell.
    pub(crate) fn max_probes(&self) -> u64 {
        self.max_by_phase.iter().copied().max().unwrap_or(0)
    }

    fn probe(&mut self, target: usize, phase: usize, started: Instant, ended: Instant) {
        let late = self.previous.as_mut().filter(|(_, over)| started < *over);
        let spell = if let Some((spell, _)) = late {
            spell
        } else {
            self.last_half_open[target] = Some(ended);
            self.current.get_or_insert_with(|| {
                self.spells += 1;
                Spell { phase, probes: 0 }
            })
        };
        spell.probes += 1;
        let max = &mut self.max_by_phase[spell.phase];
        *max = spell.probes.max(*max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Calls with start and end in ms, in the order of their ends.
    fn rounds(calls: &[(usize, u64, u64, Kind, CircuitState)]) -> Rounds {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut rounds = Rounds::new(3, 1);
        for (target, started, ended, kind, state) in calls {
            let answer = Answer {
                kind: *kind,
                state: Some(*state),
            };
            rounds.observe(*target, 0, at(*started), at(*ended), answer);
        }
        rounds
    }

    use CircuitState::{Closed, HalfOpen, Open};
    use Kind::{Blocked, Failed, Ok};

    #[test]
    fn probes_of_all_targets_count_together_and_refusals_do_not() {
        let rounds = rounds(&[
            (0, 0, 1, Blocked, Open),
            (0, 10, 11, Ok, HalfOpen),
            (1, 10, 12, Ok, HalfOpen),
            (2, 12, 13, Blocked, HalfOpen),
            (2, 14, 15, Ok, HalfOpen),
            (0, 20, 21, Ok, Closed),
        ]);
        assert_eq!((rounds.count(), rounds.max_probes()), (1, 3));
    }

    #[test]
    fn a_target_that_took_part_ends_the_spell() {
        let rounds = rounds(&[
            (0, 10, 11, Failed, HalfOpen),
            (0, 12, 13, Blocked, Open),
            (1, 30, 31, Ok, HalfOpen),
            (1, 32, 33, Ok, HalfOpen),
            (1, 40, 41, Ok, Closed),
        ]);
        assert_eq!((rounds.count(), rounds.max_probes()), (2, 2));
    }

    #[test]
    fn targets_that_lag_and_calls_from_before_do_not_split_it() {
        let rounds = rounds(&[
            (0, 10, 11, Ok, HalfOpen),
            (1, 11, 12, Blocked, Open), // has not heard of the round
            (0, 5, 13, Failed, Closed), // admitted long before
            (0, 13, 14, Ok, HalfOpen),
            (2, 13, 15, Ok, HalfOpen),
        ]);
        assert_eq!(
            (rounds.count(), rounds.max_probes()),
            (1, 3),
            "a stampede must not hide behind such answers"
        );
    }

    #[test]
    fn a_probe_that_ends_late_belongs_to_the_spell_it_started_in() {
        let rounds = rounds(&[
            (0, 10, 11, Failed, HalfOpen),
            (0, 12, 13, Blocked, Open),
            (1, 10, 50, Failed, HalfOpen),
            (0, 60, 61, Ok, HalfOpen),
        ]);
        assert_eq!((rounds.count(), rounds.max_probes()), (2, 2));
    }
}

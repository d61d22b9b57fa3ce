//! What is known to have happened, and the invariants it must hold. Numbers as in the contract.

use crate::edges::is_edge;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use tiebar::machine::{Data, Row};
use tiebar::policy::Mode;
use tiebar::state::{Reason, State};
use tiebar::store::{Event, Exchange, Reply};

/// What was stored before a decision.
pub(crate) struct Before {
    pub(crate) data: Option<Data>,
    /// The generation of the last event.
    pub(crate) last_event: Option<u64>,
}

/// Collected over one run.
#[derive(Default)]
pub(crate) struct Evidence {
    /// The first thing that must not happen.
    pub(crate) broken: Option<String>,
    /// Batches applied, since the store last forgot.
    applied: BTreeSet<(String, u64)>,
    /// Outcomes and probes applied.
    pub(crate) counted: u64,
    pub(crate) decisions: u64,
    pub(crate) edges: BTreeMap<String, u64>,
    /// Probes that reached the dependency, by generation, since the store last forgot.
    probes: BTreeMap<u64, u64>,
    trace: DefaultHasher,
}

impl Evidence {
    pub(crate) fn breaks(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// A number that tells two runs apart.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// The store lost decisions: what it may do twice from now on is not its fault.
    pub(crate) fn forgot(&mut self) {
        self.applied.clear();
        self.probes.clear();
    }

    /// A guard let a probe through.
    pub(crate) fn probed(&mut self, generation: u64, row: &Row) {
        let started = self.probes.entry(generation).or_default();
        *started += 1;
        let started = *started;
        let granted = row.data.as_ref().filter(|data| data.core.generation == generation);
        if let Some(granted) = granted.map(|data| data.core.next_lease - 1)
            && started > granted
        {
            self.breaks(|| format!("I2: {started} probes on {granted} leases of generation {generation}"));
        }
    }

    /// An instance decided.
    pub(crate) fn decided(&mut self, before: &Before, after: &Row, request: &Exchange, reply: &Reply) {
        self.decisions += 1;
        (
            &request.instance,
            reply.view.as_ref().map(|view| (view.seq, view.generation, view.state)),
        )
            .hash(&mut self.trace);
        self.transitions(before, after);
        self.counted += reply.applied;
        self.closed_by_loss(before, after, request, reply);
        if reply.applied == 0 {
            self.no_evidence(before, after);
        }
        let Some(batch) = &request.batch else { return };
        if reply.applied > 0 && !self.applied.insert((request.boot.clone(), batch.number)) {
            self.breaks(|| format!("I6: batch {} of {} applied twice", batch.number, request.boot));
        }
        // What the memory in the same request restores comes before its outcomes.
        let current = before.data.as_ref().map(|data| data.core.generation);
        let restored = after
            .events
            .iter()
            .any(|event| event.reason == Reason::Reseeded && Some(event.generation) > current);
        if reply.applied > 0 && !restored && current.is_some_and(|current| current != batch.generation) {
            self.breaks(|| format!("I5: outcomes of {} applied to {current:?}", batch.generation));
        }
    }

    /// I3: a lost state comes back closed only from an instance that knew it closed, or under generation 0.
    fn closed_by_loss(&mut self, before: &Before, after: &Row, request: &Exchange, reply: &Reply) {
        let memory = request.memory.as_ref().filter(|memory| memory.generation > reply.floor);
        let knew = memory.map(|memory| State::from_code(memory.state));
        let disabled = after.data.as_ref().is_some_and(|data| data.core.mode == Mode::Disabled);
        for event in fresh(before, after) {
            let wrong = match (event.from, event.to, event.reason) {
                (None, State::Closed, Reason::Seeded) => event.generation > 0 || knew.is_some(),
                (None, State::Closed, _) => {
                    !disabled && !matches!(knew, Some(Some(State::Closed | State::ForcedClosed)))
                }
                _ => false,
            };
            if wrong {
                self.breaks(|| format!("I3: {event:?} by {request:?}"));
            }
        }
    }

    /// I9: without an outcome no count rises.
    fn no_evidence(&mut self, before: &Before, after: &Row) {
        let (Some(was), Some(is)) = (&before.data, &after.data) else {
            return;
        };
        let (was, is) = (&was.core, &is.core);
        let (had, has) = (was.sums(), is.sums());
        let rose =
            has.calls > had.calls || has.failing > had.failing || has.slow > had.slow || is.finished > was.finished;
        if was.generation == is.generation && rose {
            self.breaks(|| format!("I9: {had:?} became {has:?} without an outcome"));
        }
    }

    /// The operator wrote.
    pub(crate) fn written(&mut self, before: &Before, after: &Row) {
        self.transitions(before, after);
    }

    fn transitions(&mut self, before: &Before, after: &Row) {
        if let Some(data) = &after.data {
            let core = &data.core;
            let probes = core.leases.len() as u64 + core.finished;
            if core.state == State::HalfOpen && probes > core.permitted {
                self.breaks(|| format!("I2: {probes} probes of {}", core.permitted));
            }
        }
        let fresh = fresh(before, after);
        let mut was = before.data.as_ref().map(|data| data.core.generation);
        for event in fresh.iter().rev() {
            let edge = format!(
                "{} → {} {}",
                event.from.map_or("–", State::as_str),
                event.to,
                event.reason
            );
            if !is_edge(event.from, event.to, event.reason) {
                self.breaks(|| format!("no such edge: {edge}"));
            }
            if was.is_some_and(|was| event.generation <= was) {
                self.breaks(|| format!("I1: generation {} after {was:?}", event.generation));
            }
            was = Some(event.generation);
            *self.edges.entry(edge).or_default() += 1;
        }
        if was != after.data.as_ref().map(|data| data.core.generation) && after.data.is_some() {
            self.breaks(|| format!("I1: generation changed from {was:?} without an event"));
        }
        if let (Some(was), Some(is)) = (&before.data, &after.data) {
            self.lasts(was, is, &fresh);
        }
    }

    /// I4: open lasts to its deadline unless a person interferes.
    fn lasts(&mut self, was: &Data, is: &Data, fresh: &[&Event]) {
        let ended = was.core.state == State::Open && is.core.clock < was.core.open_until;
        let by = fresh.iter().find(|event| event.from == Some(State::Open));
        if let Some(by) = by.filter(|by| ended && by.reason == Reason::WaitElapsed) {
            self.breaks(|| {
                format!(
                    "I4: open ended {} ms early: {by:?}",
                    was.core.open_until - is.core.clock
                )
            });
        }
    }
}

/// The events of one decision, newest first.
fn fresh<'a>(before: &Before, after: &'a Row) -> Vec<&'a Event> {
    let known = before.last_event;
    let events = after.events.iter().rev();
    events
        .take_while(|event| known.is_none_or(|known| event.generation > known))
        .collect()
}

//! Which transitions were only observed: a shadow machine made them, and every call passed.
//!
//! A transition does not say the mode it happened in, but every change of the mode is a transition of its own. So the
//! mode is read backwards from the present one; before a change, whatever opened was observed if it is enforced now, and
//! the other way round. (A breaker that is disabled now may have been either; it is drawn as the graver.)

use crate::model::{Breaker, Model};
use std::collections::HashMap;
use tiebar::id::ServiceId;
use tiebar::policy::Mode;
use tiebar::state::Reason;
use tiebar::store::Event;

/// The modes of one walk from the newest transitions to the oldest.
pub(crate) struct Observed<'a> {
    model: &'a Model,
    modes: HashMap<ServiceId, Mode>,
}

impl<'a> Observed<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        Self {
            model,
            modes: HashMap::new(),
        }
    }

    /// Whether the next older transition of this breaker was only observed. A forced state is real in every mode.
    pub(crate) fn next(&mut self, id: &ServiceId, event: &Event) -> bool {
        let model = self.model;
        let present = || model.breakers.get(id).map_or(Mode::Enforce, |breaker| mode(breaker));
        let known = self.modes.entry(id.clone()).or_insert_with(present);
        let observed = *known == Mode::Observe && !event.to.is_forced();
        if event.reason == Reason::ModeChanged {
            *known = if *known == Mode::Enforce {
                Mode::Observe
            } else {
                Mode::Enforce
            };
        }
        observed
    }
}

/// As the store has adopted it; a newer one may be programmed already.
fn mode(breaker: &Breaker) -> Mode {
    let adopted = breaker.snapshot.as_ref().map(|snapshot| snapshot.view.mode);
    adopted.unwrap_or_else(|| breaker.policy().mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebar::state::State;

    fn event(to: State, reason: Reason) -> Event {
        Event {
            generation: 0,
            from: None,
            to,
            reason,
            at: 0,
            instance: String::new(),
            snapshot: String::new(),
        }
    }

    #[test]
    fn a_change_of_mode_parts_what_was_observed_from_what_was_enforced() {
        let (model, id) = (Model::default(), ServiceId::parse("a").unwrap());
        let (trip, change) = (Reason::FailureRateExceeded, Reason::ModeChanged);
        let newest_first = [
            (event(State::Open, trip), false),
            (event(State::Closed, change), false),
            (event(State::ForcedOpen, Reason::Override), false),
            (event(State::Open, trip), true),
            (event(State::Closed, change), true),
            (event(State::Open, trip), false),
        ];
        let mut observed = Observed::new(&model);
        for (event, wanted) in &newest_first {
            assert_eq!(observed.next(&id, event), *wanted, "{event:?}");
        }
        let mut another = Observed::new(&model);
        another.modes.insert(id.clone(), Mode::Observe);
        assert!(another.next(&id, &event(State::Open, trip)));
    }
}

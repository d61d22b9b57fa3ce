//! What calls see: the word, and the details behind it.

use super::govern::Governor;
use super::{Heard, Recorder};
use crate::guard::Presented;
use crate::guard::inner::{Details, RAMP_ONE, lock};
use crate::guard::word::{Gate, HESITATE, Word};
use crate::policy::{Mode, StoreFailurePolicy};
use crate::state::State;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

impl Recorder {
    /// Makes the word say what governs now, then the log, which calls need not wait for.
    pub(super) fn publish(&mut self) {
        let now = Instant::now();
        let local = self.is_local();
        let fallback = self.governor == Governor::Fallback;
        let isolated = matches!(self.governor, Governor::Isolated(_));
        self.inner.degraded.store(fallback, Ordering::Relaxed);
        self.inner.isolated.store(isolated, Ordering::Relaxed);
        if let Some(policy) = self.policy() {
            self.inner.slow_ms.store(policy.slow_call_ms, Ordering::Relaxed);
            self.inner.timeout_ms.store(policy.call_timeout_ms, Ordering::Relaxed);
        }
        let mut word = Word {
            gate: Gate::Pass,
            hesitate: false,
            local,
            gauge: self.policy().is_some_and(|policy| policy.slow_rate_bp > 0),
            presented: Presented::State(State::Closed),
            generation: self.governing().map_or(0, |heard| heard.view.generation),
        };
        let denied = fallback
            && self
                .policy()
                .is_some_and(|policy| policy.store_failure == StoreFailurePolicy::Deny);
        if self.config.is_none() || self.unconfigured_by_store {
            word.gate = Gate::Free;
            word.presented = Presented::Unconfigured;
        } else if let Some(heard) = self.governing().cloned() {
            self.gate(&heard, &mut word, now, denied, isolated);
        }
        if denied {
            word.gate = Gate::Ask;
            lock(&self.inner.details).denied = true;
        }
        let guarded = matches!(word.gate, Gate::Pass | Gate::Ramp) && !local && !fallback;
        let headroom = if guarded { self.headroom(now) } else { u64::MAX };
        self.inner.headroom.store(headroom, Ordering::Release);
        let may_trip = || guarded && self.inner.unanswered.load(Ordering::Acquire) > headroom;
        word.hesitate = may_trip();
        let known = Word::unpack(self.inner.word.load(Ordering::Acquire));
        let swap = || {
            self.inner.word.swap(word.pack(), Ordering::AcqRel);
        };
        if (known.generation, known.local) == (word.generation, word.local) {
            swap();
        } else {
            self.collector.change_state(&self.inner.outbox, word.generation, swap);
        }
        // A call that ended meanwhile may have set the bit, which is lost now: the swap saw its count, so look again.
        if !word.hesitate && may_trip() {
            self.inner.word.fetch_or(HESITATE, Ordering::AcqRel);
        }
        self.inner.answered.notify_waiters();
        if let (Some(from), Some(Heard { view, .. })) = (self.left.take(), &self.heard) {
            tracing::info!(breaker = %self.inner.id, %from, to = %view.state, reason = %view.reason,
                generation = view.generation, "transition");
        }
    }

    pub(super) fn gate(&self, heard: &Heard, word: &mut Word, now: Instant, denied: bool, isolated: bool) {
        let view = &heard.view;
        let left = |ms: u64| heard.at + Duration::from_millis(ms);
        let mut details = lock(&self.inner.details);
        // A deadline further away than the whole duration is a damaged one.
        let open_ms = view.remaining_ms.min(view.last_open_ms.max(1));
        *details = Details {
            state: view.state,
            isolated,
            denied,
            open_until: left(open_ms),
            forced_until: (view.remaining_ms > 0).then(|| left(view.remaining_ms)),
            refused_until: details.refused_until,
        };
        drop(details);
        if view.mode == Mode::Disabled {
            word.gate = Gate::Free;
            return;
        }
        if view.mode == Mode::Observe && !view.state.is_forced() {
            word.gate = if view.state == State::Open {
                Gate::Shadow
            } else {
                Gate::Pass
            };
            return;
        }
        word.presented = Presented::State(view.state);
        word.gate = match view.state {
            State::Closed if view.ramp_age_ms.is_some() => {
                self.set_ramp(heard, now);
                if self.inner.ramp_share.load(Ordering::Relaxed) >= RAMP_ONE {
                    Gate::Pass
                } else {
                    Gate::Ramp
                }
            }
            State::Closed | State::ForcedClosed => Gate::Pass,
            // Allow: a remembered open lasts to its end; then there is nobody to ask for probes.
            State::Open if self.governor == Governor::Fallback && !word.local && now >= left(open_ms) => Gate::Pass,
            State::HalfOpen if self.governor == Governor::Fallback && !word.local => Gate::Pass,
            State::Open | State::HalfOpen | State::ForcedOpen => Gate::Ask,
        };
        if isolated && view.state == State::HalfOpen {
            word.presented = Presented::State(State::Open);
        }
    }

    /// The share of calls admitted now: linear in the age of the ramp.
    pub(super) fn set_ramp(&self, heard: &Heard, now: Instant) {
        let Some(policy) = self.policy() else { return };
        let passed = now.saturating_duration_since(heard.at).as_millis() as u64;
        let age = heard.view.ramp_age_ms.unwrap_or(0) + passed;
        let share = if age >= policy.ramp_ms {
            RAMP_ONE
        } else {
            let initial = RAMP_ONE * policy.ramp_initial_percent / 100;
            initial + (RAMP_ONE - initial) * age / policy.ramp_ms.max(1)
        };
        self.inner.ramp_share.store(share, Ordering::Relaxed);
    }
}

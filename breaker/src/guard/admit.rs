//! Admission: what the word says, and what is to be asked where it says nothing.

use super::inner::{Answer, RAMP_ONE, Route, lock};
use super::lanes::Lane;
use super::permit::Permit;
use super::word::{Gate, HESITATE, Word};
use super::{Presented, RejectReason, Rejected};
use crate::state::State;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The longest a closed call waits for the store at the threshold.
const HESITATION: Duration = Duration::from_millis(20);
/// How often a waiting call is told to look again before it is rejected: once is what a circuit that closes takes, and a
/// store that contradicts what it said before must not keep a call going in circles.
const LOOKS: u32 = 3;

impl Lane {
    /// Admits or rejects one call.
    pub(super) async fn admit(&self) -> Result<Permit, Rejected> {
        let mut hesitated = false;
        let mut looks = 0;
        loop {
            let word = Word::unpack(self.word.load(Ordering::Acquire));
            if word.hesitate && !hesitated && !word.local {
                // Once: the promise is that a caller sees its own trip, not that it waits for everybody's.
                hesitated = true;
                self.hesitate().await;
                continue;
            }
            match word.gate {
                Gate::Pass | Gate::Free => return Ok(self.permit(word)),
                Gate::Shadow => {
                    self.shadow_rejected.fetch_add(1, Ordering::Relaxed);
                    return Ok(self.permit(word));
                }
                Gate::Ramp if self.in_ramp_share() => return Ok(self.permit(word)),
                Gate::Ramp => return Err(self.rejected(State::Closed, RejectReason::Ramp, Some(1_000))),
                Gate::Ask => {
                    if let Some(decided) = self.ask(word, &mut looks).await {
                        return decided;
                    }
                }
            }
        }
    }

    /// Decides what the word cannot; none: look again.
    async fn ask(&self, word: Word, looks: &mut u32) -> Option<Result<Permit, Rejected>> {
        let details = *lock(&self.details);
        let now = Instant::now();
        let until = |instant: Instant| Some(instant.saturating_duration_since(now).as_millis() as u64);
        if details.denied {
            return Some(Err(self.rejected(details.state, RejectReason::Store, Some(1_000))));
        }
        match details.state {
            State::ForcedOpen => {
                let retry = details.forced_until.and_then(until);
                return Some(Err(self.rejected(State::ForcedOpen, RejectReason::Forced, retry)));
            }
            State::Open if now < details.open_until => {
                let reason = if details.isolated {
                    RejectReason::Isolated
                } else {
                    RejectReason::Open
                };
                return Some(Err(self.rejected(State::Open, reason, until(details.open_until))));
            }
            State::Open | State::HalfOpen => {}
            // The word has moved on since.
            State::Closed | State::ForcedClosed => {
                tokio::task::yield_now().await;
                return None;
            }
        }
        let presented = if details.isolated { State::Open } else { State::HalfOpen };
        let reason = if details.isolated {
            RejectReason::Isolated
        } else {
            RejectReason::ProbeLimit
        };
        if now < details.refused_until && !word.local {
            return Some(Err(self.rejected(presented, reason, Some(1_000))));
        }
        let (sender, answer) = oneshot::channel();
        if self.waiting.try_send(sender).is_err() {
            return Some(Err(self.rejected(presented, reason, Some(1_000))));
        }
        self.nudge(true);
        match answer.await {
            Ok(Answer::Probe(permit)) => Some(Ok(permit)),
            Ok(Answer::LookAgain) => {
                *looks += 1;
                (*looks >= LOOKS).then(|| Err(self.rejected(presented, reason, Some(1_000))))
            }
            Ok(Answer::Rejected(rejected)) => {
                self.stripes.count_rejected();
                Some(Err(rejected))
            }
            // The recorder ended: the process is shutting down.
            Err(_) => Some(Err(self.rejected(presented, RejectReason::Store, Some(1_000)))),
        }
    }

    fn permit(&self, word: Word) -> Permit {
        let route = match word.gate {
            Gate::Free => Route::Nowhere,
            _ if word.local => Route::Local,
            _ => Route::Shared,
        };
        self.make_permit(route, word.presented, word.generation, word.gauge)
    }

    pub(super) fn make_permit(&self, route: Route, presented: Presented, generation: u64, gauge: bool) -> Permit {
        self.stripes.begin();
        // Reading the clock costs as much as half of the rest.
        let started = (self.slow_ms.load(Ordering::Relaxed) > 0).then(Instant::now);
        let slot = match started {
            Some(started) if gauge && route == Route::Shared => self.watch(started, generation),
            _ => 0,
        };
        Permit {
            lane: self.clone(),
            route,
            presented,
            generation,
            started,
            slot,
            open: true,
            took: None,
            paused: None,
        }
    }

    /// Error diffusion: of every run of calls the share is admitted, without chance.
    fn in_ramp_share(&self) -> bool {
        let share = self.ramp_share.load(Ordering::Relaxed);
        let before = self.ramp_debt.fetch_add(share, Ordering::Relaxed);
        before / RAMP_ONE != before.wrapping_add(share) / RAMP_ONE
    }

    /// Waits until the store has answered for enough. An answer may be to what was sent before, so one is not enough.
    async fn hesitate(&self) {
        // Past the bound the call goes on: waiting longer would make the store's slowness the caller's.
        let deadline = Instant::now() + HESITATION;
        // Once: a recorder that must wait before it may ask again publishes whenever it is woken, which wakes this loop.
        self.nudge(true);
        loop {
            let answered = self.answered.notified();
            if self.word.load(Ordering::Acquire) & HESITATE == 0 {
                return;
            }
            if tokio::time::timeout_at(deadline, answered).await.is_err() {
                return;
            }
        }
    }

    fn rejected(&self, state: State, reason: RejectReason, retry_after_ms: Option<u64>) -> Rejected {
        self.stripes.count_rejected();
        Rejected {
            state: Presented::State(state),
            reason,
            retry_after_ms,
        }
    }
}

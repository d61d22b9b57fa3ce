//! Calls that wait for a probe: who gets a lease, who is refused.

use super::Recorder;
use super::govern::Governor;
use crate::guard::inner::{Answer, Done, Route, WAITERS, lock};
use crate::guard::{Presented, RejectReason, Rejected};
use crate::state::{Cause, Kind, State};
use crate::store::Reply;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

impl Recorder {
    pub(super) fn wait(&mut self, waiter: oneshot::Sender<Answer>) {
        self.waiters.retain(|waiter| !waiter.is_closed());
        if self.waiters.len() < WAITERS {
            self.waiters.push_back(waiter);
        }
    }

    pub(super) fn reject_waiters(&mut self, reason: RejectReason) {
        let state = self.governing().map_or(State::HalfOpen, |heard| heard.view.state);
        let state = if state == State::Closed { State::HalfOpen } else { state };
        for waiter in self.waiters.drain(..) {
            let rejected = Rejected {
                state: Presented::State(state),
                reason,
                retry_after_ms: Some(1_000),
            };
            let _ = waiter.send(Answer::Rejected(rejected));
        }
    }

    /// Hands granted leases to waiting calls; the rest are refused at once.
    pub(super) fn answer_waiters(&mut self, reply: &Reply, local: bool) {
        let Some(view) = &reply.view else { return };
        let isolated = matches!(self.governor, Governor::Isolated(_));
        let (first, count) = reply.granted;
        let mut leases = first..first + count;
        let route = if local { Route::LocalProbe } else { Route::Probe };
        let presented = Presented::State(if isolated { State::Open } else { State::HalfOpen });
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            if let Some(lease) = leases.next() {
                let presented = Presented::State(State::HalfOpen);
                let permit = self.inner.make_permit(route(lease), presented, view.generation, false);
                // A caller that is gone drops the permit, which cancels the probe.
                let _ = waiter.send(Answer::Probe(permit));
            } else if matches!(view.state, State::Closed | State::ForcedClosed) {
                let _ = waiter.send(Answer::LookAgain);
            } else {
                let reason = match view.state {
                    _ if isolated => RejectReason::Isolated,
                    State::Open => RejectReason::Open,
                    State::ForcedOpen => RejectReason::Forced,
                    _ => RejectReason::ProbeLimit,
                };
                let state = if view.state == State::HalfOpen {
                    presented
                } else {
                    Presented::State(view.state)
                };
                let retry = if view.state == State::Open {
                    view.remaining_ms
                } else {
                    1_000
                };
                let rejected = Rejected {
                    state,
                    reason,
                    retry_after_ms: Some(retry),
                };
                let _ = waiter.send(Answer::Rejected(rejected));
            }
        }
        // Leases without a caller go back. No call was made, so none is counted; what the queue cannot take expires.
        for lease in leases {
            let back = Done {
                route: route(lease),
                generation: view.generation,
                kind: Kind::Ignored,
                cause: Cause::None,
            };
            let _ = self.inner.outbox.put(back, &self.inner.word);
        }
        if reply.retry_ms > 0 {
            lock(&self.inner.details).refused_until = Instant::now() + Duration::from_millis(reply.retry_ms);
        }
    }
}

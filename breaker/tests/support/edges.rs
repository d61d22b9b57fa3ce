//! The edges of the state machine, as the contract lists them.

use tiebar::state::{Reason, State};

/// Whether a transition from (none: nothing stored) to a state may have this reason.
pub(crate) fn is_edge(from: Option<State>, to: State, reason: Reason) -> bool {
    use Reason::{
        ConsecutiveFailures, FailureRateExceeded, InstancesIsolated, ModeChanged, Override, OverrideLapsed,
        ProbesFailed, ProbesLost, ProbesSucceeded, ProbesTimedOut, Reseeded, Reset, Seeded, SlowCallRateExceeded,
        WaitElapsed,
    };
    use State::{Closed, ForcedClosed, ForcedOpen, HalfOpen, Open};
    match (from, to) {
        (_, ForcedOpen | ForcedClosed) if reason == Override => true,
        (Some(_), Closed) if reason == ModeChanged => true,
        (None, Closed) => matches!(reason, Seeded | Reseeded),
        (Some(from), to) if reason == Reseeded && from == to => true,
        (None | Some(Closed | HalfOpen), Open) if reason == Reseeded => true,
        (Some(Closed), Open) => {
            matches!(
                reason,
                ConsecutiveFailures | FailureRateExceeded | SlowCallRateExceeded | InstancesIsolated
            )
        }
        (Some(Open), HalfOpen) => reason == WaitElapsed,
        (Some(HalfOpen), Closed) => matches!(reason, ProbesSucceeded | Reset),
        (Some(HalfOpen), Open) => matches!(reason, ProbesFailed | ProbesTimedOut),
        (Some(HalfOpen), HalfOpen) => reason == ProbesLost,
        (Some(ForcedOpen), Open) | (Some(ForcedClosed), Closed) => reason == OverrideLapsed,
        (Some(Closed | Open), Closed) => reason == Reset,
        _ => false,
    }
}

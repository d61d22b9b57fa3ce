//! The fields of `status`: what the operator reports, of a resource in Kubernetes and of a file alike. Free of Kubernetes'
//! own types, so that callers and the dashboard can read it too.
//!
//! Nothing here counts live: the status changes with the circuit, not with the traffic. Texts whose set of values may grow
//! (reasons) are no enumerations: an older CRD must take what a newer operator says.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tiebar::state::State;

/// The longest condition message and other free text, in characters.
pub const MAX_MESSAGE: usize = 1_024;
/// The most instance names in [`Instances::isolated_names`].
pub const MAX_ISOLATED_NAMES: usize = 10;
/// The most entries of [`TripSnapshot::causes`].
pub const MAX_CAUSES: usize = 5;
/// The most entries of [`TripSnapshot::top_instances`].
pub const MAX_TOP_INSTANCES: usize = 3;

macro_rules! report {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ident $(<$inner:ty>)? $([$($extra:tt)+])?;)+
    }) => {
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
        $(#[$meta])*
        #[cfg_attr(feature = "kubernetes", schemars(transform = crate::schema::report))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$doc])*
                $(#[cfg_attr(feature = "kubernetes", schemars($($extra)+))])?
                #[serde(default, skip_serializing_if = "Absent::absent")]
                pub $field: $type $(<$inner>)?,
            )+
        }
    };
}

/// Absent fields are not written: with server-side apply a null or an empty list is a claim.
trait Absent {
    fn absent(&self) -> bool;
}
impl<T> Absent for Option<T> {
    fn absent(&self) -> bool {
        self.is_none()
    }
}
impl<T> Absent for Vec<T> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}
impl Absent for i64 {
    fn absent(&self) -> bool {
        false
    }
}

report! {
    /// What the operator last saw of the circuit in the store.
    CircuitBreakerStatus {
        /// The metadata.generation this status was made for.
        observed_generation: Option<i64> [range(min = 0)];
        /// The id by which callers name the breaker: namespace/serviceName.
        service_id: Option<String> [length(max = 320)];
        /// The state all callers share. Unknown while the store is unreachable. Under mode Observe and Disabled it stays
        /// Closed. Not a lifecycle phase: whether the resource works is said by the conditions.
        state: Option<CircuitState>;
        /// Why: Seeded, Reseeded, ConsecutiveFailures, FailureRateExceeded, SlowCallRateExceeded, InstancesIsolated,
        /// WaitElapsed, ProbesSucceeded, ProbesFailed, ProbesTimedOut, ProbesLost, Override, OverrideLapsed, Reset,
        /// ModeChanged; Ramping while traffic returns after ProbesSucceeded; StateLost while the store has lost what was open
        /// and no instance has restored it.
        state_reason: Option<String> [length(max = 64)];
        /// When the state last changed, by the store's clock.
        last_transition_time: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// The state before.
        previous_state: Option<CircuitState>;
        /// While open: when probes may begin, by the store's clock.
        open_until_time: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// While traffic returns: when all of it is admitted, by the store's clock.
        ramp_until_time: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// 0 while closed, 1 after the first trip, one more each time probes failed.
        round: Option<i64> [range(min = 0)];
        /// Transitions since the state was first stored.
        transition_count: Option<i64> [range(min = 0)];
        /// What the last trip was judged by.
        trip_snapshot: Option<TripSnapshot>;
        /// Who uses the breaker; refreshed at most every 30 s.
        instances: Option<Instances>;
        /// Under mode Observe: what would have happened.
        shadow: Option<Shadow>;
        /// While spec.override is set: what became of it.
        r#override: Option<OverrideStatus>;
        /// The value of the annotation tiebar.dev/reset-requested-at that was handled last; it is not handled twice.
        last_handled_reset: Option<String> [length(max = 256)];
        /// Revision of the configuration in the store; instances report the one they use.
        config_revision: Option<i64> [range(min = 0)];
        /// The key of the state in Redis.
        store_key: Option<String> [length(max = 512)];
        /// Ready (Accepted, Programmed and StoreReachable; says nothing about the circuit), Accepted, Programmed,
        /// StoreReachable, Attached, Overridden, Flapping, Stalled.
        conditions: Vec<Condition> [length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])];
    }
}

report! {
    /// What a trip was judged by.
    TripSnapshot {
        /// Share of failed calls in the window, percent.
        failure_rate_percent: i64 [range(min = 0, max = 100)];
        /// Share of slow calls in the window, percent, running ones included.
        slow_call_rate_percent: i64 [range(min = 0, max = 100)];
        /// Calls in the window.
        calls: i64 [range(min = 0)];
        /// Failed ones among them.
        failures: i64 [range(min = 0)];
        /// What failed most, at most 5.
        causes: Vec<Cause> [length(max = 5), extend("x-kubernetes-list-type" = "atomic")];
        /// The instances with most failures, at most 3.
        top_instances: Vec<String> [length(max = 3), inner(length(max = 256)), extend("x-kubernetes-list-type" = "atomic")];
    }
}

report! {
    /// One kind of failure.
    Cause {
        /// A status code, or an error kind.
        kind: Option<String> [length(max = 64)];
        /// How often it happened.
        count: i64 [range(min = 0)];
    }
}

report! {
    /// Who uses a breaker.
    Instances {
        /// Instances heard of lately.
        live: i64 [range(min = 0)];
        /// Instances whose heartbeat stopped without goodbye.
        lost: i64 [range(min = 0)];
        /// Instances that opened alone, by their own judgement.
        isolated: i64 [range(min = 0)];
        /// Instances with an older revision of the configuration.
        outdated: i64 [range(min = 0)];
        /// The isolated ones by name, at most 10.
        isolated_names: Vec<String> [length(max = 10), inner(length(max = 256)), extend("x-kubernetes-list-type" = "atomic")];
    }
}

report! {
    /// What mode Observe would have done.
    Shadow {
        /// The state it would be in.
        state: Option<CircuitState>;
        /// How often it would have tripped.
        trips: i64 [range(min = 0)];
        /// When it last would have.
        last_trip_time: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// Calls it would have rejected.
        would_have_rejected: i64 [range(min = 0)];
    }
}

report! {
    /// What became of an override.
    OverrideStatus {
        /// The state it forces: ForcedOpen or ForcedClosed. Absent once it has expired.
        state: Option<CircuitState>;
        /// When it lapses; absent: when it is removed.
        until: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// Whether it has lapsed: spec.override is still there and of no effect.
        expired: Option<bool>;
    }
}

report! {
    /// One aspect of the resource, after Kubernetes' conventions.
    #[cfg_attr(feature = "kubernetes", schemars(transform = crate::schema::condition))]
    Condition {
        /// Which.
        r#type: String [length(min = 1, max = 64)];
        /// Whether it holds.
        status: ConditionStatus;
        /// The metadata.generation it was judged for.
        observed_generation: Option<i64> [range(min = 0)];
        /// When status last changed.
        last_transition_time: Option<Timestamp> [with = "String", extend("format" = "date-time")];
        /// Why, in one CamelCase word.
        reason: String [length(min = 1, max = 64)];
        /// Why, in words.
        message: String [length(max = 1024)];
    }
}
impl Absent for String {
    fn absent(&self) -> bool {
        false
    }
}
impl Absent for ConditionStatus {
    fn absent(&self) -> bool {
        false
    }
}

macro_rules! values {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ #[default] #[doc = "Not known."] Unknown }

        impl $name {
            /// The value as it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ Self::Unknown => "Unknown" }
            }
        }

        #[cfg(feature = "kubernetes")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "enum": [$(stringify!($variant),)+ "Unknown"]})
            }
        }
    };
}

values! {
    /// A circuit's state, as the resource writes it.
    CircuitState {
        /// Calls pass.
        Closed,
        /// Calls are rejected until a deadline.
        Open,
        /// A bounded number of probes pass.
        HalfOpen,
        /// Rejected by hand.
        ForcedOpen,
        /// Admitted by hand.
        ForcedClosed,
    }
}

impl From<State> for CircuitState {
    fn from(state: State) -> Self {
        match state {
            State::Closed => Self::Closed,
            State::Open => Self::Open,
            State::HalfOpen => Self::HalfOpen,
            State::ForcedOpen => Self::ForcedOpen,
            State::ForcedClosed => Self::ForcedClosed,
        }
    }
}

values! {
    /// Whether a condition holds.
    ConditionStatus {
        /// It does.
        True,
        /// It does not.
        False,
    }
}

//! The fields of `spec`, as written, and their documentation: `kubectl explain`, the reference and rustdoc are all made
//! from the comments here; the bounds in [`crate::bounds`] add range and default.
//!
//! Defaults are filled in by [`crate::resolve`], so that "absent" stays visible here. They are not in the schema (but
//! `mode`'s, which a column and a selector read): the API server writes such a default into the stored object, where it
//! outlives the field it belonged to, and then makes a field that somebody wrote invalid. Unknown fields are ignored
//! here, so that an older program reads what a newer one wrote; documents are checked for them in `document`.

use crate::bounds;
use serde::{Deserialize, Serialize};

macro_rules! object {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $(= $bound:ident)?,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
        #[cfg_attr(feature = "kubernetes", schemars(transform = crate::schema::object::<$name>))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$doc])*
                $(#[cfg_attr(feature = "kubernetes", schemars(transform = |schema: &mut schemars::Schema| bounds::$bound.write(schema)))])?
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )+
        }
    };
}

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ }

        #[cfg(feature = "kubernetes")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                crate::schema::names(&[$((stringify!($variant), &[$($doc,)*]),)+])
            }
        }
    };
}

object! {
    /// One circuit breaker, shared by every replica of every caller of a service. {} is valid.
    #[cfg_attr(feature = "kubernetes", derive(kube::CustomResource))]
    #[cfg_attr(feature = "kubernetes", kube(
        group = "tiebar.dev", version = "v1alpha1", kind = "CircuitBreaker", namespaced,
        doc = "One circuit breaker, shared by every replica of every caller of a service.\n\nFor the schema use [`crate::crd`], which completes what the derive makes.",
        shortname = "cb", category = "resilience", status = "crate::status::CircuitBreakerStatus", derive = "PartialEq",
        selectable = ".spec.mode", selectable = ".status.state",
    ))]
    CircuitBreakerSpec {
        /// Name of the protected service. With the namespace it makes the service id that callers use: namespace/name. A
        /// logical name, no Service object need exist. Cannot be changed, added or removed later. Of a-z, 0-9, '-', '.'
        /// and '_', at most 253 characters; default: metadata.name.
        service_name: String = SERVICE_NAME,
        /// What the breaker does with its judgement. Default Enforce.
        mode: Mode,
        /// When the circuit opens: when any one of its conditions holds. Default: failureRateThreshold 50; when given, it
        /// must name at least one condition.
        trip: Trip,
        /// How long an open circuit rejects before it lets probes through.
        open: Open,
        /// The probes that decide whether an open circuit closes.
        half_open: HalfOpen,
        /// How fast traffic returns after the circuit closed. Default: at once.
        recovery: Recovery,
        /// Timeouts of the guarded calls.
        call: Call,
        /// What counts as a failure. A list that is given replaces its default; an empty one means none.
        failure_conditions: Conditions,
        /// What a rejected caller gets.
        rejection: Rejection,
        /// What a rejected caller gets instead of the rejection.
        fallback: Fallback,
        /// What an instance does while it cannot reach the store. Default LocalOnly.
        store_failure_policy: StorePolicy,
        /// A state set by hand. Removing it is the same as its lapse: forced open goes on to probes, forced closed to
        /// closed with an empty window.
        r#override: OverrideSpec,
    }
}
names! {
    /// What a breaker does with its judgement.
    Mode {
        /// an open circuit rejects.
        Enforce,
        /// every call is admitted; status.shadow reports what would have happened.
        Observe,
        /// every call is admitted and nothing is counted.
        Disabled,
    }
}
object! {
    /// `spec.trip`.
    Trip {
        /// Failures in a row, counted over all instances, that open the circuit.
        consecutive_failures: i64 = CONSECUTIVE_FAILURES,
        /// Share of failed calls in the window that opens the circuit.
        failure_rate_threshold: i64 = FAILURE_RATE_THRESHOLD,
        /// Share of slow calls in the window that opens the circuit. Needs slowCallDurationThreshold.
        slow_call_rate_threshold: i64 = SLOW_CALL_RATE_THRESHOLD,
        /// A call is slow when its response headers take at least this long. Needs slowCallRateThreshold.
        slow_call_duration_threshold: String = SLOW_CALL_DURATION_THRESHOLD,
        /// Calls that must be in the window before a rate is judged; at most the size of a CountBased window is used.
        minimum_number_of_calls: i64 = MINIMUM_NUMBER_OF_CALLS,
        /// Instances that must agree: the rule must hold even without the outcomes of this many less one, the worst; one
        /// sick instance then opens for itself only. Capped by the instances with calls in the window. With 1 any
        /// instance's trouble opens the circuit for all.
        minimum_instances: i64 = MINIMUM_INSTANCES,
        /// The calls that a rate is taken over. Changing it empties the window. Default: the last 30s.
        sliding_window: SlidingWindow,
    }
}
object! {
    /// `spec.trip.slidingWindow`.
    SlidingWindow {
        /// The kind of window. Default: CountBased when size is given, else TimeBased.
        r#type: WindowType,
        /// With TimeBased: the age at which a call is forgotten.
        duration: String = WINDOW_DURATION,
        /// With CountBased, and required there: the number of latest calls.
        size: i64 = WINDOW_SIZE,
    }
}
names! {
    /// The kind of window.
    WindowType {
        /// the calls of the last duration.
        TimeBased,
        /// the last size calls.
        CountBased,
    }
}
object! {
    /// `spec.open`.
    Open {
        /// How long the circuit stays open in the first round. At most maxDuration is used when this is absent.
        duration: String = OPEN_DURATION,
        /// How the duration grows from round to round while probes fail. Default None.
        backoff: Backoff,
        /// The longest duration that backoff may reach, not below duration. Required with Exponential, of no effect
        /// without.
        max_duration: String = OPEN_MAX_DURATION,
        /// Random part added to the duration, drawn once a round for all instances.
        jitter_percent: i64 = JITTER_PERCENT,
    }
}
names! {
    /// How open durations grow.
    Backoff {
        /// not at all.
        None,
        /// it doubles each round, up to maxDuration.
        Exponential,
    }
}
object! {
    /// `spec.halfOpen`.
    HalfOpen {
        /// Probes a round, over all instances together; all must be over for the circuit to close. It opens again once
        /// the thresholds of trip are met among them.
        permitted_calls: i64 = PERMITTED_CALLS,
        /// The longest round, from the first probe on; then those that are over decide.
        max_duration: String = HALF_OPEN_MAX_DURATION,
    }
}
object! {
    /// `spec.recovery`.
    Recovery {
        /// After the circuit closed, the admitted share of calls grows for this long, linearly, to all of them.
        ramp_duration: String = RAMP_DURATION,
        /// The share admitted when the ramp begins.
        initial_percent: i64 = INITIAL_PERCENT,
    }
}
object! {
    /// `spec.call`.
    Call {
        /// Longest time from the request to the response headers; a longer call fails with Timeout. Streams and upgrades
        /// are not cut.
        timeout: String = CALL_TIMEOUT,
        /// Longest time to connect; a longer one fails with ConnectionFailure.
        connect_timeout: String = CONNECT_TIMEOUT,
    }
}
object! {
    /// `spec.failureConditions`.
    Conditions {
        /// HTTP status codes that are failures: "503" or a range "500-599". At most 16; default ["500-599"].
        http_status_codes: Vec<String> = HTTP_STATUS_CODES,
        /// gRPC status codes that are failures, by name, for application/grpc responses, from headers or trailers. At
        /// most 16; default [UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS].
        grpc_status_codes: Vec<String> = GRPC_STATUS_CODES,
        /// Errors below HTTP that are failures. Timeout: no response headers in time; ConnectionFailure: no connection;
        /// Reset: the connection broke. At most 16; default [Timeout, ConnectionFailure, Reset].
        error_kinds: Vec<ErrorKind> = ERROR_KINDS,
        /// HTTP status codes that are neither success nor failure, written like httpStatusCodes and stronger than them.
        /// At most 16; default none.
        ignored_http_status_codes: Vec<String> = IGNORED_HTTP_STATUS_CODES,
    }
}
names! {
    /// What may go wrong below HTTP.
    ErrorKind {
        /// no response headers in time.
        Timeout,
        /// no connection.
        ConnectionFailure,
        /// the connection broke.
        Reset,
    }
}
object! {
    /// `spec.rejection`.
    Rejection {
        /// HTTP status of a rejection.
        http_status_code: i64 = REJECTION_STATUS,
    }
}
object! {
    /// `spec.fallback`.
    Fallback {
        /// What answers instead of a rejection. Default: as static or service is given, else None.
        r#type: FallbackType,
        /// The answer, with Static.
        r#static: Static,
        /// The service to ask, with Service.
        service: Service,
    }
}
names! {
    /// What answers instead of a rejection.
    FallbackType {
        /// nothing does, the caller gets the rejection.
        None,
        /// a fixed answer.
        Static,
        /// another service.
        Service,
    }
}
impl Fallback {
    /// The kind, also when the other fields say it.
    #[must_use]
    pub fn kind(&self) -> FallbackType {
        match (self.r#type, &self.r#static, &self.service) {
            (Some(kind), ..) => kind,
            (None, Some(_), _) => FallbackType::Static,
            (None, None, Some(_)) => FallbackType::Service,
            (None, None, None) => FallbackType::None,
        }
    }
}
object! {
    /// A fixed answer.
    Static {
        /// HTTP status of the answer.
        http_status_code: i64 = STATIC_STATUS,
        /// Media type of the body, at most 256 characters; default text/plain; charset=utf-8.
        content_type: String = CONTENT_TYPE,
        /// The body, at most 65536 characters; default empty.
        body: String = BODY,
    }
}
object! {
    /// Another service.
    Service {
        /// Where the request goes instead: http:// or https://, without credentials, at most 2048 characters, and within
        /// a prefix that the instance allows (--allow-fallback).
        url: String = URL,
    }
}
names! {
    /// What an instance does without the store.
    StorePolicy {
        /// each instance goes on alone, from the last shared state and by the same rules.
        LocalOnly,
        /// calls are admitted, once a remembered open or forced state is over.
        Allow,
        /// calls are rejected.
        Deny,
    }
}
object! {
    /// `spec.override`.
    OverrideSpec {
        /// The state that holds, whatever the calls say.
        state: ForcedState,
        /// Why, for whoever sees it: a ticket, a name. At most 256 characters.
        reason: String = REASON,
        /// When it lapses by itself, RFC 3339, between the years 2000 and 2100; judged by the store's clock, so also
        /// while the operator is down. Default: not before it is removed.
        expire_time: String = EXPIRE_TIME,
    }
}
names! {
    /// A state set by hand.
    ForcedState {
        /// every call is rejected.
        ForcedOpen,
        /// every call is admitted.
        ForcedClosed,
    }
}

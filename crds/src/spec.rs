//! The fields of `spec`, as written. Defaults are filled in by [`crate::resolve`], so that "absent" stays visible here:
//! a default must never make a field that somebody wrote invalid.

use serde::{Deserialize, Serialize};

macro_rules! object {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)+
        }
    };
}

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* $variant,)+ }
    };
}

object! {
    /// `spec`.
    CircuitBreakerSpec {
        /// A logical name; default: metadata.name.
        service_name: String,
        /// Default Enforce.
        mode: Mode,
        /// When to trip. Absent: at 50 % failures.
        trip: Trip,
        /// How long open lasts.
        open: Open,
        /// The probes.
        half_open: HalfOpen,
        /// The ramp after a passed verdict.
        recovery: Recovery,
        /// Timeouts of calls.
        call: Call,
        /// What counts as a failure.
        failure_conditions: Conditions,
        /// What a rejected caller gets.
        rejection: Rejection,
        /// What a rejected caller gets instead.
        fallback: Fallback,
        /// Default LocalOnly.
        store_failure_policy: StorePolicy,
        /// A state set by hand.
        r#override: OverrideSpec,
    }
}
names! {
    /// What a breaker does with its judgement.
    Mode {
        /// Reject.
        Enforce,
        /// Only report.
        Observe,
        /// Do nothing.
        Disabled,
    }
}
object! {
    /// `spec.trip`.
    Trip {
        /// Failures in a row, 1–1000.
        consecutive_failures: i64,
        /// Percent, 1–100.
        failure_rate_threshold: i64,
        /// Percent, 1–100.
        slow_call_rate_threshold: i64,
        /// From when on a call is slow, 1ms–1h.
        slow_call_duration_threshold: String,
        /// 1–100000, default 20.
        minimum_number_of_calls: i64,
        /// 1–100, default 2.
        minimum_instances: i64,
        /// Default 30 s.
        sliding_window: SlidingWindow,
    }
}
object! {
    /// `spec.trip.slidingWindow`.
    SlidingWindow {
        /// Default TimeBased.
        r#type: WindowType,
        /// TimeBased: 1s–1h.
        duration: String,
        /// CountBased: 2–1000.
        size: i64,
    }
}
names! {
    /// The kind of window.
    WindowType {
        /// The last so many seconds.
        TimeBased,
        /// The last so many calls.
        CountBased,
    }
}
object! {
    /// `spec.open`.
    Open {
        /// 100ms–24h, default 30s.
        duration: String,
        /// Default None.
        backoff: Backoff,
        /// With Exponential: the longest, up to 24h.
        max_duration: String,
        /// 0–100, default 0.
        jitter_percent: i64,
    }
}
names! {
    /// How open durations grow.
    Backoff {
        /// Not.
        None,
        /// Twice as long each round.
        Exponential,
    }
}
object! {
    /// `spec.halfOpen`.
    HalfOpen {
        /// 1–1000, default 5.
        permitted_calls: i64,
        /// 1s–1h, default 30s.
        max_duration: String,
    }
}
object! {
    /// `spec.recovery`.
    Recovery {
        /// 0s–1h, default 0s.
        ramp_duration: String,
        /// 0–100, default 10.
        initial_percent: i64,
    }
}
object! {
    /// `spec.call`.
    Call {
        /// To the response headers, 10ms–1h; default unset.
        timeout: String,
        /// 1ms–1h, default 1s.
        connect_timeout: String,
    }
}
object! {
    /// `spec.failureConditions`.
    Conditions {
        /// `503` or `500-599`; default 500-599.
        http_status_codes: Vec<String>,
        /// Names of gRPC codes.
        grpc_status_codes: Vec<String>,
        /// Default all.
        error_kinds: Vec<ErrorKind>,
        /// Neither success nor failure.
        ignored_http_status_codes: Vec<String>,
    }
}
names! {
    /// What may go wrong below HTTP.
    ErrorKind {
        /// No response headers in time.
        Timeout,
        /// No connection.
        ConnectionFailure,
        /// The connection broke.
        Reset,
    }
}
object! {
    /// `spec.rejection`.
    Rejection {
        /// 400–599, default 503.
        http_status_code: i64,
    }
}
object! {
    /// `spec.fallback`.
    Fallback {
        /// Default None.
        r#type: FallbackType,
        /// With Static.
        r#static: Static,
        /// With Service.
        service: Service,
    }
}
names! {
    /// What answers instead of a rejection.
    FallbackType {
        /// The rejection.
        None,
        /// A fixed answer.
        Static,
        /// Another service.
        Service,
    }
}
object! {
    /// A fixed answer.
    Static {
        /// 200–599, default 200.
        http_status_code: i64,
        /// Default text/plain.
        content_type: String,
        /// At most 64 KiB.
        body: String,
    }
}
object! {
    /// Another service.
    Service {
        /// http:// or https://.
        url: String,
    }
}
names! {
    /// What an instance does without the store.
    StorePolicy {
        /// Go on alone.
        LocalOnly,
        /// Admit.
        Allow,
        /// Reject.
        Deny,
    }
}
object! {
    /// `spec.override`.
    OverrideSpec {
        /// Required.
        state: ForcedState,
        /// Required.
        reason: String,
        /// RFC 3339; absent: until removed.
        expire_time: String,
    }
}
names! {
    /// A state set by hand.
    ForcedState {
        /// Reject everything.
        ForcedOpen,
        /// Admit everything.
        ForcedClosed,
    }
}

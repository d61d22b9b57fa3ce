//! What must hold between the fields of an object, each rule once: in CEL for the API server, in Rust for everybody else,
//! with one message. The tests put the same documents to both.
//!
//! Evaluating the CEL offline as well was rejected: an interpreter and its parser in every instance, for ten rules.

use crate::bounds::duration_pattern;
use crate::spec::{
    Backoff, Call, CircuitBreakerSpec, Conditions, Fallback, FallbackType, HalfOpen, Open, OverrideSpec, Recovery,
    Rejection, Service, SlidingWindow, Static, Trip, WindowType,
};

/// One rule of the object `T`.
pub(crate) struct Rule<T> {
    /// Of `self`; every access is guarded by `has`, as an absent field is an error.
    pub(crate) cel: &'static str,
    pub(crate) message: &'static str,
    /// The field to blame; empty: the object.
    pub(crate) field: &'static str,
    pub(crate) holds: fn(&T) -> bool,
}

/// A field that must be there, and whether it is.
pub(crate) type Required<T> = (&'static str, fn(&T) -> bool);

/// An object of `spec`.
pub(crate) trait Ruled: Sized + 'static {
    /// Fields that must be there.
    const REQUIRED: &'static [Required<Self>] = &[];
    /// What must hold between them.
    const RULES: &'static [Rule<Self>] = &[];
}

impl Ruled for HalfOpen {}
impl Ruled for Recovery {}
impl Ruled for Call {}
impl Ruled for Conditions {}
impl Ruled for Rejection {}
impl Ruled for Static {}

/// What the schema adds to `spec` alone: it compares with the object before the change, which offline nobody has.
#[cfg(feature = "kubernetes")]
pub(crate) const IMMUTABLE: (&str, &str, &str) = (
    "has(self.serviceName) == has(oldSelf.serviceName) && \
     (!has(self.serviceName) || self.serviceName == oldSelf.serviceName)",
    "cannot be changed, added or removed: it names the state that callers share; delete this CircuitBreaker and create \
     another",
    "serviceName",
);

impl Ruled for CircuitBreakerSpec {}

impl Ruled for Trip {
    const RULES: &'static [Rule<Self>] = &[
        Rule {
            cel: "has(self.consecutiveFailures) || has(self.failureRateThreshold) || has(self.slowCallRateThreshold)",
            message: "says nothing to trip at; wanted at least one of consecutiveFailures, failureRateThreshold and \
                      slowCallRateThreshold",
            field: "",
            holds: |trip| {
                trip.consecutive_failures.is_some()
                    || trip.failure_rate_threshold.is_some()
                    || trip.slow_call_rate_threshold.is_some()
            },
        },
        Rule {
            cel: "has(self.slowCallRateThreshold) == has(self.slowCallDurationThreshold)",
            message: "slowCallRateThreshold and slowCallDurationThreshold go together; wanted both or neither",
            field: "",
            holds: |trip| trip.slow_call_rate_threshold.is_some() == trip.slow_call_duration_threshold.is_some(),
        },
    ];
}

impl Ruled for SlidingWindow {
    const RULES: &'static [Rule<Self>] = &[
        Rule {
            cel: "!has(self.size) || !has(self.duration)",
            message: "a window has a duration (TimeBased) or a size (CountBased), not both",
            field: "",
            holds: |window| window.size.is_none() || window.duration.is_none(),
        },
        Rule {
            cel: "!has(self.type) || self.type != 'CountBased' || has(self.size)",
            message: "a CountBased window needs a size, 2 to 1000 calls",
            field: "size",
            holds: |window| window.r#type != Some(WindowType::CountBased) || window.size.is_some(),
        },
        Rule {
            cel: "!has(self.type) || self.type != 'CountBased' || !has(self.duration)",
            message: "a CountBased window has a size, no duration",
            field: "duration",
            holds: |window| window.r#type != Some(WindowType::CountBased) || window.duration.is_none(),
        },
        Rule {
            cel: "!has(self.type) || self.type != 'TimeBased' || !has(self.size)",
            message: "a TimeBased window has a duration, no size",
            field: "size",
            holds: |window| window.r#type != Some(WindowType::TimeBased) || window.size.is_none(),
        },
    ];
}

impl Ruled for Open {
    const RULES: &'static [Rule<Self>] = &[
        Rule {
            cel: "!has(self.backoff) || self.backoff != 'Exponential' || has(self.maxDuration)",
            message: "backoff Exponential needs a maxDuration, like 5m",
            field: "maxDuration",
            holds: |open| open.backoff != Some(Backoff::Exponential) || open.max_duration.is_some(),
        },
        Rule {
            cel: concat!(
                "!has(self.duration) || !has(self.maxDuration) || !self.duration.matches('",
                duration_pattern!(),
                "') || !self.maxDuration.matches('",
                duration_pattern!(),
                "') || duration(self.maxDuration) >= duration(self.duration)"
            ),
            message: "maxDuration is shorter than duration; wanted at least as long",
            field: "maxDuration",
            holds: |open| {
                let ms = |text: &Option<String>| text.as_ref().and_then(|text| tiebar::duration::parse(text).ok());
                match (ms(&open.duration), ms(&open.max_duration)) {
                    (Some(duration), Some(longest)) => longest >= duration,
                    _ => true,
                }
            },
        },
    ];
}

impl Ruled for Fallback {
    const RULES: &'static [Rule<Self>] = &[
        Rule {
            cel: "!has(self.static) || !has(self.service)",
            message: "wanted one of static and service, not both",
            field: "",
            holds: |fallback| fallback.r#static.is_none() || fallback.service.is_none(),
        },
        Rule {
            cel: "!has(self.type) || (self.type == 'Static') == has(self.static)",
            message: "static goes with type: Static, and only with it",
            field: "static",
            holds: |fallback| {
                fallback
                    .r#type
                    .is_none_or(|kind| (kind == FallbackType::Static) == fallback.r#static.is_some())
            },
        },
        Rule {
            cel: "!has(self.type) || (self.type == 'Service') == has(self.service)",
            message: "service goes with type: Service, and only with it",
            field: "service",
            holds: |fallback| {
                fallback
                    .r#type
                    .is_none_or(|kind| (kind == FallbackType::Service) == fallback.service.is_some())
            },
        },
    ];
}

impl Ruled for Service {
    const REQUIRED: &'static [Required<Self>] = &[("url", |service| service.url.is_some())];
}

impl Ruled for OverrideSpec {
    const REQUIRED: &'static [Required<Self>] = &[
        ("state", |wanted| wanted.state.is_some()),
        ("reason", |wanted| wanted.reason.is_some()),
    ];
}

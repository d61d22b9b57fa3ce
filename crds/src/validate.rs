//! What is valid, and the rules made from it. Every bound of the resource stands here once.

use crate::rules::FailureConditions;
use crate::spec::{Backoff, CircuitBreakerSpec, FallbackType, ForcedState, Mode, StorePolicy, Trip, WindowType};
use std::fmt;
use tiebar::policy::{self, Override, Policy, StoreFailurePolicy, Window};

/// One thing that is wrong with a document, or senseless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, like `spec.open.duration`.
    pub field: String,
    /// What is wrong with which value, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A valid spec, as the store and the callers use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The rules.
    pub policy: Policy,
    /// The override.
    pub forced: Option<Override>,
    /// What callers judge by.
    pub conditions: FailureConditions,
    /// The spec as canonical JSON.
    pub json: String,
    /// Legal but senseless.
    pub warnings: Vec<Problem>,
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, field: &str, message: String) {
        self.problems.push(Problem {
            field: format!("spec.{field}"),
            message,
        });
    }

    fn number(&mut self, field: &str, value: Option<i64>, default: u64, low: i64, high: i64) -> u64 {
        match value {
            None => default,
            Some(value) if (low..=high).contains(&value) => value.unsigned_abs(),
            Some(value) => {
                self.problem(field, format!("{value} is out of range; wanted {low} to {high}"));
                default
            }
        }
    }

    fn duration(&mut self, field: &str, value: Option<&String>, default: u64, low: u64, high: u64) -> u64 {
        let Some(text) = value else { return default };
        match tiebar::duration::parse(text) {
            Ok(ms) if (low..=high).contains(&ms) => ms,
            Ok(_) => {
                let (low, high) = (tiebar::duration::format(low), tiebar::duration::format(high));
                self.problem(field, format!("{text:?} is out of range; wanted {low} to {high}"));
                default
            }
            Err(error) => {
                self.problem(field, error.to_string());
                default
            }
        }
    }
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// Checks a spec and makes the rules.
///
/// # Errors
/// Everything that is wrong with it.
pub fn resolve(spec: &CircuitBreakerSpec) -> Result<Resolved, Vec<Problem>> {
    let mut check = Check::default();
    let mut policy = Policy {
        mode: match spec.mode {
            None | Some(Mode::Enforce) => policy::Mode::Enforce,
            Some(Mode::Observe) => policy::Mode::Observe,
            Some(Mode::Disabled) => policy::Mode::Disabled,
        },
        store_failure: match spec.store_failure_policy {
            None | Some(StorePolicy::LocalOnly) => StoreFailurePolicy::LocalOnly,
            Some(StorePolicy::Allow) => StoreFailurePolicy::Allow,
            Some(StorePolicy::Deny) => StoreFailurePolicy::Deny,
        },
        ..Policy::default()
    };
    if let Some(trip) = &spec.trip {
        trip_rules(&mut check, trip, &mut policy);
    }
    let open = spec.open.clone().unwrap_or_default();
    policy.open_ms = check.duration("open.duration", open.duration.as_ref(), 30_000, 100, DAY);
    policy.jitter_percent = check.number("open.jitterPercent", open.jitter_percent, 0, 0, 100);
    if open.backoff == Some(Backoff::Exponential) {
        if open.max_duration.is_none() {
            check.problem(
                "open.maxDuration",
                "backoff Exponential needs a maxDuration, like 5m".to_owned(),
            );
        }
        policy.open_max_ms = check.duration("open.maxDuration", open.max_duration.as_ref(), DAY, policy.open_ms, DAY);
    } else if open.max_duration.is_some() {
        check.problem(
            "open.maxDuration",
            "has no effect without backoff: Exponential".to_owned(),
        );
    }
    let half_open = spec.half_open.clone().unwrap_or_default();
    policy.permitted_calls = check.number("halfOpen.permittedCalls", half_open.permitted_calls, 5, 1, 1_000);
    policy.half_open_ms = check.duration(
        "halfOpen.maxDuration",
        half_open.max_duration.as_ref(),
        30_000,
        1_000,
        HOUR,
    );
    let recovery = spec.recovery.clone().unwrap_or_default();
    policy.ramp_ms = check.duration("recovery.rampDuration", recovery.ramp_duration.as_ref(), 0, 0, HOUR);
    policy.ramp_initial_percent = check.number("recovery.initialPercent", recovery.initial_percent, 10, 0, 100);
    let call = spec.call.clone().unwrap_or_default();
    policy.call_timeout_ms = check.duration("call.timeout", call.timeout.as_ref(), 0, 10, HOUR);
    policy.connect_timeout_ms = check.duration("call.connectTimeout", call.connect_timeout.as_ref(), 1_000, 1, HOUR);
    let conditions =
        FailureConditions::new(&spec.failure_conditions.clone().unwrap_or_default()).unwrap_or_else(|(field, text)| {
            let wanted = if field == "grpcStatusCodes" {
                "a name like UNAVAILABLE"
            } else {
                "503 or 500-599"
            };
            check.problem(
                &format!("failureConditions.{field}"),
                format!("{text:?} is no status code; wanted {wanted}"),
            );
            FailureConditions::default()
        });
    let rejection = spec.rejection.clone().unwrap_or_default();
    check.number("rejection.httpStatusCode", rejection.http_status_code, 503, 400, 599);
    fallback_rules(&mut check, spec);
    let forced = override_rules(&mut check, spec);
    let warnings = warnings(spec, &policy);
    if check.problems.is_empty() {
        // Optional fields in the order of their declaration: the same spec gives the same text.
        let json = serde_json::to_string(spec).unwrap_or_default();
        Ok(Resolved {
            policy,
            forced,
            conditions,
            json,
            warnings,
        })
    } else {
        Err(check.problems)
    }
}

fn trip_rules(check: &mut Check, trip: &Trip, policy: &mut Policy) {
    if trip.consecutive_failures.is_none()
        && trip.failure_rate_threshold.is_none()
        && trip.slow_call_rate_threshold.is_none()
    {
        let wanted = "consecutiveFailures, failureRateThreshold or slowCallRateThreshold";
        check.problem(
            "trip",
            format!("says nothing to trip at; wanted at least one of {wanted}"),
        );
    }
    policy.consecutive_failures = check.number("trip.consecutiveFailures", trip.consecutive_failures, 0, 1, 1_000);
    policy.failure_rate_bp = 100 * check.number("trip.failureRateThreshold", trip.failure_rate_threshold, 0, 1, 100);
    policy.slow_rate_bp = 100 * check.number("trip.slowCallRateThreshold", trip.slow_call_rate_threshold, 0, 1, 100);
    let slow = trip.slow_call_duration_threshold.as_ref();
    policy.slow_call_ms = check.duration("trip.slowCallDurationThreshold", slow, 0, 1, HOUR);
    if trip.slow_call_rate_threshold.is_some() != slow.is_some() {
        let message = "slowCallRateThreshold and slowCallDurationThreshold go together; wanted both or neither";
        check.problem("trip", message.to_owned());
    }
    policy.minimum_calls = check.number(
        "trip.minimumNumberOfCalls",
        trip.minimum_number_of_calls,
        20,
        1,
        100_000,
    );
    policy.minimum_instances = check.number("trip.minimumInstances", trip.minimum_instances, 2, 1, 100);
    let window = trip.sliding_window.clone().unwrap_or_default();
    if window.r#type == Some(WindowType::CountBased) {
        if window.duration.is_some() {
            check.problem(
                "trip.slidingWindow.duration",
                "a CountBased window has a size, no duration".to_owned(),
            );
        }
        if window.size.is_none() {
            check.problem(
                "trip.slidingWindow.size",
                "a CountBased window needs a size, 2 to 1000".to_owned(),
            );
        }
        policy.window = Window::Count(check.number("trip.slidingWindow.size", window.size, 100, 2, 1_000));
    } else {
        if window.size.is_some() {
            check.problem(
                "trip.slidingWindow.size",
                "a TimeBased window has a duration, no size".to_owned(),
            );
        }
        let duration = window.duration.as_ref();
        policy.window = Window::Time(check.duration("trip.slidingWindow.duration", duration, 30_000, 1_000, HOUR));
    }
}

fn fallback_rules(check: &mut Check, spec: &CircuitBreakerSpec) {
    let Some(fallback) = &spec.fallback else { return };
    let kind = fallback.r#type.unwrap_or(FallbackType::None);
    if (kind == FallbackType::Static) != fallback.r#static.is_some() {
        check.problem("fallback.static", "goes with type: Static, and only with it".to_owned());
    }
    if (kind == FallbackType::Service) != fallback.service.is_some() {
        check.problem(
            "fallback.service",
            "goes with type: Service, and only with it".to_owned(),
        );
    }
    if let Some(answer) = &fallback.r#static {
        check.number("fallback.static.httpStatusCode", answer.http_status_code, 200, 200, 599);
        if answer.body.as_ref().is_some_and(|body| body.len() > 65_536) {
            check.problem("fallback.static.body", "is longer than 65536 bytes".to_owned());
        }
    }
    let url = fallback
        .service
        .as_ref()
        .map(|service| service.url.clone().unwrap_or_default());
    if let Some(url) = url
        && !url.starts_with("http://")
        && !url.starts_with("https://")
    {
        check.problem(
            "fallback.service.url",
            format!("{url:?} is no address; wanted http://… or https://…"),
        );
    }
}

fn override_rules(check: &mut Check, spec: &CircuitBreakerSpec) -> Option<Override> {
    let wanted = spec.r#override.as_ref()?;
    if wanted.reason.as_ref().is_none_or(|reason| reason.trim().is_empty()) {
        check.problem(
            "override.reason",
            "is required: who reads this at night wants to know why".to_owned(),
        );
    }
    let expires_at = match &wanted.expire_time {
        None => 0,
        Some(text) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => u64::try_from(time.as_millisecond()).unwrap_or(1).max(1),
            Err(_) => {
                let message = format!("{text:?} is no time; wanted RFC 3339, like 2026-12-01T22:00:00Z");
                check.problem("override.expireTime", message);
                0
            }
        },
    };
    match wanted.state {
        Some(state) => Some(Override {
            open: state == ForcedState::ForcedOpen,
            expires_at,
        }),
        None => {
            check.problem(
                "override.state",
                "is required; wanted ForcedOpen or ForcedClosed".to_owned(),
            );
            None
        }
    }
}

fn warnings(spec: &CircuitBreakerSpec, policy: &Policy) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |field: &str, message: String| {
        warnings.push(Problem {
            field: format!("spec.{field}"),
            message,
        })
    };
    if policy.call_timeout_ms > 0 && policy.slow_call_ms >= policy.call_timeout_ms {
        let message = "is not below call.timeout: no call lives long enough to be slow".to_owned();
        warn("trip.slowCallDurationThreshold", message);
    }
    if policy.call_timeout_ms > policy.half_open_ms {
        warn(
            "halfOpen.maxDuration",
            "is shorter than call.timeout: probes outlive their round".to_owned(),
        );
    }
    match policy.window {
        Window::Count(size) if spec_minimum(spec).is_some_and(|minimum| minimum > size) => {
            let message = format!("is more than the window's {size} calls; {size} is used");
            warn("trip.minimumNumberOfCalls", message);
        }
        Window::Time(ms) if policy.minimum_calls * 1_000 > ms * 10 => {
            let needed = policy.minimum_calls * 1_000 / ms;
            let message = format!("needs {needed} calls/s in a window of {}", tiebar::duration::format(ms));
            warn("trip.minimumNumberOfCalls", message);
        }
        _ => {}
    }
    warnings
}

fn spec_minimum(spec: &CircuitBreakerSpec) -> Option<u64> {
    let minimum = spec.trip.as_ref()?.minimum_number_of_calls?;
    u64::try_from(minimum).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> Vec<String> {
        let spec: CircuitBreakerSpec = serde_yaml::from_str(yaml).expect("well-formed");
        resolve(&spec)
            .err()
            .unwrap_or_default()
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn an_empty_spec_is_valid_and_has_the_documented_defaults() {
        let resolved = resolve(&CircuitBreakerSpec::default()).expect("valid");
        assert_eq!(resolved.policy, Policy::default());
        assert_eq!(resolved.policy.check(), Ok(()));
        assert_eq!(resolved.json, "{}");
    }

    #[test]
    fn bounds_hold_on_both_sides() {
        let cases = [
            ("open: {duration: %}", "100ms", "99ms", "24h", "25h"),
            ("halfOpen: {maxDuration: %}", "1s", "999ms", "1h", "61m"),
            ("halfOpen: {permittedCalls: %}", "1", "0", "1000", "1001"),
            ("trip: {consecutiveFailures: %}", "1", "0", "1000", "1001"),
            ("trip: {failureRateThreshold: %}", "1", "0", "100", "101"),
            (
                "trip: {failureRateThreshold: 5, minimumNumberOfCalls: %}",
                "1",
                "0",
                "100000",
                "100001",
            ),
            (
                "trip: {failureRateThreshold: 5, minimumInstances: %}",
                "1",
                "0",
                "100",
                "101",
            ),
            (
                "trip: {failureRateThreshold: 5, slidingWindow: {duration: %}}",
                "1s",
                "999ms",
                "1h",
                "61m",
            ),
            (
                "trip: {failureRateThreshold: 5, slidingWindow: {type: CountBased, size: %}}",
                "2",
                "1",
                "1000",
                "1001",
            ),
            (
                "trip: {slowCallRateThreshold: 5, slowCallDurationThreshold: %}",
                "1ms",
                "0ms",
                "1h",
                "61m",
            ),
            ("recovery: {rampDuration: %}", "0s", "-1s", "1h", "61m"),
            ("call: {timeout: %}", "10ms", "9ms", "1h", "61m"),
            ("open: {jitterPercent: %}", "0", "-1", "100", "101"),
            ("rejection: {httpStatusCode: %}", "400", "399", "599", "600"),
        ];
        for (template, low, below, high, above) in cases {
            for good in [low, high] {
                assert_eq!(problems(&template.replace('%', good)), [""; 0], "{template} {good}");
            }
            for bad in [below, above] {
                let found = problems(&template.replace('%', bad));
                assert_eq!(found.len(), 1, "{template} {bad}: {found:?}");
                assert!(found[0].contains("wanted"), "{found:?}");
            }
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_what_would_be_right() {
        let found = problems("open: {duration: 50ms, backoff: Exponential}\ntrip: {minimumInstances: 2}\noverride: {}");
        let expected = [
            "spec.trip: says nothing to trip at; wanted at least one of consecutiveFailures, failureRateThreshold or \
             slowCallRateThreshold",
            "spec.open.duration: \"50ms\" is out of range; wanted 100ms to 24h",
            "spec.open.maxDuration: backoff Exponential needs a maxDuration, like 5m",
            "spec.override.reason: is required: who reads this at night wants to know why",
            "spec.override.state: is required; wanted ForcedOpen or ForcedClosed",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_default_never_makes_a_written_field_invalid() {
        assert_eq!(
            problems("trip: {failureRateThreshold: 5, slidingWindow: {type: CountBased, size: 5}}"),
            [""; 0]
        );
        assert_eq!(
            problems("open: {duration: 23h, backoff: Exponential, maxDuration: 24h}"),
            [""; 0]
        );
    }

    #[test]
    fn the_senseless_is_warned_of() {
        let spec = "{trip: {slowCallRateThreshold: 50, slowCallDurationThreshold: 2s}, call: {timeout: 1s}}";
        let resolved = resolve(&serde_yaml::from_str(spec).expect("well-formed")).expect("valid");
        assert_eq!(resolved.warnings.len(), 1, "{:?}", resolved.warnings);
    }
}

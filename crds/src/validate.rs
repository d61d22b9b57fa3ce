//! What is valid, and the rules made from it: a spec is checked by `bounds` and `constraints`, as the API server does, and
//! resolved into a policy.

use crate::bounds::{self, Number, Span, Text, Texts};
use crate::constraints::Ruled;
use crate::rules::FailureConditions;
use crate::spec::{Backoff, CircuitBreakerSpec, ForcedState, Mode, StorePolicy, Trip, WindowType};
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

    /// The result, or the default with a problem noted.
    fn take<T: Default>(&mut self, field: &str, result: Result<T, String>) -> T {
        result.unwrap_or_else(|message| {
            self.problem(field, message);
            T::default()
        })
    }

    fn number(&mut self, field: &str, value: Option<i64>, bound: &Number) -> u64 {
        let default = bound.default.unwrap_or(0);
        value.map_or(default, |value| self.take(field, bound.check(value)))
    }

    fn duration(&mut self, field: &str, value: Option<&String>, bound: &Span) -> u64 {
        let default = bound.default.unwrap_or(0);
        value.map_or(default, |text| self.take(field, bound.check(text)))
    }

    fn text(&mut self, field: &str, value: Option<&String>, bound: &Text) {
        if let Some(text) = value {
            self.take(field, bound.check(text));
        }
    }

    fn length<T>(&mut self, field: &str, list: &[T], most: usize) {
        if list.len() > most {
            self.problem(field, format!("has {} items; wanted at most {most}", list.len()));
        }
    }

    fn texts(&mut self, field: &str, list: Option<&Vec<String>>, bound: &Texts) {
        let list = list.map_or(&[][..], Vec::as_slice);
        self.length(field, list, bound.most);
        for (index, text) in list.iter().enumerate() {
            self.text(&format!("{field}[{index}]"), Some(text), &bound.each);
        }
    }

    /// What must be there and what must hold between the fields.
    fn object<T: Ruled>(&mut self, path: &str, object: &T) {
        let child = |field: &str| {
            if field.is_empty() {
                path.to_owned()
            } else {
                format!("{path}.{field}")
            }
        };
        for (field, there) in T::REQUIRED {
            if !there(object) {
                self.problem(&child(field), "is required".to_owned());
            }
        }
        for rule in T::RULES {
            if !(rule.holds)(object) {
                self.problem(&child(rule.field), rule.message.to_owned());
            }
        }
    }
}

/// Checks a spec and makes the rules.
///
/// # Errors
/// Everything that is wrong with it.
pub fn resolve(spec: &CircuitBreakerSpec) -> Result<Resolved, Vec<Problem>> {
    let mut check = Check::default();
    check.text("serviceName", spec.service_name.as_ref(), &bounds::SERVICE_NAME);
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
    open_rules(&mut check, spec, &mut policy);
    let half_open = spec.half_open.clone().unwrap_or_default();
    policy.permitted_calls = check.number(
        "halfOpen.permittedCalls",
        half_open.permitted_calls,
        &bounds::PERMITTED_CALLS,
    );
    let longest = half_open.max_duration.as_ref();
    policy.half_open_ms = check.duration("halfOpen.maxDuration", longest, &bounds::HALF_OPEN_MAX_DURATION);
    let recovery = spec.recovery.clone().unwrap_or_default();
    policy.ramp_ms = check.duration(
        "recovery.rampDuration",
        recovery.ramp_duration.as_ref(),
        &bounds::RAMP_DURATION,
    );
    policy.ramp_initial_percent = check.number(
        "recovery.initialPercent",
        recovery.initial_percent,
        &bounds::INITIAL_PERCENT,
    );
    let call = spec.call.clone().unwrap_or_default();
    policy.call_timeout_ms = check.duration("call.timeout", call.timeout.as_ref(), &bounds::CALL_TIMEOUT);
    policy.connect_timeout_ms = check.duration(
        "call.connectTimeout",
        call.connect_timeout.as_ref(),
        &bounds::CONNECT_TIMEOUT,
    );
    let conditions = failure_conditions(&mut check, spec);
    let rejection = spec.rejection.clone().unwrap_or_default();
    check.number(
        "rejection.httpStatusCode",
        rejection.http_status_code,
        &bounds::REJECTION_STATUS,
    );
    fallback_rules(&mut check, spec);
    let forced = override_rules(&mut check, spec);
    if check.problems.is_empty() {
        // Optional fields in the order of their declaration: the same spec gives the same text. Callers read this; what
        // may be left out when another field says it is there.
        let mut canonical = spec.clone();
        if let Some(fallback) = &mut canonical.fallback {
            fallback.r#type = Some(fallback.kind());
        }
        let json = serde_json::to_string(&canonical).unwrap_or_default();
        Ok(Resolved {
            warnings: warnings(spec, &policy),
            policy,
            forced,
            conditions,
            json,
        })
    } else {
        Err(check.problems)
    }
}

fn trip_rules(check: &mut Check, trip: &Trip, policy: &mut Policy) {
    check.object("trip", trip);
    policy.consecutive_failures = check.number(
        "trip.consecutiveFailures",
        trip.consecutive_failures,
        &bounds::CONSECUTIVE_FAILURES,
    );
    policy.failure_rate_bp = 100
        * check.number(
            "trip.failureRateThreshold",
            trip.failure_rate_threshold,
            &bounds::FAILURE_RATE_THRESHOLD,
        );
    let slow_rate = trip.slow_call_rate_threshold;
    policy.slow_rate_bp = 100
        * check.number(
            "trip.slowCallRateThreshold",
            slow_rate,
            &bounds::SLOW_CALL_RATE_THRESHOLD,
        );
    let slow = trip.slow_call_duration_threshold.as_ref();
    policy.slow_call_ms = check.duration(
        "trip.slowCallDurationThreshold",
        slow,
        &bounds::SLOW_CALL_DURATION_THRESHOLD,
    );
    let minimum = trip.minimum_number_of_calls;
    policy.minimum_calls = check.number("trip.minimumNumberOfCalls", minimum, &bounds::MINIMUM_NUMBER_OF_CALLS);
    policy.minimum_instances = check.number(
        "trip.minimumInstances",
        trip.minimum_instances,
        &bounds::MINIMUM_INSTANCES,
    );
    let window = trip.sliding_window.clone().unwrap_or_default();
    check.object("trip.slidingWindow", &window);
    let size = check.number("trip.slidingWindow.size", window.size, &bounds::WINDOW_SIZE);
    let duration = window.duration.as_ref();
    let duration = check.duration("trip.slidingWindow.duration", duration, &bounds::WINDOW_DURATION);
    policy.window = match window.r#type {
        // A size says what kind of window is meant.
        Some(WindowType::CountBased) => Window::Count(size),
        None if window.size.is_some() => Window::Count(size),
        _ => Window::Time(duration),
    };
}

fn open_rules(check: &mut Check, spec: &CircuitBreakerSpec, policy: &mut Policy) {
    let open = spec.open.clone().unwrap_or_default();
    check.object("open", &open);
    policy.open_ms = check.duration("open.duration", open.duration.as_ref(), &bounds::OPEN_DURATION);
    policy.jitter_percent = check.number("open.jitterPercent", open.jitter_percent, &bounds::JITTER_PERCENT);
    let longest = check.duration(
        "open.maxDuration",
        open.max_duration.as_ref(),
        &bounds::OPEN_MAX_DURATION,
    );
    if open.backoff == Some(Backoff::Exponential) {
        policy.open_max_ms = longest;
        if open.duration.is_none() {
            // The default gives way to what was written.
            policy.open_ms = policy.open_ms.min(longest);
        }
    }
}

fn failure_conditions(check: &mut Check, spec: &CircuitBreakerSpec) -> FailureConditions {
    let conditions = spec.failure_conditions.clone().unwrap_or_default();
    for (field, list, bound) in [
        (
            "httpStatusCodes",
            &conditions.http_status_codes,
            &bounds::HTTP_STATUS_CODES,
        ),
        (
            "grpcStatusCodes",
            &conditions.grpc_status_codes,
            &bounds::GRPC_STATUS_CODES,
        ),
        (
            "ignoredHttpStatusCodes",
            &conditions.ignored_http_status_codes,
            &bounds::IGNORED_HTTP_STATUS_CODES,
        ),
    ] {
        check.texts(&format!("failureConditions.{field}"), list.as_ref(), bound);
    }
    let kinds = conditions.error_kinds.as_deref().unwrap_or_default();
    check.length("failureConditions.errorKinds", kinds, bounds::ERROR_KINDS.most);
    // What it could complain of has been complained of.
    FailureConditions::new(&conditions).unwrap_or_default()
}

fn fallback_rules(check: &mut Check, spec: &CircuitBreakerSpec) {
    let Some(fallback) = &spec.fallback else { return };
    check.object("fallback", fallback);
    if let Some(answer) = &fallback.r#static {
        check.number(
            "fallback.static.httpStatusCode",
            answer.http_status_code,
            &bounds::STATIC_STATUS,
        );
        check.text(
            "fallback.static.contentType",
            answer.content_type.as_ref(),
            &bounds::CONTENT_TYPE,
        );
        check.text("fallback.static.body", answer.body.as_ref(), &bounds::BODY);
    }
    if let Some(service) = &fallback.service {
        check.object("fallback.service", service);
        check.text("fallback.service.url", service.url.as_ref(), &bounds::URL);
    }
}

fn override_rules(check: &mut Check, spec: &CircuitBreakerSpec) -> Option<Override> {
    let wanted = spec.r#override.as_ref()?;
    check.object("override", wanted);
    check.text("override.reason", wanted.reason.as_ref(), &bounds::REASON);
    let expires_at = wanted.expire_time.as_ref().map_or(0, |text| {
        check.take("override.expireTime", bounds::EXPIRE_TIME.check(text))
    });
    Some(Override {
        open: wanted.state? == ForcedState::ForcedOpen,
        expires_at,
    })
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
            "spec.trip: says nothing to trip at; wanted at least one of consecutiveFailures, failureRateThreshold and \
             slowCallRateThreshold",
            "spec.open.maxDuration: backoff Exponential needs a maxDuration, like 5m",
            "spec.open.duration: \"50ms\": wanted a duration of 100ms to 24h: whole numbers with units h, m, s, ms in \
             that order, like 750ms or 1m30s",
            "spec.override.state: is required",
            "spec.override.reason: is required",
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
        let resolved = |yaml| resolve(&serde_yaml::from_str(yaml).expect("well-formed")).expect("valid");
        let short = resolved("open: {backoff: Exponential, maxDuration: 10s}").policy;
        assert_eq!(
            (short.open_ms, short.open_max_ms, short.check()),
            (10_000, 10_000, Ok(()))
        );
        let counted = resolved("trip: {failureRateThreshold: 5, slidingWindow: {size: 7}}").policy;
        assert_eq!(counted.window, Window::Count(7));
        assert_eq!(problems("open: {maxDuration: 1h}"), [""; 0]);
        assert_eq!(problems("fallback: {static: {body: later}}"), [""; 0]);
    }

    #[test]
    fn the_senseless_is_warned_of() {
        let spec = "{trip: {slowCallRateThreshold: 50, slowCallDurationThreshold: 2s}, call: {timeout: 1s}}";
        let resolved = resolve(&serde_yaml::from_str(spec).expect("well-formed")).expect("valid");
        assert_eq!(resolved.warnings.len(), 1, "{:?}", resolved.warnings);
    }
}

//! What is legal but senseless: a field that has no effect, a rule that never or always holds. Said by `operator validate`;
//! nothing is refused for it.

use crate::spec::{Backoff, CircuitBreakerSpec, Mode};
use crate::validate::Problem;
use tiebar::duration;
use tiebar::policy::{Policy, Window};

/// A service that needs more calls a second than this to be judged at all is worth a word.
const BUSY: u64 = 10;

#[derive(Default)]
struct Warnings(Vec<Problem>);

impl Warnings {
    fn when(&mut self, senseless: bool, field: &str, message: impl Into<String>) {
        if senseless {
            self.0.push(Problem {
                field: format!("spec.{field}"),
                message: message.into(),
            });
        }
    }
}

/// Judges a valid spec and the policy made from it.
pub(crate) fn warnings(spec: &CircuitBreakerSpec, policy: &Policy) -> Vec<Problem> {
    let mut warnings = Warnings::default();
    trip(&mut warnings, spec, policy);
    timing(&mut warnings, spec, policy);
    evidence(&mut warnings, spec, policy);
    warnings.when(
        spec.r#override.is_some() && spec.mode == Some(Mode::Disabled),
        "override",
        "has no effect while mode is Disabled",
    );
    warnings.0
}

fn trip(warnings: &mut Warnings, spec: &CircuitBreakerSpec, policy: &Policy) {
    let trip = spec.trip.clone().unwrap_or_default();
    let rated = policy.failure_rate_bp > 0 || policy.slow_rate_bp > 0;
    warnings.when(
        !rated && trip.minimum_number_of_calls.is_some(),
        "trip.minimumNumberOfCalls",
        "has no effect without failureRateThreshold or slowCallRateThreshold",
    );
    warnings.when(
        policy.minimum_instances == 1 && (policy.consecutive_failures == 1 || (rated && policy.minimum_calls == 1)),
        "trip",
        "opens the circuit for all callers at a single call",
    );
    match policy.window {
        Window::Count(size) => {
            let written = trip.minimum_number_of_calls.and_then(|calls| u64::try_from(calls).ok());
            let message = format!("is more than the window's {size} calls; {size} is used");
            warnings.when(
                rated && written.is_some_and(|calls| calls > size),
                "trip.minimumNumberOfCalls",
                message,
            );
        }
        Window::Time(ms) => {
            let needed = (policy.minimum_calls * 1_000).div_ceil(ms);
            let window = duration::format(ms);
            let calls = policy.minimum_calls;
            let message =
                format!("{calls} calls in a window of {window} need {needed} calls/s; with fewer no rate is judged");
            warnings.when(rated && needed > BUSY, "trip.minimumNumberOfCalls", message);
        }
    }
}

fn timing(warnings: &mut Warnings, spec: &CircuitBreakerSpec, policy: &Policy) {
    let timeout = policy.call_timeout_ms;
    let open = spec.open.clone().unwrap_or_default();
    let exponential = open.backoff == Some(Backoff::Exponential);
    warnings.when(
        timeout > 0 && policy.slow_call_ms >= timeout,
        "trip.slowCallDurationThreshold",
        "is not below call.timeout: no call lives long enough to be slow",
    );
    warnings.when(
        timeout > 0
            && spec.call.as_ref().is_some_and(|call| call.connect_timeout.is_some())
            && policy.connect_timeout_ms >= timeout,
        "call.connectTimeout",
        "is not below call.timeout, which ends the call first",
    );
    warnings.when(
        timeout > policy.half_open_ms,
        "halfOpen.maxDuration",
        "is shorter than call.timeout: probes outlive their round",
    );
    warnings.when(
        open.max_duration.is_some() && !exponential,
        "open.maxDuration",
        "has no effect without backoff: Exponential",
    );
    warnings.when(
        exponential && policy.open_max_ms == policy.open_ms,
        "open.backoff",
        "has no effect: maxDuration is not above duration",
    );
    warnings.when(
        policy.ramp_ms == 0
            && spec
                .recovery
                .as_ref()
                .is_some_and(|recovery| recovery.initial_percent.is_some()),
        "recovery.initialPercent",
        "has no effect without a rampDuration",
    );
    warnings.when(
        policy.ramp_ms > 0 && policy.ramp_initial_percent == 100,
        "recovery.rampDuration",
        "has no effect with an initialPercent of 100",
    );
}

fn evidence(warnings: &mut Warnings, spec: &CircuitBreakerSpec, policy: &Policy) {
    let conditions = spec.failure_conditions.clone().unwrap_or_default();
    let none = |list: Option<&[String]>| list.is_some_and(<[String]>::is_empty);
    let nothing = none(conditions.http_status_codes.as_deref())
        && none(conditions.grpc_status_codes.as_deref())
        && conditions.error_kinds.as_ref().is_some_and(Vec::is_empty);
    let judged = policy.failure_rate_bp > 0 || policy.consecutive_failures > 0;
    warnings.when(nothing && judged, "failureConditions", "leaves nothing that could fail");
    let failures = conditions
        .http_status_codes
        .clone()
        .unwrap_or_else(|| vec!["500-599".to_owned()]);
    let (Ok(failures), Ok(ignored)) = (
        crate::Codes::parse(&failures),
        crate::Codes::parse(&conditions.ignored_http_status_codes.unwrap_or_default()),
    ) else {
        return;
    };
    let mut failing = (100..=599).filter(|status| failures.contains(*status)).peekable();
    warnings.when(
        failing.peek().is_some() && failing.all(|status| ignored.contains(status)),
        "failureConditions.ignoredHttpStatusCodes",
        "covers all of httpStatusCodes: no status is a failure",
    );
}

#[cfg(test)]
mod tests {
    use crate::resolve;

    fn found(yaml: &str) -> Vec<String> {
        let spec = serde_yaml::from_str(yaml).expect("well-formed");
        let resolved = resolve(&spec).expect("valid");
        resolved.warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_senseless_is_warned_of_once_and_by_name() {
        let cases = [
            (
                "{trip: {slowCallRateThreshold: 50, slowCallDurationThreshold: 2s}, call: {timeout: 2s}}",
                "spec.trip.slowCallDurationThreshold: is not below call.timeout: no call lives long enough to be slow",
            ),
            (
                "call: {timeout: 1s, connectTimeout: 1s}",
                "spec.call.connectTimeout: is not below call.timeout, which ends the call first",
            ),
            (
                "{call: {timeout: 10s}, halfOpen: {maxDuration: 9s}}",
                "spec.halfOpen.maxDuration: is shorter than call.timeout: probes outlive their round",
            ),
            (
                "open: {maxDuration: 5m}",
                "spec.open.maxDuration: has no effect without backoff: Exponential",
            ),
            (
                "open: {duration: 5m, backoff: Exponential, maxDuration: 5m}",
                "spec.open.backoff: has no effect: maxDuration is not above duration",
            ),
            (
                "recovery: {initialPercent: 5}",
                "spec.recovery.initialPercent: has no effect without a rampDuration",
            ),
            (
                "recovery: {rampDuration: 5s, initialPercent: 100}",
                "spec.recovery.rampDuration: has no effect with an initialPercent of 100",
            ),
            (
                "trip: {consecutiveFailures: 5, minimumNumberOfCalls: 5}",
                "spec.trip.minimumNumberOfCalls: has no effect without failureRateThreshold or slowCallRateThreshold",
            ),
            (
                "trip: {failureRateThreshold: 5, minimumNumberOfCalls: 50, slidingWindow: {size: 10}}",
                "spec.trip.minimumNumberOfCalls: is more than the window's 10 calls; 10 is used",
            ),
            (
                "trip: {failureRateThreshold: 5, slidingWindow: {duration: 1s}}",
                "spec.trip.minimumNumberOfCalls: 20 calls in a window of 1s need 20 calls/s; with fewer no rate is judged",
            ),
            (
                "trip: {consecutiveFailures: 1, minimumInstances: 1}",
                "spec.trip: opens the circuit for all callers at a single call",
            ),
            (
                "failureConditions: {httpStatusCodes: [], grpcStatusCodes: [], errorKinds: []}",
                "spec.failureConditions: leaves nothing that could fail",
            ),
            (
                "failureConditions: {ignoredHttpStatusCodes: ['400-599']}",
                "spec.failureConditions.ignoredHttpStatusCodes: covers all of httpStatusCodes: no status is a failure",
            ),
            (
                "{mode: Disabled, override: {state: ForcedOpen, reason: x}}",
                "spec.override: has no effect while mode is Disabled",
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(found(yaml), [wanted], "{yaml}");
        }
    }

    #[test]
    fn the_sensible_is_not() {
        for yaml in [
            "{}",
            "{call: {timeout: 2s}, trip: {slowCallRateThreshold: 50, slowCallDurationThreshold: 1999ms}}",
            "trip: {failureRateThreshold: 5, slidingWindow: {size: 5}}",
            "trip: {consecutiveFailures: 1}",
            "trip: {consecutiveFailures: 3, minimumInstances: 1}",
            "trip: {failureRateThreshold: 5, minimumNumberOfCalls: 10, slidingWindow: {duration: 1s}}",
            "open: {duration: 1s, backoff: Exponential, maxDuration: 2s}",
            "failureConditions: {httpStatusCodes: [], ignoredHttpStatusCodes: ['100-599']}",
        ] {
            assert_eq!(found(yaml), [""; 0], "{yaml}");
        }
    }
}

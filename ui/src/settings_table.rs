//! A breaker's effective configuration, line by line, with what nobody wrote marked as default.

use crds::{CircuitBreakerSpec, Stored};
use tiebar::duration::format;
use tiebar::policy::{Mode, Policy, StoreFailurePolicy, Window};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As in the resource, like `trip.failureRateThreshold`.
    pub(crate) path: &'static str,
    pub(crate) value: String,
    /// False: the default.
    pub(crate) written: bool,
}

impl Setting {
    fn parts(&self) -> (&'static str, &'static str) {
        self.path.split_at(self.path.find('.').map_or(0, |dot| dot + 1))
    }

    /// `trip.`, where a narrow page may break the line.
    pub(crate) fn group(&self) -> &'static str {
        self.parts().0
    }

    /// `failureRateThreshold`.
    pub(crate) fn field(&self) -> &'static str {
        self.parts().1
    }
}

/// All lines, in the order of the resource.
pub(crate) fn settings(policy: &Policy, stored: &Stored) -> Vec<Setting> {
    let spec = &stored.spec;
    let trip = spec.trip.clone().unwrap_or_default();
    let open = spec.open.clone().unwrap_or_default();
    let half_open = spec.half_open.clone().unwrap_or_default();
    let recovery = spec.recovery.clone().unwrap_or_default();
    let call = spec.call.clone().unwrap_or_default();
    let share = |bp: u64| {
        if bp == 0 {
            "no rule".to_owned()
        } else {
            format!("{} %", bp / 100)
        }
    };
    let unless_zero = |number: u64, text: String, none: &str| if number == 0 { none.to_owned() } else { text };
    let window = match policy.window {
        Window::Time(ms) => format!("TimeBased, {}", format(ms)),
        Window::Count(size) => format!("CountBased, {size} calls"),
    };
    let backoff = unless_zero(
        policy.open_max_ms,
        format!("Exponential, up to {}", format(policy.open_max_ms)),
        "None",
    );
    let mode = match policy.mode {
        Mode::Enforce => "Enforce",
        Mode::Observe => "Observe",
        Mode::Disabled => "Disabled",
    };
    let store = match policy.store_failure {
        StoreFailurePolicy::LocalOnly => "LocalOnly",
        StoreFailurePolicy::Allow => "Allow",
        StoreFailurePolicy::Deny => "Deny",
    };
    let run = policy.consecutive_failures;
    let lines: Vec<(&'static str, String, bool)> = vec![
        ("mode", mode.to_owned(), spec.mode.is_some()),
        (
            "trip.consecutiveFailures",
            unless_zero(run, run.to_string(), "no rule"),
            trip.consecutive_failures.is_some(),
        ),
        (
            "trip.failureRateThreshold",
            share(policy.failure_rate_bp),
            trip.failure_rate_threshold.is_some(),
        ),
        (
            "trip.slowCallRateThreshold",
            share(policy.slow_rate_bp),
            trip.slow_call_rate_threshold.is_some(),
        ),
        (
            "trip.slowCallDurationThreshold",
            unless_zero(policy.slow_call_ms, format(policy.slow_call_ms), "no call is slow"),
            trip.slow_call_duration_threshold.is_some(),
        ),
        (
            "trip.minimumNumberOfCalls",
            policy.minimum_calls.to_string(),
            trip.minimum_number_of_calls.is_some(),
        ),
        (
            "trip.minimumInstances",
            policy.minimum_instances.to_string(),
            trip.minimum_instances.is_some(),
        ),
        ("trip.slidingWindow", window, trip.sliding_window.is_some()),
        ("open.duration", format(policy.open_ms), open.duration.is_some()),
        ("open.backoff", backoff, open.backoff.is_some()),
        (
            "open.jitterPercent",
            format!("{} %", policy.jitter_percent),
            open.jitter_percent.is_some(),
        ),
        (
            "halfOpen.permittedCalls",
            policy.permitted_calls.to_string(),
            half_open.permitted_calls.is_some(),
        ),
        (
            "halfOpen.maxDuration",
            format(policy.half_open_ms),
            half_open.max_duration.is_some(),
        ),
        (
            "recovery.rampDuration",
            unless_zero(policy.ramp_ms, format(policy.ramp_ms), "no ramp"),
            recovery.ramp_duration.is_some(),
        ),
        (
            "recovery.initialPercent",
            format!("{} %", policy.ramp_initial_percent),
            recovery.initial_percent.is_some(),
        ),
        (
            "call.timeout",
            unless_zero(policy.call_timeout_ms, format(policy.call_timeout_ms), "none"),
            call.timeout.is_some(),
        ),
        (
            "call.connectTimeout",
            format(policy.connect_timeout_ms),
            call.connect_timeout.is_some(),
        ),
    ];
    let mut settings: Vec<Setting> = lines
        .into_iter()
        .map(|(path, value, written)| Setting { path, value, written })
        .collect();
    settings.extend(answers(spec));
    settings.push(Setting {
        path: "storeFailurePolicy",
        value: store.to_owned(),
        written: spec.store_failure_policy.is_some(),
    });
    settings
}

/// What the store does not judge by: read from the spec alone.
fn answers(spec: &CircuitBreakerSpec) -> Vec<Setting> {
    let conditions = spec.failure_conditions.clone().unwrap_or_default();
    let kinds = conditions
        .error_kinds
        .map(|kinds| kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>());
    let list = |path, written: Option<Vec<String>>, default: &str| Setting {
        path,
        written: written.is_some(),
        value: match written {
            Some(items) if items.is_empty() => "none".to_owned(),
            Some(items) => items.join(", "),
            None => default.to_owned(),
        },
    };
    let rejection = spec.rejection.as_ref().and_then(|rejection| rejection.http_status_code);
    let fallback = spec.fallback.as_ref().and_then(|fallback| fallback.r#type);
    vec![
        list(
            "failureConditions.httpStatusCodes",
            conditions.http_status_codes,
            "500-599",
        ),
        list(
            "failureConditions.grpcStatusCodes",
            conditions.grpc_status_codes,
            "UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS",
        ),
        list(
            "failureConditions.errorKinds",
            kinds,
            "Timeout, ConnectionFailure, Reset",
        ),
        list(
            "failureConditions.ignoredHttpStatusCodes",
            conditions.ignored_http_status_codes,
            "none",
        ),
        Setting {
            path: "rejection.httpStatusCode",
            value: rejection.unwrap_or(503).to_string(),
            written: rejection.is_some(),
        },
        Setting {
            path: "fallback.type",
            value: fallback.map_or_else(|| "None".to_owned(), |kind| format!("{kind:?}")),
            written: fallback.is_some(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_told_from_defaults_even_when_equal() {
        let stored =
            Stored::read(r#"{"trip":{"failureRateThreshold":50},"rejection":{"httpStatusCode":429}}"#).unwrap();
        let policy = Policy::default();
        let lines = settings(&policy, &stored);
        let line = |path: &str| lines.iter().find(|line| line.path == path).cloned().unwrap();
        assert_eq!(line("trip.failureRateThreshold").value, "50 %");
        assert!(line("trip.failureRateThreshold").written);
        assert!(!line("open.duration").written);
        assert_eq!(line("rejection.httpStatusCode").value, "429");
        assert_eq!(lines.iter().filter(|line| line.written).count(), 2);
    }
}

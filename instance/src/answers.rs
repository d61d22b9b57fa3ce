//! What the configuration says about answers, made once per revision.

use crate::fallback::{Allowed, Fallback};
use crds::{CircuitBreakerSpec, FailureConditions, Stored};
use std::sync::Arc;
use std::time::Duration;
use tiebar::guard::Effective;

/// `call.connectTimeout` where nobody has set one.
const CONNECT: Duration = Duration::from_secs(1);

/// One revision's answers.
pub(crate) struct Answers {
    from: Option<Arc<Effective>>,
    pub(crate) conditions: Arc<FailureConditions>,
    pub(crate) rejection_status: u16,
    pub(crate) fallback: Fallback,
    pub(crate) timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
}

impl Answers {
    /// `starting` holds while the rules in force are those the process was started with, which carry no spec.
    pub(crate) fn new(
        from: Option<Arc<Effective>>,
        starting: Option<&CircuitBreakerSpec>,
        allowed: &Allowed,
        idle_timeout: Duration,
        id: &str,
    ) -> Self {
        let spec = match from.as_ref().map(|effective| &effective.spec) {
            None => None,
            Some(None) => starting.cloned(),
            Some(Some(json)) => {
                let stored = Stored::read(json);
                if stored.is_none() {
                    tracing::error!(breaker = id, "the stored spec is not understood");
                }
                stored.map(|stored| stored.spec)
            }
        };
        let spec: CircuitBreakerSpec = spec.unwrap_or_default();
        let conditions = spec.failure_conditions.as_ref().map(FailureConditions::new);
        let status = spec.rejection.as_ref().and_then(|rejection| rejection.http_status_code);
        let policy = from.as_ref().map(|effective| &effective.config.policy);
        let timeout = policy.map_or(0, |policy| policy.call_timeout_ms);
        Self {
            conditions: Arc::new(conditions.and_then(Result::ok).unwrap_or_default()),
            rejection_status: status.and_then(|status| u16::try_from(status).ok()).unwrap_or(503),
            fallback: Fallback::new(spec.fallback.as_ref(), allowed, idle_timeout, id),
            timeout: (timeout > 0).then(|| Duration::from_millis(timeout)),
            connect_timeout: policy.map_or(CONNECT, |policy| Duration::from_millis(policy.connect_timeout_ms)),
            from,
        }
    }

    /// Whether they were made from this.
    pub(crate) fn are_of(&self, effective: Option<&Arc<Effective>>) -> bool {
        match (&self.from, effective) {
            (Some(from), Some(effective)) => Arc::ptr_eq(from, effective),
            (None, None) => true,
            _ => false,
        }
    }
}

//! The rules of one breaker, in integers: milliseconds and basis points (1 % = 100).
//!
//! Floats were rejected: Lua and Rust must agree to the last outcome, and a rate test in integers
//! (`failing × 10 000 ≥ threshold × calls`) has one answer.

use std::fmt;

/// Basis points of a full share: 100 %.
pub const FULL_BP: u64 = 10_000;

/// What a breaker does with its judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Mode {
    /// Trips reject calls.
    #[default]
    Enforce,
    /// Admit everything; report what would have happened.
    Observe,
    /// Admit everything; count nothing.
    Disabled,
}

/// Which outcomes a rate is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// The outcomes younger than this many milliseconds (1 s – 1 h), in ten buckets.
    Time(u64),
    /// The last so many outcomes (2 – 1,000).
    Count(u64),
}

impl Window {
    /// The age in milliseconds at which silence ends a run: the window's length, 60 s for a count window.
    #[must_use]
    pub fn silence_ms(self) -> u64 {
        match self {
            Self::Time(ms) => ms,
            Self::Count(_) => 60_000,
        }
    }
}

/// What an instance does while it cannot reach the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum StoreFailurePolicy {
    /// Each instance goes on alone with the same machine.
    #[default]
    LocalOnly,
    /// Admit; a remembered open or forced state lasts to its end.
    Allow,
    /// Reject.
    Deny,
}

/// The rules the store judges by, and the few of them the caller needs.
///
/// A threshold of 0 means the condition is absent. Ranges are those of the `CircuitBreaker` resource;
/// [`Policy::check`] enforces them for policies written in code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Enforce, observe or disabled. Default: enforce.
    pub mode: Mode,
    /// Trip at a run of so many failures, 1–1,000; 0: no such rule (default).
    pub consecutive_failures: u64,
    /// Trip at this failure rate, basis points, 100–10,000; 0: no such rule. Default 5,000.
    pub failure_rate_bp: u64,
    /// Trip at this share of slow calls, basis points, 100–10,000; 0: no such rule (default).
    pub slow_rate_bp: u64,
    /// A call is slow from this many milliseconds on, 1–3,600,000; 0: no call is slow (default).
    pub slow_call_ms: u64,
    /// A rate is judged from so many calls on, 1–100,000. Default 20.
    pub minimum_calls: u64,
    /// So many instances must agree, 1–100. Default 2.
    pub minimum_instances: u64,
    /// The sliding window. Default: 30 s.
    pub window: Window,
    /// How long open lasts, milliseconds, 100–86,400,000. Default 30,000.
    pub open_ms: u64,
    /// Double the open duration each round, up to this many milliseconds; 0: never (default).
    pub open_max_ms: u64,
    /// Random part added to the open duration, percent, 0–100. Default 0.
    pub jitter_percent: u64,
    /// Probes a round, 1–1,000. Default 5.
    pub permitted_calls: u64,
    /// Longest half-open round, milliseconds, 1,000–3,600,000. Default 30,000.
    pub half_open_ms: u64,
    /// Recovery ramp, milliseconds, 0–3,600,000. Default 0.
    pub ramp_ms: u64,
    /// Share admitted as the ramp begins, percent, 0–100. Default 10.
    pub ramp_initial_percent: u64,
    /// Time to the response headers, milliseconds, 10–3,600,000; 0: unset (default).
    pub call_timeout_ms: u64,
    /// Time to connect, milliseconds. Default 1,000.
    pub connect_timeout_ms: u64,
    /// What to do without a store. Default: local only.
    pub store_failure: StoreFailurePolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            consecutive_failures: 0,
            failure_rate_bp: 5_000,
            slow_rate_bp: 0,
            slow_call_ms: 0,
            minimum_calls: 20,
            minimum_instances: 2,
            window: Window::Time(30_000),
            open_ms: 30_000,
            open_max_ms: 0,
            jitter_percent: 0,
            permitted_calls: 5,
            half_open_ms: 30_000,
            ramp_ms: 0,
            ramp_initial_percent: 10,
            call_timeout_ms: 0,
            connect_timeout_ms: 1_000,
            store_failure: StoreFailurePolicy::LocalOnly,
        }
    }
}

/// A rule outside its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPolicy {
    field: &'static str,
    value: u64,
    wanted: &'static str,
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; wanted {}", self.field, self.value, self.wanted)
    }
}

impl std::error::Error for InvalidPolicy {}

impl Policy {
    /// How long a probe's lease lasts, milliseconds: the call's timeout and a second, ten seconds without one,
    /// never longer than the round.
    #[must_use]
    pub fn lease_ms(&self) -> u64 {
        let wanted = if self.call_timeout_ms == 0 {
            10_000
        } else {
            self.call_timeout_ms + 1_000
        };
        wanted.min(self.half_open_ms)
    }

    /// Checks every rule against its range.
    ///
    /// # Errors
    /// The first rule outside its range, by name, with what would be right.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let bound = |field, value: u64, low: u64, high: u64, wanted| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(InvalidPolicy { field, value, wanted })
            }
        };
        let optional = |field, value: u64, low, high, wanted| {
            if value == 0 {
                Ok(())
            } else {
                bound(field, value, low, high, wanted)
            }
        };
        optional(
            "consecutive_failures",
            self.consecutive_failures,
            1,
            1_000,
            "0 (no rule) or 1 to 1000",
        )?;
        optional(
            "failure_rate_bp",
            self.failure_rate_bp,
            100,
            FULL_BP,
            "0 (no rule) or 100 to 10000",
        )?;
        optional(
            "slow_rate_bp",
            self.slow_rate_bp,
            100,
            FULL_BP,
            "0 (no rule) or 100 to 10000",
        )?;
        optional(
            "slow_call_ms",
            self.slow_call_ms,
            1,
            3_600_000,
            "0 (no rule) or 1 to 3600000 ms",
        )?;
        if self.slow_rate_bp > 0 && self.slow_call_ms == 0 {
            return Err(InvalidPolicy {
                field: "slow_call_ms",
                value: 0,
                wanted: "a duration, as slow_rate_bp is set",
            });
        }
        bound("minimum_calls", self.minimum_calls, 1, 100_000, "1 to 100000")?;
        bound("minimum_instances", self.minimum_instances, 1, 100, "1 to 100")?;
        match self.window {
            Window::Time(ms) => bound("window", ms, 1_000, 3_600_000, "1000 to 3600000 ms")?,
            Window::Count(size) => bound("window", size, 2, 1_000, "2 to 1000 calls")?,
        }
        bound("open_ms", self.open_ms, 100, 86_400_000, "100 to 86400000 ms")?;
        optional(
            "open_max_ms",
            self.open_max_ms,
            self.open_ms,
            86_400_000,
            "0 (no backoff) or open_ms to 86400000 ms",
        )?;
        bound("jitter_percent", self.jitter_percent, 0, 100, "0 to 100")?;
        bound("permitted_calls", self.permitted_calls, 1, 1_000, "1 to 1000")?;
        bound(
            "half_open_ms",
            self.half_open_ms,
            1_000,
            3_600_000,
            "1000 to 3600000 ms",
        )?;
        bound("ramp_ms", self.ramp_ms, 0, 3_600_000, "0 to 3600000 ms")?;
        bound("ramp_initial_percent", self.ramp_initial_percent, 0, 100, "0 to 100")?;
        optional(
            "call_timeout_ms",
            self.call_timeout_ms,
            10,
            3_600_000,
            "0 (unset) or 10 to 3600000 ms",
        )?;
        bound(
            "connect_timeout_ms",
            self.connect_timeout_ms,
            1,
            3_600_000,
            "1 to 3600000 ms",
        )
    }
}

/// A state set by hand, until an instant of the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Override {
    /// True rejects everything, false admits everything.
    pub open: bool,
    /// Unix milliseconds by the store's clock; 0: until it is removed.
    pub expires_at: u64,
}

/// One revision of a breaker's configuration, as a caller carries it and a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// Minted by the store; 0 for rules from code or a local file.
    pub revision: u64,
    /// The rules.
    pub policy: Policy,
    /// A state set by hand.
    pub forced: Option<Override>,
}

impl Config {
    /// Rules nobody programmed into the store: from code or a local file.
    #[must_use]
    pub fn local(policy: Policy) -> Self {
        Self {
            revision: 0,
            policy,
            forced: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_within_every_range() {
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn a_rule_out_of_range_is_named() {
        let policy = Policy {
            permitted_calls: 0,
            ..Policy::default()
        };
        assert_eq!(
            policy.check().unwrap_err().to_string(),
            "permitted_calls is 0; wanted 1 to 1000"
        );
    }
}

//! Every bound and default of `spec`, once: the schema is made from them, and documents are checked against them.
//!
//! Bounds in `#[schemars(range(…))]` and again in the checks were rejected: they part sooner or later, and then a file is
//! valid that the cluster refuses. Defaults are not written into the schema (see [`crate::CircuitBreakerSpec`]); the
//! descriptions say them.

use regex_lite::Regex;
use tiebar::duration;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// A whole number.
pub(crate) struct Number {
    pub(crate) low: i64,
    pub(crate) high: i64,
    /// What an absent field stands for; none: no such rule.
    pub(crate) default: Option<u64>,
    pub(crate) unit: &'static str,
}

const fn number(low: i64, high: i64, default: Option<u64>, unit: &'static str) -> Number {
    Number {
        low,
        high,
        default,
        unit,
    }
}

pub(crate) const CONSECUTIVE_FAILURES: Number = number(1, 1_000, None, "calls");
pub(crate) const FAILURE_RATE_THRESHOLD: Number = number(1, 100, None, "percent");
pub(crate) const SLOW_CALL_RATE_THRESHOLD: Number = number(1, 100, None, "percent");
pub(crate) const MINIMUM_NUMBER_OF_CALLS: Number = number(1, 100_000, Some(20), "calls");
pub(crate) const MINIMUM_INSTANCES: Number = number(1, 100, Some(2), "instances");
pub(crate) const WINDOW_SIZE: Number = number(2, 1_000, None, "calls");
pub(crate) const JITTER_PERCENT: Number = number(0, 100, Some(0), "percent");
pub(crate) const PERMITTED_CALLS: Number = number(1, 1_000, Some(5), "calls");
pub(crate) const INITIAL_PERCENT: Number = number(0, 100, Some(10), "percent");
pub(crate) const REJECTION_STATUS: Number = number(400, 599, Some(503), "");
pub(crate) const STATIC_STATUS: Number = number(200, 599, Some(200), "");

impl Number {
    /// The value, or what is wrong with it.
    pub(crate) fn check(&self, value: i64) -> Result<u64, String> {
        if (self.low..=self.high).contains(&value) {
            Ok(value.unsigned_abs())
        } else {
            Err(format!("{value} is out of range; wanted {}", self.range()))
        }
    }

    fn range(&self) -> String {
        let unit = if self.unit.is_empty() { "" } else { " " };
        format!("{} to {}{unit}{}", self.low, self.high, self.unit)
    }

    /// The end of the field's description.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn describe(&self) -> String {
        let default = self
            .default
            .map_or_else(|| "unset by default".to_owned(), |default| format!("default {default}"));
        format!("{}; {default}.", self.range())
    }
}

/// A duration, in milliseconds.
pub(crate) struct Span {
    pub(crate) low: u64,
    pub(crate) high: u64,
    /// What an absent field stands for; none: no such rule.
    pub(crate) default: Option<u64>,
}

const fn span(low: u64, high: u64, default: Option<u64>) -> Span {
    Span { low, high, default }
}

pub(crate) const SLOW_CALL_DURATION_THRESHOLD: Span = span(1, HOUR, None);
pub(crate) const WINDOW_DURATION: Span = span(SECOND, HOUR, Some(30 * SECOND));
pub(crate) const OPEN_DURATION: Span = span(100, DAY, Some(30 * SECOND));
pub(crate) const OPEN_MAX_DURATION: Span = span(100, DAY, None);
pub(crate) const HALF_OPEN_MAX_DURATION: Span = span(SECOND, HOUR, Some(30 * SECOND));
pub(crate) const RAMP_DURATION: Span = span(0, HOUR, Some(0));
pub(crate) const CALL_TIMEOUT: Span = span(10, HOUR, None);
pub(crate) const CONNECT_TIMEOUT: Span = span(1, HOUR, Some(SECOND));

/// GEP-2257 with its words made regular: each unit at most once, falling. As [`tiebar::duration::parse`] reads it.
macro_rules! duration_pattern {
    () => {
        "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?([0-9]{1,5}ms)?$"
    };
}
pub(crate) use duration_pattern;

impl Span {
    /// The milliseconds, or what is wrong with the text.
    pub(crate) fn check(&self, text: &str) -> Result<u64, String> {
        match duration::parse(text) {
            Ok(ms) if (self.low..=self.high).contains(&ms) => Ok(ms),
            _ => Err(format!("{:?}: {}", clip(text), self.wanted())),
        }
    }

    fn range(&self) -> String {
        format!("{} to {}", duration::format(self.low), duration::format(self.high))
    }

    /// What the API server says too.
    pub(crate) fn wanted(&self) -> String {
        format!(
            "wanted a duration of {}: whole numbers with units h, m, s, ms in that order, like 750ms or 1m30s",
            self.range()
        )
    }

    /// The end of the field's description.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn describe(&self) -> String {
        let default = self.default.map_or_else(
            || "unset by default".to_owned(),
            |default| format!("default {}", duration::format(default)),
        );
        format!("A duration like 750ms or 1m30s, {}; {default}.", self.range())
    }
}

/// A text.
pub(crate) struct Text {
    /// In characters.
    pub(crate) longest: usize,
    /// In the syntax that RE2 and `regex-lite` share; empty: anything.
    pub(crate) pattern: &'static str,
    /// What would be right.
    pub(crate) wanted: &'static str,
    /// What no pattern can say.
    pub(crate) further: Option<Further>,
}

/// The same question in CEL (of `self`) and in Rust.
pub(crate) struct Further {
    pub(crate) cel: &'static str,
    pub(crate) holds: fn(&str) -> bool,
}

/// A list of texts.
pub(crate) struct Texts {
    pub(crate) most: usize,
    pub(crate) each: Text,
}

pub(crate) const SERVICE_NAME: Text = Text {
    longest: tiebar::id::MAX_NAME_BYTES,
    pattern: "^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$",
    wanted: "wanted a-z, 0-9, '-', '.' and '_', beginning and ending with a letter or digit",
    further: None,
};
pub(crate) const REASON: Text = Text {
    longest: 256,
    pattern: "[^[:space:]]",
    wanted: "wanted a reason: who reads this at night wants to know why",
    further: None,
};
pub(crate) const CONTENT_TYPE: Text = Text {
    longest: 256,
    pattern: "^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+([ ]*;[ -~]*)?$",
    wanted: "wanted a media type, like application/json or text/plain; charset=utf-8",
    further: None,
};
pub(crate) const BODY: Text = Text {
    longest: 65_536,
    pattern: "",
    wanted: "",
    further: None,
};
pub(crate) const URL: Text = Text {
    longest: 2_048,
    pattern: "^https?://[-A-Za-z0-9._:\\[\\]]+([/?][!-~]*)?$",
    wanted: "wanted http://host… or https://host…, without credentials",
    further: None,
};
/// Instants, RFC 3339.
pub(crate) struct Instants {
    pub(crate) from: &'static str,
    pub(crate) before: &'static str,
    pub(crate) longest: usize,
    pub(crate) wanted: &'static str,
}

/// A mistyped year is no plan.
pub(crate) const EXPIRE_TIME: Instants = Instants {
    from: "2000-01-01T00:00:00Z",
    before: "2100-01-01T00:00:00Z",
    longest: 35,
    wanted: "wanted a time between the years 2000 and 2100, like 2026-12-01T22:00:00Z",
};

impl Instants {
    /// Unix milliseconds, or what is wrong with the text. As strict as the API server, stricter than the parser.
    pub(crate) fn check(&self, text: &str) -> Result<u64, String> {
        let pattern =
            "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
        let shape = Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
        time(text)
            .filter(|at| shape && time(self.from).is_some_and(|from| *at >= from))
            .filter(|at| time(self.before).is_some_and(|before| *at < before))
            .and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .ok_or_else(|| format!("{:?}: {}", clip(text), self.wanted))
    }
}

const fn status_codes() -> Texts {
    Texts {
        most: 16,
        each: Text {
            longest: 7,
            pattern: "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$",
            wanted: "wanted a status code or a rising range of them, like \"503\" or \"500-599\"",
            further: Some(Further {
                cel: "self.substring(0, 3) <= self.substring(self.size() - 3)",
                holds: |text| text.get(..3) <= text.get(text.len().saturating_sub(3)..),
            }),
        },
    }
}

pub(crate) const HTTP_STATUS_CODES: Texts = status_codes();
pub(crate) const IGNORED_HTTP_STATUS_CODES: Texts = status_codes();
pub(crate) const GRPC_STATUS_CODES: Texts = Texts {
    most: 16,
    each: Text {
        longest: 19,
        pattern: "^(CANCELLED|UNKNOWN|INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|\
                  RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED|OUT_OF_RANGE|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|\
                  DATA_LOSS|UNAUTHENTICATED)$",
        wanted: "wanted the name of a gRPC status other than OK, like UNAVAILABLE",
        further: None,
    },
};

/// A list of names.
pub(crate) struct Names {
    pub(crate) most: usize,
}
pub(crate) const ERROR_KINDS: Names = Names { most: 16 };

impl Text {
    /// What is wrong with the text.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        let length = text.chars().count();
        if length > self.longest {
            return Err(format!("is {length} characters long; wanted at most {}", self.longest));
        }
        // Compiled per check: specs are checked when they change, not per call.
        let matches = self.pattern.is_empty() || Regex::new(self.pattern).is_ok_and(|pattern| pattern.is_match(text));
        let further = self.further.as_ref().is_none_or(|further| (further.holds)(text));
        if matches && further {
            Ok(())
        } else {
            Err(format!("{:?}: {}", clip(text), self.wanted))
        }
    }
}

/// Enough of a text to know it by; what is wrong with a document is printed on one line.
fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebar::state::GRPC_CODES;

    #[test]
    fn the_grpc_names_are_those_the_callers_know() {
        for (code, name) in GRPC_CODES.iter().enumerate() {
            assert_eq!(GRPC_STATUS_CODES.each.check(name).is_ok(), code != 0, "{name}");
        }
    }

    #[test]
    fn every_pattern_compiles() {
        let texts = [
            SERVICE_NAME,
            REASON,
            CONTENT_TYPE,
            URL,
            HTTP_STATUS_CODES.each,
            GRPC_STATUS_CODES.each,
        ];
        for text in texts {
            assert!(Regex::new(text.pattern).is_ok(), "{}", text.pattern);
        }
    }
}

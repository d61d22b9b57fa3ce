//! GEP-2257 durations (`1h2m3s4ms`), as Kubernetes' Gateway API writes them, in whole milliseconds.
//!
//! Hand-written because the crates that parse durations accept more than the specification does (`1.5s`, `1 day`),
//! and a value that works here must work in a `CircuitBreaker` too.

use std::fmt;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a duration; wanted whole numbers with units h, m, s, ms in that order, like 500ms or 1m30s",
            self.0
        )
    }
}

impl std::error::Error for InvalidDuration {}

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses a duration into milliseconds. GEP-2257 allows at most five digits a unit and each unit once, falling.
///
/// # Errors
/// When the text is not such a duration.
pub fn parse(text: &str) -> Result<u64, InvalidDuration> {
    let invalid = || InvalidDuration(text.chars().take(40).collect());
    let mut rest = text;
    let mut next_unit = 0;
    let mut total = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let index = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(invalid)?;
        if !(1..=5).contains(&digits) || index < next_unit {
            return Err(invalid());
        }
        total += number.parse::<u64>().map_err(|_| invalid())? * UNITS[index].1;
        next_unit = index + 1;
        rest = after;
    }
    Ok(total)
}

/// Writes milliseconds the way [`parse`] reads them, in the largest units that fit.
#[must_use]
pub fn format(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut rest = ms;
    let mut text = String::new();
    for (name, size) in UNITS {
        // Five digits is GEP-2257's limit; only hours can exceed it, far beyond any accepted bound.
        if rest >= size {
            text.push_str(&(rest / size).to_string());
            text.push_str(name);
            rest %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, ms) in [
            ("0s", 0),
            ("1ms", 1),
            ("750ms", 750),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(ms));
            assert_eq!(format(ms), text);
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in [
            "", "10", "s", "1.5s", "1s1m", "1s1s", "-1s", "100000s", "1d", " 1s", "1s ", "1S",
        ] {
            assert!(parse(text).is_err(), "{text:?} must be refused");
        }
    }
}

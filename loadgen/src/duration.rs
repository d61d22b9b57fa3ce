//! Durations as a `CircuitBreaker` has them, in the standard library's type.

use std::time::Duration;

/// What a duration looks like, for error messages.
pub const FORM: &str = "a duration such as 500ms, 30s or 1m30s (whole numbers with h, m, s, ms, in that order)";

/// Parses a GEP-2257 duration; `None` when the text is not one, see [`FORM`].
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    tiebar::duration::parse(text).ok().map(Duration::from_millis)
}

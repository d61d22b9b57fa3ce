//! Waiting for something to happen, with a bound.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Far above what anything takes that has no promise of its own; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `check` is `Ok`, prints how long that took and returns it. `Err` is what was seen instead.
///
/// # Panics
/// When it does not happen within `bound`; says what was seen last.
pub async fn eventually<T, E: Display>(bound: Duration, what: &str, mut check: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        let seen = match check().await {
            Ok(value) => {
                println!("{what}: {:.1?}", start.elapsed());
                return value;
            }
            Err(seen) => seen.to_string(),
        };
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}; seen: {seen}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// `Ok` when it holds, else what was seen: the last line of most checks.
///
/// # Errors
/// When it does not hold.
pub fn holds(condition: bool, seen: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen.to_string()) }
}

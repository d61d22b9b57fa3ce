//! The evidence of a transition in words.

use serde_json::Value;
use std::fmt::Write as _;

/// What a transition was judged by, as ` (…)`; empty when there was nothing to judge.
#[must_use]
pub fn words(snapshot: &str) -> String {
    let Ok(evidence) = serde_json::from_str::<Value>(snapshot) else {
        return String::new();
    };
    let number = |field: &str| evidence[field].as_u64();
    let mut parts = Vec::new();
    match (number("calls"), number("finished")) {
        (Some(calls), _) => parts.push(format!("{} of {calls} calls failed", number("failures").unwrap_or(0))),
        (None, Some(finished)) => {
            let failed = number("failed").unwrap_or(0);
            parts.push(format!("{failed} of {finished} probes failed"));
        }
        (None, None) => return String::new(),
    }
    if let Some(run) = number("run").filter(|run| *run > 1) {
        parts.push(format!("{run} in a row"));
    }
    let slow = number("slow").unwrap_or(0) + number("runningSlow").unwrap_or(0);
    if slow > 0 {
        parts.push(format!("{slow} slow"));
    }
    let mut causes = String::new();
    for cause in evidence["causes"].as_array().into_iter().flatten() {
        if let (Some(kind), Some(count)) = (cause[0].as_str(), cause[1].as_u64()) {
            let _ = write!(causes, "{}{kind} ×{count}", if causes.is_empty() { "" } else { ", " });
        }
    }
    if !causes.is_empty() {
        parts.push(causes);
    }
    format!(" ({})", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn evidence_reads_like_a_sentence() {
        let trip =
            r#"{"calls":32,"failures":3,"slow":0,"runningSlow":1,"run":3,"causes":[["500",2],["Timeout",1]],"top":[]}"#;
        assert_eq!(
            words(trip),
            " (3 of 32 calls failed; 3 in a row; 1 slow; 500 ×2, Timeout ×1)"
        );
        assert_eq!(
            words(r#"{"finished":3,"failed":0,"slow":0,"causes":[]}"#),
            " (0 of 3 probes failed)"
        );
        assert_eq!(words("{}"), "");
        assert_eq!(words("no JSON"), "");
    }
}

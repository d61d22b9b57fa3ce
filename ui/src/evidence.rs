//! What a transition was judged by, read from its stored JSON and put into words.

use crate::words;
use serde::Deserialize;

/// A trip's or a round's evidence; the fields of the other kind are 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Evidence {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) slow: u64,
    pub(crate) running_slow: u64,
    pub(crate) run: u64,
    pub(crate) causes: Vec<(String, u64)>,
    /// Instance, its calls, its bad ones.
    pub(crate) top: Vec<(String, u64, u64)>,
    pub(crate) finished: u64,
    pub(crate) failed: u64,
}

impl Evidence {
    /// None when there is nothing in it, or nothing this version understands.
    pub(crate) fn read(json: &str) -> Option<Self> {
        let evidence: Self = serde_json::from_str(json).ok()?;
        (evidence != Self::default()).then_some(evidence)
    }

    /// `41 of 66 calls failed, 3 slow; 503 × 38, timeout × 3`.
    pub(crate) fn words(&self) -> String {
        let mut parts = Vec::new();
        // What it tripped by comes first: slow calls alone are not told as "0 failed".
        let only_slow = self.failures == 0 && self.slow > 0;
        if self.calls > 0 {
            let (bad, how) = if only_slow {
                (self.slow, "slow")
            } else {
                (self.failures, "failed")
            };
            parts.push(format!("{bad} of {} {how}", words::count(self.calls, "call")));
        }
        if self.run > 1 {
            parts.push(format!("{} in a row", self.run));
        }
        if self.finished > 0 {
            parts.push(format!(
                "{} of {} failed",
                self.failed,
                words::count(self.finished, "probe")
            ));
        }
        if self.slow > 0 && !(only_slow && self.calls > 0) {
            parts.push(format!("{} slow", self.slow));
        }
        if self.running_slow > 0 {
            parts.push(format!("{} hung", self.running_slow));
        }
        let mut text = parts.join(", ");
        if !self.causes.is_empty() {
            let separator = if text.is_empty() { "" } else { "; " };
            text = format!("{text}{separator}{}", causes(&self.causes));
        }
        text
    }
}

/// `503 × 38, timeout × 3`.
pub(crate) fn causes(causes: &[(String, u64)]) -> String {
    let each: Vec<String> = causes.iter().map(|(kind, count)| format!("{kind} × {count}")).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_told_in_words_and_what_is_not_understood_is_left_out() {
        let json = r#"{"calls":66,"failures":41,"slow":3,"runningSlow":0,"run":2,"causes":[["503",38],["timeout",3]],"top":[["a",5,4]]}"#;
        let evidence = Evidence::read(json).unwrap();
        assert_eq!(
            evidence.words(),
            "41 of 66 calls failed, 2 in a row, 3 slow; 503 × 38, timeout × 3"
        );
        assert_eq!(evidence.top, [("a".to_owned(), 5, 4)]);
        let slow = Evidence::read(r#"{"calls":20,"failures":0,"slow":16,"runningSlow":2}"#).unwrap();
        assert_eq!(slow.words(), "16 of 20 calls slow, 2 hung");
        let round = Evidence::read(r#"{"finished":1,"failed":1,"slow":0,"causes":[]}"#).unwrap();
        assert_eq!(round.words(), "1 of 1 probe failed");
        for nothing in ["", "{}", "[true]", r#"{"calls":"many"}"#] {
            assert_eq!(Evidence::read(nothing), None);
        }
    }
}

//! The conditions of a status: what each says, and since when.

use serde_json::{Value, json};

/// One condition before it is compared with the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    /// True, False, or none for Unknown.
    pub(crate) holds: Option<bool>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn new(kind: &'static str, holds: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Puts `Ready` in front: Accepted, Programmed and StoreReachable all hold. Its reason is that of the first that does not.
pub(crate) fn with_ready(conditions: Vec<Condition>) -> Vec<Condition> {
    let needed = |condition: &&Condition| ["Accepted", "StoreReachable", "Programmed"].contains(&condition.kind);
    let lacking = conditions
        .iter()
        .filter(needed)
        .filter(|condition| condition.holds != Some(true))
        // A certain no tells more than an unknown.
        .min_by_key(|condition| condition.holds.is_none());
    let ready = match lacking {
        None => Condition::new("Ready", Some(true), "Ready", "the store holds this configuration"),
        Some(condition) => Condition::new("Ready", Some(false), &condition.reason, condition.message.clone()),
    };
    std::iter::once(ready).chain(conditions).collect()
}

/// As the resource shows them. A condition keeps its time while its status stays; `now` is RFC 3339 in whole seconds.
pub(crate) fn render(conditions: &[Condition], previous: &Value, generation: Option<i64>, now: &str) -> Value {
    let before = |kind: &str| {
        let list = previous["conditions"].as_array()?;
        list.iter().find(|condition| condition["type"] == kind)
    };
    let render = |condition: &Condition| {
        let since = before(condition.kind)
            .filter(|before| before["status"] == condition.status())
            .and_then(|before| before["lastTransitionTime"].as_str())
            .unwrap_or(now);
        let mut value = json!({
            "type": condition.kind,
            "status": condition.status(),
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": since,
        });
        if let Some(generation) = generation {
            value["observedGeneration"] = json!(generation);
        }
        value
    };
    conditions.iter().map(render).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_all_three_and_names_the_certain_no_first() {
        let condition = |kind, holds, reason: &str| Condition::new(kind, holds, reason, "m");
        let good = || {
            vec![
                condition("Accepted", Some(true), "Accepted"),
                condition("Programmed", Some(true), "Programmed"),
                condition("StoreReachable", Some(true), "Reachable"),
                condition("Attached", Some(false), "NoInstances"),
            ]
        };
        assert_eq!(with_ready(good())[0].holds, Some(true));
        let mut down = good();
        (down[1].holds, down[2].holds) = (None, Some(false));
        down[2].reason = "ConnectFailed".to_owned();
        assert_eq!(
            (with_ready(down.clone())[0].holds, &*with_ready(down)[0].reason),
            (Some(false), "ConnectFailed")
        );
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let first = [Condition::new("Ready", Some(true), "Ready", "")];
        let status = json!({"conditions": render(&first, &Value::Null, Some(1), "t1")});
        let again = render(
            &[Condition::new("Ready", Some(true), "Other", "")],
            &status,
            Some(2),
            "t2",
        );
        assert_eq!(
            (&again[0]["lastTransitionTime"], &again[0]["reason"]),
            (&json!("t1"), &json!("Other"))
        );
        let changed = render(&[Condition::new("Ready", None, "Pending", "")], &status, Some(2), "t2");
        assert_eq!(changed[0]["lastTransitionTime"], "t2");
    }
}

//! The conditions of a status: what each says, and since when.

use crate::plan::{foreign_owner, is_paused, matches};
use crate::status::{Claimed, Facts, Seen, state_name, store_reason};
use crds::status::MAX_MESSAGE;
use serde_json::{Value, json};
use tiebar::state::State;

/// So many transitions within [`FLAPPING_MS`] are flapping …
pub(crate) const FLAPPING: u64 = 20;
const FLAPPING_MS: u64 = 60_000;
/// … until so many take longer than this, so that the condition does not flap itself.
pub(crate) const CALM_MS: u64 = 120_000;

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

/// What holds, and what does not, but for `Ready`. `instances` is what the status says of them.
pub(crate) fn conditions(facts: &Facts<'_>, instances: Option<&Value>) -> Vec<Condition> {
    let foreign = match facts.seen {
        Seen::Answers(stored) => stored
            .config
            .as_ref()
            .and_then(|config| foreign_owner(config, facts.owner, stored.now)),
        _ => None,
    };
    let accepted = match (&facts.claimed, foreign) {
        (Claimed::Invalid(message), _) => Condition::new("Accepted", Some(false), "Invalid", message.clone()),
        (Claimed::Conflicted(_, winner), _) => Condition::new(
            "Accepted",
            Some(false),
            "Conflicted",
            format!("the older {winner} stands for this service id; delete one of them"),
        ),
        (Claimed::Holds(_), Some(owner)) => Condition::new(
            "Accepted",
            Some(false),
            "OwnedElsewhere",
            format!("{owner} programs this service id; it is taken over after 10 minutes of that owner's silence"),
        ),
        (Claimed::Holds(_), None) => Condition::new("Accepted", Some(true), "Accepted", "the specification is valid"),
    };
    let stalled = if accepted.holds == Some(false) {
        Condition::new("Stalled", Some(true), &accepted.reason, accepted.message.clone())
    } else {
        Condition::new("Stalled", Some(false), "Progressing", "nothing is in the way")
    };
    let reachable = match facts.seen {
        Seen::NotYet => Condition::new("StoreReachable", None, "Pending", "the store was not asked yet"),
        Seen::Lost(error) => Condition::new("StoreReachable", Some(false), store_reason(error), error.to_string()),
        Seen::Answers(_) => Condition::new("StoreReachable", Some(true), "Reachable", "the store answers"),
    };
    let programmed = programmed(facts, foreign);
    vec![
        accepted,
        programmed,
        reachable,
        attached(facts, instances),
        overridden(facts),
        flapping(facts),
        stalled,
    ]
}

fn programmed(facts: &Facts<'_>, foreign: Option<&str>) -> Condition {
    let condition = |holds, reason: &str, message: String| Condition::new("Programmed", holds, reason, message);
    let Seen::Answers(stored) = facts.seen else {
        return condition(None, "StoreUnreachable", "the store cannot be asked".to_owned());
    };
    let in_store = stored.config.as_ref().and_then(|config| config.programmed.as_ref());
    match &facts.claimed {
        Claimed::Conflicted(..) => condition(Some(false), "Conflicted", "another one is programmed".to_owned()),
        Claimed::Invalid(_) => {
            let kept = in_store.map_or_else(
                || "nothing is programmed".to_owned(),
                |good| format!("revision {} stays in force", good.config.revision),
            );
            condition(Some(false), "Invalid", kept)
        }
        Claimed::Holds(_) if foreign.is_some() => condition(
            Some(false),
            "OwnedElsewhere",
            "another owner's is programmed".to_owned(),
        ),
        Claimed::Holds(document) => match in_store {
            Some(stored) if matches(document, stored) => {
                let message = format!("revision {} is in the store", stored.config.revision);
                condition(Some(true), "Programmed", message)
            }
            _ if is_paused(document) => {
                let message = "reconciliation is disabled by an annotation";
                condition(Some(false), "Paused", message.to_owned())
            }
            _ => match facts.write_error {
                Some(error) => condition(Some(false), "WriteFailed", error.to_owned()),
                None => condition(Some(false), "Pending", "not in the store yet".to_owned()),
            },
        },
    }
}

fn attached(facts: &Facts<'_>, instances: Option<&Value>) -> Condition {
    let condition = |holds, reason: &str, message: String| Condition::new("Attached", holds, reason, message);
    let Some(instances) = instances.filter(|_| matches!(facts.claimed, Claimed::Holds(_))) else {
        return condition(None, "Unknown", "the instances are not known".to_owned());
    };
    let number = |field: &str| instances[field].as_u64().unwrap_or(0);
    match (number("live"), number("outdated")) {
        (0, _) => condition(Some(false), "NoInstances", "no instance uses this breaker".to_owned()),
        (live, 0) => condition(
            Some(true),
            "InstancesAttached",
            format!("live instances: {live}, all of them up to date"),
        ),
        (live, outdated) => condition(
            Some(false),
            "RevisionLag",
            format!("{outdated} of {live} instances act by another revision"),
        ),
    }
}

fn overridden(facts: &Facts<'_>) -> Condition {
    let condition = |holds, reason: &str, message: String| Condition::new("Overridden", holds, reason, message);
    let (Claimed::Holds(document) | Claimed::Conflicted(document, _)) = &facts.claimed else {
        return condition(None, "Invalid", "the specification is not valid".to_owned());
    };
    let Some((wanted, forced)) = document.spec.r#override.as_ref().zip(document.resolved.forced) else {
        return condition(Some(false), "NotOverridden", "no override is set".to_owned());
    };
    let now = match facts.seen {
        Seen::Answers(stored) => stored.now,
        _ => 0,
    };
    if forced.expires_at > 0 && forced.expires_at <= now {
        let message = "the override's time is over; remove it from the specification";
        return condition(Some(false), "Expired", message.to_owned());
    }
    let state = if forced.open {
        State::ForcedOpen
    } else {
        State::ForcedClosed
    };
    let reason = wanted.reason.clone().unwrap_or_default();
    condition(Some(true), state_name(state), reason)
}

fn flapping(facts: &Facts<'_>) -> Condition {
    let Seen::Answers(stored) = facts.seen else {
        return Condition::new("Flapping", None, "StoreUnreachable", "the store cannot be asked");
    };
    let conditions = facts.previous["conditions"].as_array();
    let was = conditions.is_some_and(|list| {
        let is_it = |condition: &&Value| condition["type"] == "Flapping" && condition["status"] == "True";
        list.iter().find(is_it).is_some()
    });
    let span = if was { CALM_MS } else { FLAPPING_MS };
    if stored.flapping_since > 0 && stored.now.saturating_sub(stored.flapping_since) < span {
        let message = format!("{FLAPPING} transitions or more within {} s", FLAPPING_MS / 1_000);
        return Condition::new("Flapping", Some(true), "ManyTransitions", message);
    }
    Condition::new("Flapping", Some(false), "Steady", "the state changes rarely")
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
            "message": condition.message.chars().take(MAX_MESSAGE).collect::<String>(),
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

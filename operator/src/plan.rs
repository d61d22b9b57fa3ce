//! What to do, from what is wanted and what is stored. Pure; `file_mode` applies it.

use crate::source::Reading;
use crds::{Document, Notes, Stored};
use std::collections::BTreeMap;
use tiebar::id::ServiceId;
use tiebar::store::{Leader, Programme, StoredConfig};

/// The annotation that resets a breaker, once per value.
pub(crate) const RESET: &str = "tiebar.dev/reset-requested-at";
/// The annotation that pauses reconciliation when its value is `disabled`.
const RECONCILE: &str = "tiebar.dev/reconcile";

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Program(ServiceId, Box<Programme>),
    Reset(ServiceId, String),
    Bury(ServiceId),
}

/// Keeps the last good version of what a bad edit took away: while anything is wrong, nothing counts as deleted.
pub(crate) fn desired(good: &BTreeMap<ServiceId, Document>, reading: &Reading) -> BTreeMap<ServiceId, Document> {
    let mut wanted = if reading.errors.is_empty() {
        BTreeMap::new()
    } else {
        good.clone()
    };
    wanted.extend(
        reading
            .documents
            .iter()
            .map(|(id, (_, document))| (id.clone(), document.clone())),
    );
    wanted
}

/// The programme a document stands for.
pub(crate) fn programme(document: &Document, leader: &Leader) -> Programme {
    Programme {
        leader: leader.clone(),
        spec: Stored::write(&document.resolved.json, &Notes::of(&document.annotations)),
        policy: document.resolved.policy.clone(),
        forced: document.resolved.forced,
    }
}

/// What to write. Programming what is already there only refreshes the owner's heartbeat.
pub(crate) fn plan(
    wanted: &BTreeMap<ServiceId, Document>,
    complete: bool,
    stored: &BTreeMap<ServiceId, StoredConfig>,
    leader: &Leader,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for (id, document) in wanted {
        if document
            .annotations
            .get(RECONCILE)
            .is_some_and(|value| value == "disabled")
        {
            continue;
        }
        actions.push(Action::Program(id.clone(), Box::new(programme(document, leader))));
        if let Some(request) = document.annotations.get(RESET)
            && stored.get(id).is_none_or(|stored| stored.last_reset != *request)
        {
            actions.push(Action::Reset(id.clone(), request.clone()));
        }
    }
    if complete {
        let gone = stored.iter().filter(|(id, stored)| {
            stored.programmed.is_some() && stored.leader.owner == leader.owner && !wanted.contains_key(*id)
        });
        actions.extend(gone.map(|(id, _)| Action::Bury(id.clone())));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::FileError;
    use tiebar::store::Programmed;

    fn document(text: &str) -> Document {
        let text = format!("apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {text}\n");
        crds::parse_documents(&text).remove(0).unwrap()
    }

    fn wanted(documents: &[Document]) -> BTreeMap<ServiceId, Document> {
        documents
            .iter()
            .map(|document| (document.id.clone(), document.clone()))
            .collect()
    }

    fn stored(document: &Document, owner: &str) -> (ServiceId, StoredConfig) {
        let config = tiebar::policy::Config::local(document.resolved.policy.clone());
        let stored = StoredConfig {
            programmed: Some(Programmed {
                config,
                spec: String::new(),
            }),
            leader: leader(owner),
            owner_seen_at: 0,
            last_reset: String::new(),
            floor: 0,
        };
        (document.id.clone(), stored)
    }

    fn leader(owner: &str) -> Leader {
        Leader {
            owner: owner.to_owned(),
            ..Leader::default()
        }
    }

    #[test]
    fn what_is_gone_is_buried_unless_the_reading_is_incomplete_or_somebody_else_s() {
        let (mine, other) = (document("{name: mine}"), document("{name: other}"));
        let stored = BTreeMap::from([stored(&mine, "me"), stored(&other, "somebody")]);
        let buried = |complete| plan(&BTreeMap::new(), complete, &stored, &leader("me"));
        assert_eq!(buried(true), [Action::Bury(mine.id.clone())]);
        assert_eq!(buried(false), []);
    }

    #[test]
    fn a_bad_edit_keeps_the_good_revision() {
        let good = wanted(&[document("{name: a}")]);
        let broken = FileError {
            file: "a.yaml".into(),
            message: "bad".to_owned(),
        };
        let reading = Reading {
            errors: vec![broken],
            ..Reading::default()
        };
        assert_eq!(desired(&good, &reading), good);
        assert_eq!(desired(&good, &Reading::default()), BTreeMap::new());
    }

    #[test]
    fn a_reset_is_asked_for_once_and_a_paused_breaker_is_left_alone() {
        let reset = document("{name: a, annotations: {tiebar.dev/reset-requested-at: now}}");
        let paused = document("{name: b, annotations: {tiebar.dev/reconcile: disabled}}");
        let wanted = wanted(&[reset.clone(), paused]);
        assert_eq!(plan(&wanted, true, &BTreeMap::new(), &leader("me")).len(), 2);
        let (id, mut known) = stored(&reset, "me");
        known.last_reset = "now".to_owned();
        assert_eq!(
            plan(&wanted, true, &BTreeMap::from([(id, known)]), &leader("me")).len(),
            1
        );
    }
}

//! A document as the store keeps it: the spec's fields, and beside them the notes that people left as annotations, and the
//! uid of the resource it came from.
//!
//! The dashboard reads the store alone, so what it shows must travel there; and a resource deleted and made anew while no
//! operator looked is told from an edited one by nothing but its uid. Rejected: hash fields of their own, which the script
//! would have to carry without ever judging by them.

use crate::spec::CircuitBreakerSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The longest note kept, bytes.
const MAX_NOTE: usize = 512;
/// The field the notes are stored under; no field of the resource has this name.
const NOTES: &str = "notes";
/// The field of the resource's uid; likewise.
const UID: &str = "uid";

/// Who to ask and what to do, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notes {
    /// The annotation `tiebar.dev/runbook`: an address or a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// The annotation `tiebar.dev/owner`: an address, a team or a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What the store's text says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stored {
    /// As written.
    pub spec: CircuitBreakerSpec,
    /// What people left beside it.
    pub notes: Notes,
    /// The uid of the resource; none when it came from a file.
    pub uid: Option<String>,
}

/// What is added to the spec's fields.
#[derive(Serialize)]
struct Beside<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a Notes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

impl Notes {
    /// From a document's annotations; longer than 512 bytes is cut.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let note = |name: &str| {
            let text = annotations.get(name)?.trim();
            let end = (0..=text.len().min(MAX_NOTE))
                .rev()
                .find(|at| text.is_char_boundary(*at))?;
            (end > 0).then(|| text[..end].to_owned())
        };
        Self {
            runbook: note("tiebar.dev/runbook"),
            owner: note("tiebar.dev/owner"),
        }
    }
}

impl Stored {
    /// Adds notes and uid to a spec's canonical JSON; without any the text stays as it is.
    #[must_use]
    pub fn write(json: &str, notes: &Notes, uid: Option<&str>) -> String {
        let notes = (*notes != Notes::default()).then_some(notes);
        let beside = serde_json::to_string(&Beside { notes, uid });
        let beside = beside.as_deref().ok().and_then(|beside| beside.strip_prefix('{'));
        match (beside, json.strip_suffix('}')) {
            (Some(beside), Some(fields)) if beside != "}" => {
                let comma = if fields == "{" { "" } else { "," };
                format!("{fields}{comma}{beside}")
            }
            _ => json.to_owned(),
        }
    }

    /// Reads what [`Self::write`] wrote; none when it is something else.
    #[must_use]
    pub fn read(json: &str) -> Option<Self> {
        let mut value: Value = serde_json::from_str(json).ok()?;
        let fields = value.as_object_mut()?;
        let (notes, uid) = (fields.remove(NOTES), fields.remove(UID));
        Some(Self {
            spec: serde_json::from_value(value).ok()?,
            notes: notes
                .and_then(|notes| serde_json::from_value(notes).ok())
                .unwrap_or_default(),
            uid: uid.as_ref().and_then(Value::as_str).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_uid_travel_with_the_spec_and_nothing_changes_without_them() {
        let annotations = BTreeMap::from([
            ("tiebar.dev/runbook".to_owned(), "https://wiki.example/\"x".to_owned()),
            ("tiebar.dev/owner".to_owned(), "é".repeat(400)),
        ]);
        let notes = Notes::of(&annotations);
        assert_eq!(notes.owner.as_ref().map(String::len), Some(MAX_NOTE));
        for json in ["{}", "{\"serviceName\":\"a\"}"] {
            assert_eq!(Stored::write(json, &Notes::default(), None), json);
            for (notes, uid) in [
                (notes.clone(), None),
                (Notes::default(), Some("u")),
                (notes.clone(), Some("u")),
            ] {
                let stored = Stored::read(&Stored::write(json, &notes, uid)).expect("valid");
                assert_eq!((&stored.notes, stored.uid.as_deref()), (&notes, uid));
                assert_eq!(serde_json::to_string(&stored.spec).ok().as_deref(), Some(json));
            }
        }
        assert_eq!(Stored::read("[]"), None);
    }
}

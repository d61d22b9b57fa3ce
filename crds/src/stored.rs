//! A document as the store keeps it: the spec's fields, and beside them the notes that people left as annotations.
//!
//! The dashboard reads the store alone, so what it shows must travel there. Rejected: a hash field of its own, which
//! the script would have to carry without ever judging by it.

use crate::spec::CircuitBreakerSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The longest note kept, bytes.
const MAX_NOTE: usize = 512;
/// The field the notes are stored under; no field of the resource has this name.
const NOTES: &str = "notes";

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
    /// Adds the notes to a spec's canonical JSON; without notes the text stays as it is.
    #[must_use]
    pub fn write(json: &str, notes: &Notes) -> String {
        match (serde_json::to_string(notes), json.strip_suffix('}')) {
            (Ok(notes), Some(fields)) if notes != "{}" => {
                let comma = if fields == "{" { "" } else { "," };
                format!("{fields}{comma}\"{NOTES}\":{notes}}}")
            }
            _ => json.to_owned(),
        }
    }

    /// Reads what [`Self::write`] wrote; none when it is something else.
    #[must_use]
    pub fn read(json: &str) -> Option<Self> {
        let mut value: Value = serde_json::from_str(json).ok()?;
        let notes = value.as_object_mut()?.remove(NOTES);
        Some(Self {
            spec: serde_json::from_value(value).ok()?,
            notes: notes
                .and_then(|notes| serde_json::from_value(notes).ok())
                .unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_travel_with_the_spec_and_nothing_changes_without_them() {
        let annotations = BTreeMap::from([
            ("tiebar.dev/runbook".to_owned(), "https://wiki.example/\"x".to_owned()),
            ("tiebar.dev/owner".to_owned(), "é".repeat(400)),
        ]);
        let notes = Notes::of(&annotations);
        assert_eq!(notes.owner.as_ref().map(String::len), Some(MAX_NOTE));
        for json in ["{}", "{\"serviceName\":\"a\"}"] {
            assert_eq!(Stored::write(json, &Notes::default()), json);
            let stored = Stored::read(&Stored::write(json, &notes)).expect("valid");
            assert_eq!(stored.notes, notes);
            assert_eq!(serde_json::to_string(&stored.spec).ok().as_deref(), Some(json));
        }
        assert_eq!(Stored::read("[]"), None);
    }
}

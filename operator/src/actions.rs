//! What people did by hand over HTTP in file mode: overrides and resets, kept beside the breakers.
//!
//! They are laid over the documents as read, and written to a file of their own before they count, so that they survive
//! a restart. Rejected: editing the documents themselves (comments, several documents a file, read-only mounts), and
//! keeping the actions in the store (a flushed store would forget who is held open by hand).
//!
//! The file stands beside the documents under a hidden name that is never read as a document: `FOLDER/.tiebar-actions`,
//! or `.FILE.tiebar-actions` beside FILE.

use crate::plan::RESET;
use crds::{Document, OverrideSpec, resolve};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tiebar::id::ServiceId;

/// A reset asked for over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Reset {
    requested_at: String,
    /// The document's own request at that time; a later one replaces this.
    #[serde(default)]
    over: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Content {
    overrides: BTreeMap<String, OverrideSpec>,
    resets: BTreeMap<String, Reset>,
    /// The last reset carried out, so that a store that lost its memory is not reset again.
    handled: BTreeMap<String, String>,
}

/// Why an action was not taken. Nothing changed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ActionError {
    /// No document has this id.
    NotFound(String),
    /// It is not valid.
    Invalid(String),
    /// It is against what the file says.
    Conflict(String),
    /// It could not be written down.
    Unkept(String),
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text) | Self::Invalid(text) | Self::Conflict(text) | Self::Unkept(text) => f.write_str(text),
        }
    }
}

/// The actions in force, and the file that keeps them.
#[derive(Debug)]
pub(crate) struct Actions {
    file: PathBuf,
    content: Content,
    /// The documents as read: what may be acted on.
    documents: BTreeMap<ServiceId, Document>,
}

/// Where the actions on the documents at `path` are kept.
fn beside(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.join(".tiebar-actions");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tiebar-actions"))
}

impl Actions {
    /// What earlier runs kept for the documents at `path`.
    ///
    /// # Errors
    /// One line, when the file is there and cannot be used: going on without it would end overrides silently.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let file = beside(path);
        let content = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                format!(
                    "{}: {error}; remove the file to forget what was done by hand",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        Ok(Self {
            file,
            content,
            documents: BTreeMap::new(),
        })
    }

    /// Lays the actions over the documents. `complete`: an id that is missing is gone for good, and so are its actions.
    pub(crate) fn overlay(
        &mut self,
        documents: BTreeMap<ServiceId, Document>,
        complete: bool,
    ) -> BTreeMap<ServiceId, Document> {
        let overlaid = documents
            .iter()
            .map(|(id, document)| (id.clone(), self.laid_over(document)))
            .collect();
        self.documents = documents;
        if complete {
            let mut content = self.content.clone();
            let known = |id: &String| ServiceId::parse(id).is_ok_and(|id| self.documents.contains_key(&id));
            content.overrides.retain(|id, _| known(id));
            content.resets.retain(|id, _| known(id));
            content.handled.retain(|id, _| known(id));
            if let Err(error) = self.keep(content) {
                tracing::warn!("{error}");
            }
        }
        overlaid
    }

    fn laid_over(&self, document: &Document) -> Document {
        let mut document = document.clone();
        let id = document.id.as_str();
        if let Some(wanted) = self.content.overrides.get(id) {
            let mut spec = document.spec.clone();
            spec.r#override = Some(wanted.clone());
            // It was checked when it was taken; a file that was edited by hand since is told apart from no override.
            match resolve(&spec) {
                Ok(resolved) => (document.spec, document.resolved) = (spec, resolved),
                Err(problems) => {
                    tracing::error!(breaker = id, file = %self.file.display(), ?problems, "override not usable");
                }
            }
        }
        if let Some(reset) = self.content.resets.get(id)
            && document.annotations.get(RESET) == reset.over.as_ref()
        {
            document
                .annotations
                .insert(RESET.to_owned(), reset.requested_at.clone());
        }
        document
    }

    fn document(&self, id: &str) -> Result<&Document, ActionError> {
        ServiceId::parse(id)
            .ok()
            .and_then(|id| self.documents.get(&id))
            .ok_or_else(|| ActionError::NotFound(format!("no document declares {id:?}")))
    }

    /// Holds a breaker by hand, in place of what its document says.
    pub(crate) fn set_override(&mut self, id: &str, wanted: OverrideSpec) -> Result<(), ActionError> {
        let mut spec = self.document(id)?.spec.clone();
        spec.r#override = Some(wanted.clone());
        if let Err(problems) = resolve(&spec) {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(ActionError::Invalid(texts.join("; ").replace("spec.override.", "")));
        }
        let mut content = self.content.clone();
        content.overrides.insert(id.to_owned(), wanted);
        self.keep(content)
    }

    /// Lets go of a breaker held by hand; nothing to do when it is not.
    pub(crate) fn clear_override(&mut self, id: &str) -> Result<(), ActionError> {
        let by_file = self.document(id)?.spec.r#override.is_some();
        let mut content = self.content.clone();
        if content.overrides.remove(id).is_none() && by_file {
            let message = format!("the override of {id} stands in its file; remove it there");
            return Err(ActionError::Conflict(message));
        }
        self.keep(content)
    }

    /// Asks for a reset at `now`.
    pub(crate) fn reset(&mut self, id: &str, now: jiff::Timestamp) -> Result<String, ActionError> {
        let over = self.document(id)?.annotations.get(RESET).cloned();
        let requested_at = now.to_string();
        let mut content = self.content.clone();
        let reset = Reset {
            requested_at: requested_at.clone(),
            over,
        };
        content.resets.insert(id.to_owned(), reset);
        self.keep(content)?;
        Ok(requested_at)
    }

    /// The last reset carried out.
    pub(crate) fn handled(&self, id: &ServiceId) -> Option<&String> {
        self.content.handled.get(id.as_str())
    }

    /// Remembers that a reset was carried out, if need be only until the end of the process.
    pub(crate) fn set_handled(&mut self, id: &ServiceId, request: &str) {
        let mut content = self.content.clone();
        content.handled.insert(id.as_str().to_owned(), request.to_owned());
        if let Err(error) = self.keep(content.clone()) {
            tracing::warn!("{error}; a reset may be repeated after a restart");
            self.content = content;
        }
    }

    /// Writes the file, whole or not at all, and only then believes it.
    fn keep(&mut self, content: Content) -> Result<(), ActionError> {
        if content == self.content {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let new = self.file.with_extension("new");
            std::fs::write(&new, serde_json::to_vec_pretty(&content)?)?;
            std::fs::rename(&new, &self.file)
        };
        write().map_err(|error| {
            ActionError::Unkept(format!(
                "cannot keep what was done by hand in {}: {error}",
                self.file.display()
            ))
        })?;
        self.content = content;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::ForcedState;

    fn documents(text: &str) -> BTreeMap<ServiceId, Document> {
        let text = format!("apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\n{text}\n");
        let document = crds::parse_documents(&text).remove(0).unwrap();
        BTreeMap::from([(document.id.clone(), document)])
    }

    fn forced_open() -> OverrideSpec {
        OverrideSpec {
            state: Some(ForcedState::ForcedOpen),
            reason: Some("CHG-1".to_owned()),
            expire_time: None,
        }
    }

    #[test]
    fn actions_survive_a_restart_and_go_with_their_document() {
        let folder = tempfile::tempdir().unwrap();
        let a = documents("metadata: {name: a}");
        let id = ServiceId::parse("a").unwrap();
        let mut actions = Actions::load(folder.path()).unwrap();
        actions.overlay(a.clone(), true);
        actions.set_override("a", forced_open()).unwrap();
        let at = actions.reset("a", "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        actions.set_handled(&id, &at);

        let mut again = Actions::load(folder.path()).unwrap();
        let overlaid = again.overlay(a.clone(), true);
        assert!(overlaid[&id].resolved.forced.is_some_and(|forced| forced.open));
        assert_eq!(overlaid[&id].annotations.get(RESET), Some(&at));
        assert_eq!(again.handled(&id), Some(&at));

        again.overlay(BTreeMap::new(), false);
        assert!(
            again.overlay(a.clone(), true)[&id].resolved.forced.is_some(),
            "an incomplete reading deletes nothing"
        );
        again.overlay(BTreeMap::new(), true);
        assert!(again.overlay(a, true)[&id].resolved.forced.is_none());
    }

    #[test]
    fn a_later_request_in_the_file_replaces_the_one_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let mut actions = Actions::load(folder.path()).unwrap();
        let with = |at: &str| documents(&format!("metadata: {{name: a, annotations: {{{RESET}: {at}}}}}"));
        let id = ServiceId::parse("a").unwrap();
        actions.overlay(with("first"), true);
        let at = actions.reset("a", jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(actions.overlay(with("first"), true)[&id].annotations[RESET], at);
        assert_eq!(actions.overlay(with("second"), true)[&id].annotations[RESET], "second");
    }

    #[test]
    fn what_cannot_be_done_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut actions = Actions::load(folder.path()).unwrap();
        let text = "metadata: {name: a}\nspec: {override: {state: ForcedOpen, reason: x}}";
        actions.overlay(documents(text), true);
        assert!(matches!(
            actions.set_override("b", forced_open()),
            Err(ActionError::NotFound(_))
        ));
        let error = actions.set_override("a", OverrideSpec::default()).unwrap_err();
        assert!(
            matches!(&error, ActionError::Invalid(text) if text.contains("reason: is required")),
            "{error}"
        );
        assert!(matches!(actions.clear_override("a"), Err(ActionError::Conflict(_))));
        std::fs::create_dir(folder.path().join(".tiebar-actions")).unwrap();
        assert!(matches!(
            actions.set_override("a", forced_open()),
            Err(ActionError::Unkept(_))
        ));
    }

    #[test]
    fn a_file_that_cannot_be_read_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".tiebar-actions"), "{half").unwrap();
        let error = Actions::load(folder.path()).unwrap_err();
        assert!(error.contains("remove the file"), "{error}");
    }
}

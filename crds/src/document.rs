//! Documents in files: several to a file, each a `CircuitBreaker`.

use crate::spec::CircuitBreakerSpec;
use crate::validate::{Problem, Resolved, resolve};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use tiebar::id::ServiceId;

/// The resource's group and version.
const API_VERSION: &str = "tiebar.dev/v1alpha1";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default, deserialize_with = "null_is_absent")]
    spec: CircuitBreakerSpec,
    /// What `kubectl get -o yaml` adds; of no meaning here.
    #[serde(default, rename = "status")]
    _status: Option<serde_yaml::Value>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// One valid document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// `namespace/name`, or the bare name without a namespace.
    pub id: ServiceId,
    /// As written.
    pub spec: CircuitBreakerSpec,
    /// As used.
    pub resolved: Resolved,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.uid` of a resource in a cluster; a file's means nothing.
    pub uid: Option<String>,
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Its place in the file, from 1.
    pub number: usize,
    /// Its name, when that much could be read.
    pub name: Option<String>,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        write!(f, "document {}{name}: {}", self.number, self.problems.join("; "))
    }
}

impl Document {
    /// From a resource that was read elsewhere, with a spec whose fields are known.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(
        namespace: Option<String>,
        name: String,
        annotations: BTreeMap<String, String>,
        spec: CircuitBreakerSpec,
    ) -> Result<Self, Vec<String>> {
        check(Raw {
            api_version: API_VERSION.to_owned(),
            kind: "CircuitBreaker".to_owned(),
            metadata: Metadata {
                name,
                namespace,
                annotations,
            },
            spec,
            _status: None,
        })
    }
}

/// Reads all documents of a text; JSON is YAML. Empty documents are skipped.
#[must_use]
pub fn parse_documents(text: &str) -> Vec<Result<Document, DocumentError>> {
    let mut documents = Vec::new();
    for (index, part) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let error = |name: Option<String>, problems| DocumentError {
            number: index + 1,
            name,
            problems,
        };
        // First as any value, for the name; then as what it should be, for the message.
        let value = match serde_yaml::Value::deserialize(part) {
            Ok(serde_yaml::Value::Null) => continue,
            Ok(value) => value,
            Err(problem) => {
                documents.push(Err(error(None, vec![problem.to_string()])));
                // After a syntax error the rest of the stream means nothing.
                break;
            }
        };
        let name = value
            .get("metadata")
            .and_then(|m| m.get("name"))
            .and_then(|n| n.as_str())
            .map(str::to_owned);
        documents.push(read(value).and_then(check).map_err(|problems| error(name, problems)));
    }
    documents
}

/// As strict as the API server: a misspelt field is a mistake, not a wish to be ignored.
fn read(value: serde_yaml::Value) -> Result<Raw, Vec<String>> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let raw = serde_ignored::deserialize(tracked, |path| {
        // Optional levels show as `?`.
        let path = path.to_string().replace(".?", "");
        if !path.starts_with("metadata.") {
            unknown.push(format!("{path}: unknown field"));
        }
    });
    match raw {
        Ok(raw) if unknown.is_empty() => Ok(raw),
        Ok(_) => Err(unknown),
        Err(problem) => {
            let path = track.path().to_string();
            let place = if path == "." {
                String::new()
            } else {
                format!("{path}: ")
            };
            unknown.push(format!("{place}{problem}"));
            Err(unknown)
        }
    }
}

/// `spec: null` is what `spec:` with nothing behind it reads as.
fn null_is_absent<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CircuitBreakerSpec, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Names as the API server wants them, in files too: what works here must work in a cluster.
fn check_names(metadata: &Metadata) -> Vec<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-');
    let mut problems = Vec::new();
    let name = &metadata.name;
    if name.len() > 253 || !name.split('.').all(is_part) {
        problems.push(format!(
            "metadata.name: {name:?} is no name; wanted a-z, 0-9, '-' and '.', each part beginning and ending with a \
             letter or digit, at most 253 long"
        ));
    }
    let wrong = |namespace: &&String| namespace.len() > 63 || !is_part(namespace);
    if let Some(namespace) = metadata.namespace.as_ref().filter(wrong) {
        problems.push(format!(
            "metadata.namespace: {namespace:?} is no namespace; wanted a-z, 0-9 and '-', beginning and ending with a \
             letter or digit, at most 63 long"
        ));
    }
    problems
}

fn check(raw: Raw) -> Result<Document, Vec<String>> {
    let mut problems = check_names(&raw.metadata);
    if raw.api_version != API_VERSION || raw.kind != "CircuitBreaker" {
        let found = format!("{} {}", raw.api_version, raw.kind);
        problems.push(format!(
            "{found:?} is not known here; wanted {API_VERSION} CircuitBreaker"
        ));
    }
    let name = raw
        .spec
        .service_name
        .clone()
        .unwrap_or_else(|| raw.metadata.name.clone());
    let full = raw
        .metadata
        .namespace
        .as_ref()
        .map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
    let id = ServiceId::parse(&full);
    let resolved = resolve(&raw.spec);
    if let Err(found) = &resolved {
        problems.extend(found.iter().map(Problem::to_string));
    }
    match (id, resolved) {
        (Ok(id), Ok(resolved)) if problems.is_empty() => Ok(Document {
            id,
            spec: raw.spec,
            resolved,
            annotations: raw.metadata.annotations,
            uid: None,
        }),
        (Err(error), _) if problems.is_empty() => Err(vec![error.to_string()]),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: a, namespace: shop}\n";

    #[test]
    fn one_bad_document_does_not_hide_the_others() {
        let text = format!("{GOOD}---\n{GOOD}spec: {{open: {{duration: 1ms}}}}\n---\n---\n{GOOD}spec: {{oops: 1}}\n");
        let documents = parse_documents(&text);
        assert_eq!(documents[0].as_ref().map(|d| d.id.to_string()), Ok("shop/a".to_owned()));
        let messages: Vec<String> = documents[1..]
            .iter()
            .map(|d| d.as_ref().unwrap_err().to_string())
            .collect();
        assert!(
            messages[0].starts_with("document 2 (a): spec.open.duration:"),
            "{messages:?}"
        );
        assert!(messages[1].contains("spec.oops: unknown field"), "{messages:?}");
    }

    #[test]
    fn names_that_cannot_become_keys_are_refused() {
        let text = GOOD.replace("name: a", "name: 'a:b'");
        assert!(
            parse_documents(&text)[0]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("metadata.name: \"a:b\" is no name")
        );
    }
}

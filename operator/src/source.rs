//! Documents from a file or a folder.

use crds::{Document, parse_documents};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tiebar::id::ServiceId;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// Which.
    pub file: PathBuf,
    /// What.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// Everything found at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// The valid documents, each id once, with the file each came from.
    pub documents: BTreeMap<ServiceId, (PathBuf, Document)>,
    /// What is wrong. While there is any, nothing may be taken for deleted.
    pub errors: Vec<FileError>,
}

/// Reads a file, or the `.yaml`, `.yml` and `.json` files of a folder in the order of their names. Of two documents for
/// one id the first counts.
#[must_use]
pub fn read(path: &Path) -> Reading {
    let mut reading = Reading::default();
    let files = match files(path) {
        Ok(files) => files,
        Err(error) => {
            reading.errors.push(FileError {
                file: path.to_owned(),
                message: error.to_string(),
            });
            return reading;
        }
    };
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => take(&mut reading, &file, &text),
            Err(error) => reading.errors.push(FileError {
                file,
                message: error.to_string(),
            }),
        }
    }
    reading
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

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let known = file
            .extension()
            .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        if known && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn take(reading: &mut Reading, file: &Path, text: &str) {
    for parsed in parse_documents(text) {
        let error = |message| FileError {
            file: file.to_owned(),
            message,
        };
        match parsed {
            Err(problem) => reading.errors.push(error(problem.to_string())),
            Ok(document) => match reading.documents.get(&document.id) {
                Some((first, _)) => {
                    let message = format!(
                        "{} is already claimed by {}; that one counts",
                        document.id,
                        first.display()
                    );
                    reading.errors.push(error(message));
                }
                None => {
                    reading
                        .documents
                        .insert(document.id.clone(), (file.to_owned(), document));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str) -> String {
        format!("apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn one_bad_file_does_not_hide_the_others_and_the_first_claim_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", &format!("{}---\n{}", document("one"), document("two")));
        write("b.yml", "{unclosed");
        write("c.json", &document("one"));
        write("notes.txt", "not mine");
        let reading = read(folder.path());
        let ids: Vec<String> = reading.documents.keys().map(ToString::to_string).collect();
        assert_eq!(ids, ["one", "two"]);
        assert_eq!(reading.errors.len(), 2, "{:?}", reading.errors);
        assert!(
            reading.errors[1].to_string().contains("already claimed by"),
            "{:?}",
            reading.errors
        );
    }

    #[test]
    fn a_bad_edit_keeps_the_good_revision() {
        let parsed = parse_documents(&document("a")).remove(0).unwrap();
        let good = BTreeMap::from([(parsed.id.clone(), parsed)]);
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
    fn a_missing_path_is_an_error_not_an_empty_set() {
        assert_eq!(read(Path::new("/does/not/exist")).errors.len(), 1);
    }
}

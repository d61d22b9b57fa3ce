//! The resource on a real API server, and the offline rules beside it.

mod agreement;
mod kubectl;
mod lifecycle;
mod tables;

use crds::testing::ApiServer;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A document around a spec.
fn document(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tiebar.dev/v1alpha1", "kind": "CircuitBreaker", "metadata": {"name": name}, "spec": spec})
}

/// What the offline rules say, as `operator validate` prints it.
fn offline(document: &Value) -> Result<(), String> {
    let mut parsed = crds::parse_documents(&document.to_string());
    assert_eq!(parsed.len(), 1, "{document}");
    parsed.remove(0).map(|_| ()).map_err(|error| error.to_string())
}

/// What the API server says of each document, by name: one kubectl for all of them.
fn online(verb: &[&str], documents: &[Value]) -> BTreeMap<String, Result<(), String>> {
    let server = ApiServer::shared();
    let folder = tempfile::tempdir().unwrap();
    let name = |document: &Value| document["metadata"]["name"].as_str().unwrap().to_owned();
    for document in documents {
        let file = folder.path().join(format!("{}.json", name(document)));
        std::fs::write(file, document.to_string()).unwrap();
    }
    let folder = folder.path().to_str().unwrap();
    let said = server.kubectl(&[verb, &["-f", folder]].concat());
    // A message goes on in lines that begin with a star.
    let mut messages: Vec<String> = Vec::new();
    for line in said.err.lines() {
        match messages.last_mut() {
            Some(message) if line.starts_with("* ") => *message = format!("{message}\n{line}"),
            _ => messages.push(line.to_owned()),
        }
    }
    let verdict = |document: &Value| {
        let name = name(document);
        if said
            .out
            .lines()
            .any(|line| line.starts_with(&format!("circuitbreaker.tiebar.dev/{name} ")))
        {
            return (name, Ok(()));
        }
        let about = |message: &&String| {
            message.contains(&format!("CircuitBreaker \"{name}\"")) || message.contains(&format!("/{name}.json"))
        };
        let message: Vec<&str> = messages.iter().filter(about).map(String::as_str).collect();
        assert!(
            !message.is_empty(),
            "nothing about {name} in:\n{}\n{}",
            said.out,
            said.err
        );
        (name, Err(message.join("\n")))
    };
    documents.iter().map(verdict).collect()
}

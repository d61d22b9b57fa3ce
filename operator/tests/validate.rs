//! `operator validate` refuses what the API server refuses, and accepts what it accepts: the tables are those of `crds`.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn cases(table: &str) -> Vec<Value> {
    let path = format!("{}/../crds/tests/data/{table}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// The case as a file of its own.
fn write(folder: &Path, number: usize, case: &Value) {
    let mut document = json!({
        "apiVersion": "tiebar.dev/v1alpha1", "kind": "CircuitBreaker", "metadata": {"name": format!("case-{number}")},
    });
    if !case["spec"].is_null() {
        document["spec"] = case["spec"].clone();
    }
    for (field, value) in case["document"].as_object().into_iter().flatten() {
        document[field] = value.clone();
    }
    std::fs::write(folder.join(format!("{number}.json")), document.to_string()).unwrap();
}

fn validate(table: &str) -> (bool, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (number, case) in cases(table).iter().enumerate() {
        write(folder.path(), number, case);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_tiebar-operator"))
        .args(["validate", "-f"])
        .arg(folder.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_bad_document_is_refused_with_its_reason_on_one_line() {
    let (ok, _, errors) = validate("bad.yaml");
    assert!(!ok);
    for (number, case) in cases("bad.yaml").iter().enumerate() {
        let file = format!("/{number}.json: ");
        let lines: Vec<&str> = errors.lines().filter(|line| line.contains(&file)).collect();
        let [line] = lines[..] else {
            panic!("case {number} has {} lines: {lines:?}", lines.len());
        };
        let says = case["offline"].as_str().or(case["says"].as_str()).unwrap();
        for wanted in [says, case["field"].as_str().unwrap()] {
            assert!(line.contains(wanted), "case {number}: wanted {wanted:?} in {line:?}");
        }
    }
}

#[test]
fn every_good_document_is_accepted() {
    let (ok, out, errors) = validate("good.yaml");
    assert!(ok, "{errors}");
    let valid = out.lines().filter(|line| line.ends_with(" is valid")).count();
    assert_eq!(valid, cases("good.yaml").len(), "{out}");
}

#[test]
fn the_definition_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_tiebar-operator"))
        .arg("crd")
        .output()
        .unwrap();
    let committed = format!("{}/../crds/circuitbreakers.yaml", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(committed).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), committed);
}

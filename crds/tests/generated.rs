//! What is generated from the types is committed, and is what they say now. And every field says all that it must.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Compares with the committed file; with `TIEBAR_REGENERATE` set, writes it.
fn same(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("TIEBAR_REGENERATE").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let first = wanted
        .lines()
        .zip(found.lines())
        .position(|(wanted, found)| wanted != found);
    assert!(
        found == wanted,
        "crds/{name} is not what the types say (first difference: line {}); TIEBAR_REGENERATE=1 cargo test -p crds --test \
         generated writes it",
        first.map_or_else(
            || found.lines().count().min(wanted.lines().count()) + 1,
            |index| index + 1
        )
    );
}

fn schema() -> Value {
    let crd: Value = serde_yaml::from_str(&crds::yaml()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn text<'a>(schema: &'a Value, field: &str) -> &'a str {
    schema[field].as_str().unwrap_or_default()
}

fn kind(schema: &Value) -> String {
    let values = schema["enum"]
        .as_array()
        .map(|values| values.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    match (text(schema, "type"), values) {
        (_, Some(values)) => values.join(" \\| "),
        ("array", _) => format!("list of {}", kind(&schema["items"])),
        ("string", _) if schema["format"] == "date-time" => "time".to_owned(),
        ("string", _) if text(schema, "description").contains("A duration like") => "duration".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// A section for each object, a line for each field, what holds between them below.
fn section(path: &str, schema: &Value, out: &mut String) {
    let _ = write!(
        out,
        "\n## `{path}`\n\n{}\n\n| field | type | meaning |\n|---|---|---|\n",
        text(schema, "description")
    );
    let fields = schema["properties"].as_object().unwrap();
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|known| known == name))
    };
    for (name, field) in fields {
        let must = if required(name) { "**Required.** " } else { "" };
        let _ = writeln!(
            out,
            "| `{name}` | {} | {must}{} |",
            kind(field),
            text(field, "description")
        );
    }
    let rules = schema["x-kubernetes-validations"].as_array();
    for rule in rules.into_iter().flatten() {
        let at = text(rule, "fieldPath").trim_start_matches('.');
        let at = if at.is_empty() {
            String::new()
        } else {
            format!("`{at}`: ")
        };
        let _ = write!(out, "\n- {at}{}", text(rule, "message"));
    }
    if rules.is_some() {
        out.push('\n');
    }
    for (name, field) in fields {
        let inner = if field["type"] == "array" {
            &field["items"]
        } else {
            field
        };
        if inner["type"] == "object" {
            section(&format!("{path}.{name}"), inner, out);
        }
    }
}

#[test]
fn the_definition_is_committed() {
    same("circuitbreakers.yaml", &crds::yaml());
}

#[test]
fn the_reference_is_committed() {
    let mut out = "# `CircuitBreaker`, field by field\n\nMade from the types in `crds/src`; `kubectl explain circuitbreaker.spec` says the \
                   same. Objects may be left out, and so may fields: absent means the default.\n"
        .to_owned();
    let schema = schema();
    section("spec", &schema["properties"]["spec"], &mut out);
    section("status", &schema["properties"]["status"], &mut out);
    same("REFERENCE.md", &out);
}

#[test]
fn every_field_is_described_and_bounded() {
    fn check(path: &str, schema: &Value, wrong: &mut Vec<String>) {
        let (field, status) = (|name: &str| !schema[name].is_null(), path.starts_with("status"));
        let bounded = match text(schema, "type") {
            "integer" => field("minimum") && (field("maximum") || status),
            "string" => field("maxLength") || field("enum") || field("format"),
            "array" => field("maxItems") && field("x-kubernetes-list-type"),
            "object" => field("properties"),
            "boolean" => true,
            _ => false,
        };
        if !bounded {
            wrong.push(format!("{path} is not bounded"));
        }
        if !path.ends_with("[]") && !text(schema, "description").trim().ends_with('.') {
            wrong.push(format!(
                "{path} is not described by a sentence: {:?}",
                text(schema, "description")
            ));
        }
        if field("nullable") {
            wrong.push(format!("{path} is nullable"));
        }
        if field("default") && !["spec", "spec.mode"].contains(&path) {
            wrong.push(format!(
                "{path} has a default in the schema, which would outlive the fields it belongs to"
            ));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), property, wrong);
        }
        if field("items") {
            check(&format!("{path}[]"), &schema["items"], wrong);
        }
    }
    let (schema, mut wrong) = (schema(), Vec::new());
    for root in ["spec", "status"] {
        check(root, &schema["properties"][root], &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

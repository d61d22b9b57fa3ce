//! The `CustomResourceDefinition`.

use crate::spec::CircuitBreaker;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;

const ALWAYS: i32 = 0;
const WIDE: i32 = 1;

/// What `kubectl get` shows: name, type, path, when, description. A `date` prints as an age, and a future one as
/// `<invalid>`, so deadlines are strings.
const COLUMNS: [(&str, &str, &str, i32, &str); 11] = [
    (
        "SERVICE",
        "string",
        ".status.serviceId",
        ALWAYS,
        "The service id that callers use",
    ),
    ("MODE", "string", ".spec.mode", ALWAYS, "Enforce, Observe or Disabled"),
    (
        "STATE",
        "string",
        ".status.state",
        ALWAYS,
        "The state all callers share; Unknown while the store is unreachable",
    ),
    (
        "SINCE",
        "date",
        ".status.lastTransitionTime",
        ALWAYS,
        "Time since the last transition",
    ),
    (
        "INSTANCES",
        "integer",
        ".status.instances.live",
        ALWAYS,
        "Instances that use this breaker now",
    ),
    (
        "READY",
        "string",
        r#".status.conditions[?(@.type=="Ready")].status"#,
        ALWAYS,
        "Whether the configuration is programmed and the store reachable; says nothing about the circuit",
    ),
    (
        "OVERRIDE",
        "string",
        ".status.override.state",
        ALWAYS,
        "The state set by hand that is in force",
    ),
    (
        "AGE",
        "date",
        ".metadata.creationTimestamp",
        ALWAYS,
        "Time since creation",
    ),
    (
        "REASON",
        "string",
        ".status.stateReason",
        WIDE,
        "Why the state is what it is",
    ),
    (
        "OPEN-UNTIL",
        "string",
        ".status.openUntilTime",
        WIDE,
        "When probes begin",
    ),
    (
        "REVISION",
        "integer",
        ".status.configRevision",
        WIDE,
        "Revision of the configuration in the store",
    ),
];

/// The definition as it is to be applied: what the derive makes, with an absent `spec` standing for `{}` and nothing
/// nullable.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = CircuitBreaker::crd();
    for version in &mut crd.spec.versions {
        let Some(root) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        version.additional_printer_columns = Some(COLUMNS.map(column).to_vec());
        root.required = None;
        root.description =
            Some("One circuit breaker, shared by every replica of every caller of a service.".to_owned());
        let properties = root.properties.get_or_insert_default();
        if let Some(spec) = properties.get_mut("spec") {
            spec.default = Some(JSON(serde_json::json!({})));
        }
        if let Some(status) = properties.get_mut("status") {
            status.nullable = None;
        }
    }
    crd
}

fn column((name, kind, path, priority, description): (&str, &str, &str, i32, &str)) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: kind.to_owned(),
        json_path: path.to_owned(),
        priority: (priority > ALWAYS).then_some(priority),
        description: Some(description.to_owned()),
        format: None,
    }
}

/// The definition as YAML, as `crds/circuitbreakers.yaml` has it.
#[must_use]
pub fn yaml() -> String {
    let text = serde_yaml::to_string(&crd()).unwrap_or_default();
    format!("# Made by `tiebar-operator crd`; edit crds/src instead.\n{text}")
}

//! The `CustomResourceDefinition`.

use crate::spec::CircuitBreaker;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

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

/// The definition as YAML, as `crds/circuitbreakers.yaml` has it.
#[must_use]
pub fn yaml() -> String {
    let text = serde_yaml::to_string(&crd()).unwrap_or_default();
    format!("# Made by `tiebar-operator crd`; edit crds/src instead.\n{text}")
}

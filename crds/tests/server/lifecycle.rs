//! What may change, and what becomes of what was there.

use super::document;
use crds::testing::{ApiServer, Said};
use serde_json::{Value, json};

fn apply(how: &[&str], name: &str, spec: &Value) -> Said {
    let arguments = [&["apply", "-o", "json"], how, &["-f", "-"]].concat();
    ApiServer::shared().kubectl_input(&arguments, &document(name, spec).to_string())
}

fn spec_of(said: Said) -> Value {
    serde_json::from_str::<Value>(&said.expect_ok("apply")).unwrap()["spec"].clone()
}

#[test]
fn the_service_name_is_immutable_in_presence_and_value() {
    let named = json!({"serviceName": "one"});
    let _ = apply(&[], "immutable-a", &named).expect_ok("the first");
    let _ = apply(&[], "immutable-b", &json!({})).expect_ok("the first");
    for (name, spec) in [
        ("immutable-a", json!({"serviceName": "two"})),
        ("immutable-a", json!({})),
        ("immutable-b", named),
        // Even the name that was meant all along.
        ("immutable-b", json!({"serviceName": "immutable-b"})),
    ] {
        let said = apply(&[], name, &spec);
        assert!(
            said.err.contains("spec.serviceName: ") && said.err.contains("cannot be changed, added or removed"),
            "{name} {spec}: {said:?}"
        );
    }
    let changed = json!({"serviceName": "one", "open": {"duration": "1m"}});
    assert_eq!(spec_of(apply(&[], "immutable-a", &changed))["open"]["duration"], "1m");
}

/// A default that the API server had written would be left behind, and make the second document invalid.
#[test]
fn nothing_is_left_behind_when_a_field_goes() {
    for (way, how) in [("client", &[][..]), ("server", &["--server-side"][..])] {
        let name = format!("left-{way}");
        let window = |window: Value| json!({"trip": {"failureRateThreshold": 50, "slidingWindow": window}});
        let _ = apply(how, &name, &window(json!({"type": "TimeBased", "duration": "10s"}))).expect_ok(way);
        let _ = apply(how, &name, &window(json!({"type": "CountBased", "size": 10}))).expect_ok(way);
        let _ = apply(how, &name, &json!({})).expect_ok(way);
        let run = apply(how, &name, &json!({"trip": {"consecutiveFailures": 3}}));
        assert_eq!(
            spec_of(run),
            json!({"mode": "Enforce", "trip": {"consecutiveFailures": 3}}),
            "{way}"
        );
    }
}

/// An override belongs to whoever set it: GitOps goes on applying the rest.
#[test]
fn an_override_of_another_manager_survives_an_apply() {
    let how = |manager: &'static str| ["--server-side", "--field-manager", manager];
    let spec = json!({"open": {"duration": "1m"}});
    let _ = apply(&how("gitops"), "managers", &spec).expect_ok("gitops");
    let forced = json!({"override": {"state": "ForcedOpen", "reason": "CHG-4711"}});
    let _ = apply(&how("oncall"), "managers", &forced).expect_ok("oncall");
    let stored = spec_of(apply(&how("gitops"), "managers", &spec));
    assert_eq!(stored["override"]["state"], "ForcedOpen");
    assert_eq!(stored["open"]["duration"], "1m");
}

#[test]
fn status_is_a_subresource_and_is_bounded() {
    let server = ApiServer::shared();
    let mut whole = document("status-a", &json!({}));
    whole["status"] = json!({"state": "Open"});
    let _ = server
        .kubectl_input(&["apply", "-f", "-"], &whole.to_string())
        .expect_ok("apply");
    let state = |name: &str| {
        let said = server.kubectl(&["get", "cb", name, "-o", "jsonpath={.status.state}"]);
        said.expect_ok("get")
    };
    assert_eq!(state("status-a"), "");
    let patch = |status: Value| {
        let patch = json!({"status": status}).to_string();
        server.kubectl(&[
            "patch",
            "cb",
            "status-a",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    let _ = patch(json!({"state": "Open"})).expect_ok("patch");
    assert_eq!(state("status-a"), "Open");
    assert!(!patch(json!({"state": "Ajar"})).ok);
    assert!(!patch(json!({"instances": {"isolatedNames": vec!["a"; 11]}})).ok);
    let twice = json!({"type": "Ready", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert!(!patch(json!({"conditions": [twice, twice]})).ok, "a type twice");
}

/// Every status that the types can say is one that the schema takes, as is.
#[test]
fn a_full_status_goes_through() {
    use crds::status::*;
    let server = ApiServer::shared();
    let _ = apply(&[], "status-b", &json!({})).expect_ok("apply");
    let at: jiff::Timestamp = "2026-11-25T17:00:00.123Z".parse().unwrap();
    let status = CircuitBreakerStatus {
        observed_generation: Some(1),
        service_id: Some(format!("{}/{}", "n".repeat(63), "s".repeat(253))),
        state: Some(CircuitState::HalfOpen),
        state_reason: Some("WaitElapsed".to_owned()),
        last_transition_time: Some(at),
        previous_state: Some(CircuitState::Open),
        open_until_time: Some(at),
        ramp_until_time: Some(at),
        round: Some(3),
        transition_count: Some(7),
        trip_snapshot: Some(TripSnapshot {
            failure_rate_percent: 82,
            slow_call_rate_percent: 100,
            calls: 50,
            failures: 41,
            causes: vec![
                Cause {
                    kind: Some("503".to_owned()),
                    count: 41
                };
                MAX_CAUSES
            ],
            top_instances: vec!["pod".to_owned(); MAX_TOP_INSTANCES],
        }),
        instances: Some(Instances {
            live: 3,
            isolated_names: vec!["pod".to_owned(); MAX_ISOLATED_NAMES],
            ..Instances::default()
        }),
        shadow: Some(Shadow {
            state: Some(CircuitState::Closed),
            last_trip_time: Some(at),
            ..Shadow::default()
        }),
        r#override: Some(OverrideStatus {
            state: Some(CircuitState::ForcedOpen),
            until: Some(at),
            expired: Some(false),
        }),
        last_handled_reset: Some("2026-11-25T17:00:00Z".to_owned()),
        config_revision: Some(1_795_600_000_000),
        store_key: Some("cb:{shop/inventory}:state".to_owned()),
        conditions: vec![Condition {
            r#type: "Ready".to_owned(),
            status: ConditionStatus::True,
            observed_generation: Some(1),
            last_transition_time: Some(at),
            reason: "Ready".to_owned(),
            message: "x".repeat(MAX_MESSAGE),
        }],
    };
    let patch = json!({"status": status}).to_string();
    let arguments = [
        "patch",
        "cb",
        "status-b",
        "--subresource=status",
        "--type=merge",
        "-o",
        "json",
        "-p",
        &patch,
    ];
    let stored: Value = serde_json::from_str(&server.kubectl(&arguments).expect_ok("patch")).unwrap();
    let read: CircuitBreakerStatus = serde_json::from_value(stored["status"].clone()).unwrap();
    assert_eq!(read, status);
}

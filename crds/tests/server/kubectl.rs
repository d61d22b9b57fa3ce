//! What people see: `kubectl get`, `explain`, `describe`, `wait`, as golden files; the examples; the documentation's YAML.

use super::offline;
use crds::testing::{ApiServer, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares with the golden file; with `TIEBAR_REGENERATE` set, writes it.
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TIEBAR_REGENERATE").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, wanted,
        "tests/golden/{name} differs; TIEBAR_REGENERATE=1 cargo test -p crds --test server writes it"
    );
}

/// The words of the lines of a table, but for ages.
fn table(text: &str) -> String {
    let is_age = |word: &str| {
        word.ends_with(['s', 'm']) && word.trim_end_matches(['s', 'm']).chars().all(|c| c.is_ascii_digit())
    };
    let line = |line: &str| {
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| if is_age(word) { "AGED" } else { word })
            .collect();
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn get_explain_describe_and_wait() {
    let server = ApiServer::shared();
    server.namespace("golden");
    let kubectl = |arguments: &[&str]| {
        let arguments = [&["--namespace", "golden"], arguments].concat();
        server.kubectl(&arguments).expect_ok(&arguments.join(" "))
    };
    let full = std::fs::read_to_string(repository().join("examples/full.yaml")).unwrap();
    let minimal = std::fs::read_to_string(repository().join("examples/minimal.yaml")).unwrap();
    for text in [&full, &minimal] {
        let said = server.kubectl_input(&["--namespace", "golden", "apply", "-f", "-"], text);
        let _ = said.expect_ok("an example");
    }
    let since = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(10 * 24)).to_string();
    let ready = |status: &str, reason: &str| {
        json!({"type": "Ready", "status": status, "reason": reason, "message": "In words.", "observedGeneration": 1,
               "lastTransitionTime": since})
    };
    let patch = |name: &str, status: Value| {
        let patch = json!({"status": status}).to_string();
        kubectl(&[
            "patch",
            "cb",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]);
    };
    patch(
        "inventory",
        json!({"serviceId": "golden/inventory", "state": "Open", "stateReason": "FailureRateExceeded", "round": 1,
               "lastTransitionTime": since, "openUntilTime": "2026-12-01T22:00:00.5Z", "configRevision": 1_795_600_000_000_u64,
               "observedGeneration": 1, "instances": {"live": 3, "lost": 0, "isolated": 0, "outdated": 0},
               "override": {"state": "ForcedOpen", "until": "2026-12-01T22:00:00Z", "expired": false},
               "tripSnapshot": {"failureRatePercent": 82, "slowCallRatePercent": 0, "calls": 50, "failures": 41,
                                "causes": [{"kind": "503", "count": 41}]},
               "conditions": [ready("True", "Ready")]}),
    );
    patch(
        "payments",
        json!({"state": "Unknown", "conditions": [ready("False", "StoreUnreachable")]}),
    );

    golden("get.txt", &table(&kubectl(&["get", "cb"])));
    golden(
        "get-wide.txt",
        &table(&kubectl(&["get", "circuitbreakers.tiebar.dev", "-o", "wide"])),
    );
    assert_eq!(
        table(&kubectl(&["get", "resilience"])),
        table(&kubectl(&["get", "circuitbreaker"]))
    );
    golden("explain.txt", &kubectl(&["explain", "cb", "--recursive"]));
    golden("explain-trip.txt", &kubectl(&["explain", "cb.spec.trip"]));
    golden("explain-mode.txt", &kubectl(&["explain", "cb.spec.mode"]));
    let changing = [
        "Creation Timestamp:",
        "Resource Version:",
        "UID:",
        "Last Transition Time:",
    ];
    let described = kubectl(&["describe", "cb", "inventory"]);
    let described = described
        .lines()
        .filter(|line| !changing.iter().any(|field| line.trim().starts_with(field)));
    golden("describe.txt", &(described.collect::<Vec<_>>().join("\n") + "\n"));

    for (selector, wanted) in [
        ("status.state=Open", "inventory"),
        ("status.state=Unknown", "payments"),
        ("spec.mode=Enforce,status.state!=Open", "payments"),
    ] {
        let names = kubectl(&[
            "get",
            "cb",
            "--field-selector",
            selector,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ]);
        assert_eq!(names, wanted, "{selector}");
    }
    let waited = kubectl(&["wait", "cb/inventory", "--for=condition=Ready", "--timeout=10s"]);
    assert_eq!(waited, "circuitbreaker.tiebar.dev/inventory condition met\n");
    let waited = kubectl(&[
        "wait",
        "cb/inventory",
        "--for=jsonpath={.status.state}=Open",
        "--timeout=10s",
    ]);
    assert_eq!(waited, "circuitbreaker.tiebar.dev/inventory condition met\n");
    let said = server.kubectl(&[
        "-n",
        "golden",
        "wait",
        "cb/payments",
        "--for=condition=Ready",
        "--timeout=1s",
    ]);
    assert!(!said.ok && said.err.contains("timed out"), "{said:?}");
}

#[test]
fn the_examples_and_the_yaml_of_the_documentation_are_accepted() {
    let server = ApiServer::shared();
    let minimal = std::fs::read_to_string(repository().join("examples/minimal.yaml")).unwrap();
    assert!(minimal.lines().count() <= 6, "minimal.yaml has grown");
    let mut texts = vec![minimal];
    for name in ["full.yaml", "unreliable-service.yaml"] {
        texts.push(std::fs::read_to_string(repository().join("examples").join(name)).unwrap());
    }
    for name in ["README.md", "MIGRATION.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let blocks = text
            .split("```yaml\n")
            .skip(1)
            .filter_map(|block| block.split("```").next());
        let before = texts.len();
        texts.extend(
            blocks
                .filter(|block| block.contains("kind: CircuitBreaker"))
                .map(str::to_owned),
        );
        assert!(texts.len() > before, "{name} shows nothing");
    }
    server.namespace("examples");
    for text in texts {
        for parsed in crds::parse_documents(&text) {
            let parsed = parsed.unwrap_or_else(|error| panic!("{error}:\n{text}"));
            assert!(
                parsed.resolved.warnings.is_empty(),
                "{:?}:\n{text}",
                parsed.resolved.warnings
            );
        }
        // Examples of one service under several names: immutable fields.
        let _ = server.kubectl(&["--namespace", "examples", "delete", "cb", "--all"]);
        let said = server.kubectl_input(&["--namespace", "examples", "apply", "-f", "-"], &text);
        let _ = said.expect_ok(&text);
    }
}

/// An absent definition shows at once that the server's work is needed: the kind is gone, and comes back.
#[test]
fn the_definition_can_be_removed_and_installed_again() {
    let server = ApiServer::start(crds::testing::Settings::default());
    server.install();
    let whole = super::document("a", &json!({}));
    assert_eq!(offline(&whole), Ok(()));
    let _ = server
        .kubectl_input(&["apply", "-f", "-"], &whole.to_string())
        .expect_ok("apply");
    let _ = server
        .kubectl(&["delete", "crd", "circuitbreakers.tiebar.dev"])
        .expect_ok("delete");
    wait_for("the kind to go", Duration::from_secs(60), || {
        !server.kubectl(&["get", "cb"]).ok
    });
    server.install();
    assert_eq!(server.kubectl(&["get", "cb"]).expect_ok("get"), "");
}

//! Scenarios over a real fleet, and what the exit code says.

use serde_json::Value;
use std::path::Path;
use tests::{Ended, Fleet, WALK_THROUGH, binary, run};

/// Runs a scenario against all instances.
async fn scenario(fleet: &Fleet, text: &str) -> Ended {
    let file = fleet.folder.path().join("scenario.yaml");
    std::fs::write(&file, text).expect("a file");
    let mut args = vec!["--scenario", file.to_str().expect("a readable name"), "--json"];
    args.extend(["--upstream", &fleet.upstream.url]);
    for instance in &fleet.instances {
        args.extend(["--target", &instance.url]);
    }
    run(&binary("tiebar-loadgen"), fleet.folder.path(), &args).await
}

/// Well, then sick; `most` blocked while well.
fn phases(expected_while_sick: &str) -> String {
    format!(
        "phases:
- {{name: well, duration: 1s, rate: 60, faults: {{}}, expect: {{blockedShare: {{max: 0}}, failedShare: {{max: 0}}}}}}
- {{name: sick, duration: 4s, rate: 60, faults: {{errorPercent: 100}}, expect: {expected_while_sick}}}
- {{name: well again, duration: 4s, rate: 60, faults: {{}}, expect: {{okShare: {{min: 0.3}}, statesSeen: [closed]}}}}
expect: {{statesSeen: [closed, open, half_open], maxProbesPerRound: 3}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_that_holds_ends_with_0_and_one_that_does_not_with_1() {
    let fleet = Fleet::with(WALK_THROUGH).start().await;
    let good = scenario(&fleet, &phases("{blockedShare: {min: 0.5}, statesSeen: [open]}")).await;
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    let report: Value = serde_json::from_str(&good.stdout).expect("JSON on standard output");
    assert_eq!(report["passed"], true, "{report}");

    fleet.agrees("closed").await;
    let bad = scenario(&fleet, &phases("{blockedShare: {max: 0.01}}")).await;
    assert_eq!(bad.code, Some(1), "{}{}", bad.stdout, bad.stderr);
    let report: Value = serde_json::from_str(&bad.stdout).expect("JSON on standard output");
    assert_eq!(report["passed"], false);
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let broken: Vec<&Value> = findings.iter().filter(|finding| finding["held"] == false).collect();
    assert_eq!(broken.len(), 1, "{findings:?}");
    assert_eq!(
        (&broken[0]["phase"], &broken[0]["expectation"]),
        (&"sick".into(), &"blockedShare".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_scenario_and_mistakes_in_one_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (text, named) in [
        ("phases: []", "phases"),
        ("phases: [{name: a, duration: 1s, rate: -1}]", "rate"),
        ("phases: [{name: a, duration: soon}]", "duration"),
        (
            "phases: [{name: a, duration: 1s, faults: {errorPercent: 50}}]",
            "upstream",
        ),
        (
            "phases: [{name: a, duration: 1s, expect: {blockedShare: {min: 2}}}]",
            "blockedShare",
        ),
        ("phases: [{name: a, duration: 1s, expects: {}}]", "expects"),
        ("{unclosed", "s.yaml"),
    ] {
        let file = folder.path().join("s.yaml");
        std::fs::write(&file, text).expect("a file");
        let args = ["--scenario", file.to_str().expect("a readable name")];
        let refused = run(&binary("tiebar-loadgen"), folder.path(), &args).await;
        assert_eq!(refused.code, Some(2), "{text}: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("s.yaml") && refused.stderr.contains(named),
            "{}",
            refused.stderr
        );
    }
    // The shipped one is read, and cannot be held without a fleet.
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/scenario.yaml");
    let text = std::fs::read_to_string(example).expect("the example");
    let short = text
        .replace("duration: 10s", "duration: 100ms")
        .replace("duration: 20s", "duration: 100ms");
    let file = folder.path().join("example.yaml");
    std::fs::write(&file, short).expect("a file");
    let nobody = "http://127.0.0.1:1";
    let args = [
        "--scenario",
        file.to_str().expect("a readable name"),
        "--upstream",
        nobody,
        "--target",
        nobody,
    ];
    let ended = run(&binary("tiebar-loadgen"), folder.path(), &args).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
}

//! The operator over files.

use serde_json::Value;
use std::time::Duration;
use tests::{Fleet, Instance, PATIENCE, Process, WALK_THROUGH, binary, document, eventually, holds, run};

/// Three times the two seconds within which a new revision is everywhere, or a change in the store noticed.
const SOON: Duration = Duration::from_secs(6);
/// Seconds of an override that ends by itself: three times what it takes to be seen by the operator and known everywhere.
const LASTS: i64 = 9;

async fn revision(fleet: &Fleet, id: &str) -> u64 {
    let revision: Option<u64> = fleet.redis.ask(&["HGET", &format!("cb:{id}:config"), "revision"]).await;
    revision.unwrap_or(0)
}

/// Waits until the operator complains in words that hold all of `named`.
async fn complains(fleet: &Fleet, named: &[&str]) {
    eventually(SOON, &format!("the operator complains of {named:?}"), async || {
        let errors = fleet.operator.report().await["errors"].to_string();
        holds(named.iter().all(|name| errors.contains(name)), errors)
    })
    .await;
    let first = named[0];
    fleet
        .operator
        .process
        .logged("and logs it", |line| line.contains(first).then_some(()))
        .await;
}

async fn is_content(fleet: &Fleet) {
    eventually(SOON, "the operator is content", async || {
        let report = fleet.operator.report().await;
        holds(report["errors"] == Value::Array(Vec::new()), &report["errors"])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_stop_no_others_and_unload_nothing() {
    let fleet = Fleet::with(WALK_THROUGH).instances(1).start().await;
    let operator = &fleet.operator;
    let first = revision(&fleet, Fleet::ID).await;

    // A file that is no YAML; a good one after it.
    operator.write("b.yaml", "{unclosed");
    complains(&fleet, &["b.yaml"]).await;
    operator.write(
        "c.json",
        r#"{"apiVersion": "tiebar.dev/v1alpha1", "kind": "CircuitBreaker", "metadata": {"name": "other"}}"#,
    );
    eventually(SOON, "the good file is programmed", async || {
        holds(revision(&fleet, "other").await > 0, "no revision")
    })
    .await;

    // A bad edit of the good file: file, document, field, value and what would be right.
    operator.write("a.yaml", &document(Fleet::ID, "{open: {duration: 1ms}}"));
    complains(&fleet, &["a.yaml", "document 1", "spec.open.duration", "1ms", "100ms"]).await;
    operator.write("a.yaml", &document(Fleet::ID, "{trip: {consecutiveFailure: 3}}"));
    complains(&fleet, &["a.yaml", "consecutiveFailure"]).await;
    assert_eq!(revision(&fleet, Fleet::ID).await, first, "the good revision stays");
    assert_eq!(fleet.trip(0).await, 3, "and is in force");
    fleet.redis.ask::<()>(&["DEL", &Fleet::key("config")]).await;
    eventually(SOON * 2, "and is restored when it is lost meanwhile", async || {
        holds(revision(&fleet, Fleet::ID).await > 0, "no config")
    })
    .await;

    // While anything is wrong nothing counts as deleted.
    operator.remove("c.json");
    operator.write("b.yaml", "{still unclosed");
    complains(&fleet, &["b.yaml"]).await;
    assert!(revision(&fleet, "other").await > 0);

    operator.remove("b.yaml");
    operator.write(
        "a.yaml",
        &document(
            Fleet::ID,
            &WALK_THROUGH.replace("consecutiveFailures: 3", "consecutiveFailures: 5"),
        ),
    );
    is_content(&fleet).await;
    eventually(SOON, "the new revision has reached the instance", async || {
        let (stored, known) = (revision(&fleet, Fleet::ID).await, fleet.instances[0].breaker().await);
        holds(stored > first && known["revision"] == stored, known)
    })
    .await;
    eventually(SOON, "the removed one is deleted", async || {
        let config: std::collections::BTreeMap<String, redis::Value> =
            fleet.redis.ask(&["HGETALL", "cb:other:config"]).await;
        holds(!config.contains_key("spec"), format!("{:?}", config.keys()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_with_one_id_the_first_counts() {
    let fleet = Fleet::with(WALK_THROUGH).instances(1).start().await;
    let first = revision(&fleet, Fleet::ID).await;
    fleet
        .operator
        .write("z.yaml", &document(Fleet::ID, "{trip: {consecutiveFailures: 1}}"));
    complains(&fleet, &["z.yaml", Fleet::ID, "already claimed by", "a.yaml"]).await;
    assert_eq!(revision(&fleet, Fleet::ID).await, first);
    fleet.operator.remove("z.yaml");
    is_content(&fleet).await;
    assert_eq!(revision(&fleet, Fleet::ID).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_the_same_as_in_a_cluster() {
    let fleet = Fleet::with(&WALK_THROUGH.replace("duration: 2s", "duration: 10m"))
        .instances(1)
        .start()
        .await;
    let shows = async |name: &str, labels: &[(&str, &str)], wanted: &dyn Fn(f64) -> bool| {
        eventually(SOON, &format!("{name}{labels:?}"), async || {
            let value = fleet.operator.metrics().await.value(name, labels);
            holds(value.is_some_and(wanted), format!("{value:?}"))
        })
        .await;
    };
    let (one, some, none) = (&|value| value == 1.0, &|value| value > 0.0, &|value| value == 0.0);
    let breaker = ("breaker", Fleet::ID);
    shows("tiebar_operator_store_up", &[], one).await;
    shows("tiebar_operator_leader", &[], one).await;
    shows("tiebar_operator_reconciliations_total", &[("result", "ok")], some).await;
    shows("tiebar_breaker_instances", &[breaker, ("kind", "live")], one).await;
    shows(
        "tiebar_breaker_condition",
        &[breaker, ("type", "Ready"), ("status", "True")],
        one,
    )
    .await;
    shows("tiebar_breaker_state", &[breaker, ("state", "closed")], one).await;
    fleet.instances[0].call().await;
    shows("tiebar_breaker_calls", &[breaker], one).await;
    shows("tiebar_breaker_failure_ratio", &[breaker], none).await;
    fleet.trip(0).await;
    shows("tiebar_breaker_state", &[breaker, ("state", "open")], one).await;
    shows("tiebar_breaker_state", &[breaker, ("state", "closed")], none).await;

    shows("tiebar_operator_drift_corrections_total", &[], none).await;
    fleet.redis.ask::<()>(&["DEL", &Fleet::key("config")]).await;
    shows("tiebar_operator_drift_corrections_total", &[], one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_is_a_deletion_and_a_new_one_a_fresh_start() {
    let fleet = Fleet::with(WALK_THROUGH).start().await;
    fleet.trip(0).await;
    fleet.agrees("open").await;
    fleet.operator.remove("a.yaml");
    eventually(SOON, "everybody admits everything", async || {
        for instance in &fleet.instances {
            let answer = instance.call().await;
            holds(answer.state() == "unconfigured" && answer.status == 500, answer.body)?;
        }
        let state = fleet.redis.get(&Fleet::key("state")).await;
        holds(state.is_none(), format!("{state:?}"))
    })
    .await;
    assert_eq!(fleet.operator.report().await["items"], Value::Array(Vec::new()));
    let metrics = fleet.instances[0].metrics().await;
    assert_eq!(metrics.value("tiebar_unconfigured", &[]), Some(1.0));

    fleet.upstream.heal().await;
    fleet.operator.write("a.yaml", &document(Fleet::ID, WALK_THROUGH));
    fleet.agrees("closed").await;
    assert_eq!(fleet.trip(1).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_hold_for_all_and_lapse_with_the_operator_dead() {
    let mut fleet = Fleet::with(WALK_THROUGH).start().await;
    let with = |state: &str, expire: Option<&str>| {
        let expire = expire.map_or_else(String::new, |at| format!(", expireTime: '{at}'"));
        let spec = format!(
            "{{override: {{state: {state}, reason: CHG-4711{expire}}}, {}",
            &WALK_THROUGH[1..]
        );
        document(Fleet::ID, &spec)
    };
    fleet.operator.write("a.yaml", &with("ForcedOpen", None));
    fleet.agrees("forced_open").await;
    for (_, answer) in fleet.storm(5).await {
        assert_eq!(
            (answer.status, answer.blocked().as_deref()),
            (503, Some("forced")),
            "{}",
            answer.body
        );
    }
    let status = eventually(SOON, "the status tells", async || {
        let status = fleet.operator.status(Fleet::ID).await;
        holds(status["state"] == "ForcedOpen", &status).map(|()| status)
    })
    .await;
    assert_eq!(status["stateReason"], "Override");

    fleet.upstream.fail().await;
    fleet.operator.write("a.yaml", &with("ForcedClosed", None));
    fleet.agrees("forced_closed").await;
    for (_, answer) in fleet.storm(5).await {
        assert_eq!(
            (answer.status, answer.state()),
            (500, "forced_closed"),
            "whatever fails"
        );
    }

    // Removing an override is the same as its lapse: closed, with an empty window.
    fleet.operator.write("a.yaml", &document(Fleet::ID, WALK_THROUGH));
    fleet.agrees("closed").await;
    assert_eq!(fleet.redis.get(&Fleet::key("failures")).await.as_deref(), Some("0"));

    let (seconds, _): (i64, i64) = fleet.redis.ask(&["TIME"]).await;
    let expire = jiff::Timestamp::from_second(seconds + LASTS)
        .expect("a time")
        .to_string();
    fleet.operator.write("a.yaml", &with("ForcedOpen", Some(&expire)));
    fleet.agrees("forced_open").await;
    fleet.operator.process.kill().await;
    fleet.upstream.heal().await;
    eventually(
        Duration::from_secs(LASTS as u64) + SOON,
        "the override has lapsed and probes have closed the circuit",
        async || {
            let answer = fleet.instances[2].call().await;
            holds(
                answer.state() == "closed",
                format!("{} {}", answer.state(), answer.body),
            )
        },
    )
    .await;
    let (now, _): (i64, i64) = fleet.redis.ask(&["TIME"]).await;
    assert!(now >= seconds + LASTS, "not before its time");
    let transitions = fleet.redis.transitions(Fleet::ID).await;
    let end = [
        "forced_open → open OverrideLapsed",
        "open → half_open WaitElapsed",
        "half_open → closed ProbesSucceeded",
    ];
    assert!(transitions.ends_with(&end.map(str::to_owned)), "{transitions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_follows_the_circuit() {
    let fleet = Fleet::with(WALK_THROUGH).start().await;
    let tells = async |wanted: &str| {
        eventually(SOON, &format!("the report says {wanted}"), async || {
            let status = fleet.operator.status(Fleet::ID).await;
            holds(status["state"] == wanted, &status).map(|()| status)
        })
        .await
    };
    assert_eq!(tells("Closed").await["serviceId"], Fleet::ID);
    fleet.trip(0).await;
    let open = tells("Open").await;
    assert_eq!(open["stateReason"], "ConsecutiveFailures");
    assert_eq!(open["previousState"], "Closed");
    assert_eq!(open["tripSnapshot"]["failures"], 3);
    assert_eq!(
        open["tripSnapshot"]["causes"],
        serde_json::json!([{"kind": "500", "count": 3}])
    );
    assert_eq!(open["tripSnapshot"]["topInstances"], serde_json::json!(["i1"]));
    assert!(
        open["openUntilTime"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{open}"
    );
    assert_eq!(open["round"], 1);
    fleet.upstream.heal().await;
    eventually(PATIENCE, "closed", async || {
        let answer = fleet.instances[1].call().await;
        holds(answer.state() == "closed", answer.body)
    })
    .await;
    assert_eq!(tells("Closed").await["stateReason"], "ProbesSucceeded");

    // In words, over the same store.
    let store = fleet.redis.url();
    let said = run(
        &binary("tiebar-operator"),
        fleet.folder.path(),
        &["explain", Fleet::ID, "--redis", &store],
    )
    .await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stdout.contains(Fleet::ID)
            && said.stdout.contains("closed → open")
            && said.stdout.contains("calls failed")
            && !said.stdout.contains('{'),
        "{}",
        said.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operator_over_other_files_leaves_the_first_ones_breaker_alone() {
    let fleet = Fleet::with(WALK_THROUGH).instances(1).start().await;
    let first = revision(&fleet, Fleet::ID).await;
    let file = fleet.folder.path().join("mine.yaml");
    std::fs::write(&file, document(Fleet::ID, "{trip: {consecutiveFailures: 1}}")).expect("a file");
    let (store, path) = (fleet.redis.url(), file.to_str().expect("a readable name"));
    let args = ["--breakers", path, "--redis", &store, "--listen", "127.0.0.1:0"];
    let second = Process::start("second", &binary("tiebar-operator"), fleet.folder.path(), &args);
    second
        .logged("it says whose it is", |line| {
            line.contains("OwnedElsewhere").then_some(())
        })
        .await;
    assert_eq!(revision(&fleet, Fleet::ID).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_operator_changes_nothing_and_a_dead_one_is_not_missed() {
    let mut fleet = Fleet::with(WALK_THROUGH).start().await;
    let first = revision(&fleet, Fleet::ID).await;
    fleet.operator.process.kill().await;
    assert_eq!(fleet.trip(0).await, 3);
    fleet.agrees("open").await;
    let (folder, documents) = (fleet.folder.path(), fleet.operator.documents.clone());
    let operator = tests::Operator::start(folder, &documents, &fleet.redis.url()).await;
    eventually(SOON, "the new one reports the old one's breaker", async || {
        let status = operator.status(Fleet::ID).await;
        holds(status["state"] == "Open", status)
    })
    .await;
    assert_eq!(revision(&fleet, Fleet::ID).await, first);

    // A reset, asked for once.
    let reset = document(Fleet::ID, WALK_THROUGH).replace(
        "metadata: {",
        "metadata: {annotations: {tiebar.dev/reset-requested-at: now}, ",
    );
    operator.write("a.yaml", &reset);
    fleet.agrees("closed").await;
    let late: &Instance = &fleet.instances[1];
    fleet.upstream.fail().await;
    for _ in 0..3 {
        late.call().await;
    }
    fleet.agrees("open").await;
    let resets = fleet.redis.transitions(Fleet::ID).await;
    assert_eq!(
        resets.iter().filter(|line| line.ends_with("Reset")).count(),
        1,
        "{resets:?}"
    );
}

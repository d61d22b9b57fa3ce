//! What a sick Redis does to statuses: conditions tell, the state is unknown rather than a lie, nothing spins.

use crate::slow::Slow;
use crate::support::{Caller, Operator, Place, Redis, SOON, condition, holds};
use crds::testing::{Settings, wait_for};
use std::time::{Duration, Instant};
use tiebar::state::State;

fn is_unknown(reason: &'static str) -> impl Fn(&serde_json::Value) -> bool {
    move |status| {
        status["state"] == "Unknown"
            && condition(status, "StoreReachable") == ("False".to_owned(), reason.to_owned())
            && condition(status, "Ready").0 == "False"
    }
}

/// Three times the two seconds within which a fault shows.
const SHOWN: Duration = Duration::from_secs(6);
/// Three times the promised ten seconds.
const UNKNOWN: Duration = Duration::from_secs(30);

#[test]
fn a_store_that_is_gone_is_told_after_ten_seconds_and_its_return_at_once() {
    let (place, mut redis) = (Place::new("gone"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    place.apply("a", "{}");
    place.until_ready("a");
    let begun = Instant::now();
    redis.stop();
    place.until("a", "Unknown", UNKNOWN, is_unknown("ConnectFailed"));
    assert!(
        begun.elapsed() >= Duration::from_secs(9),
        "too early: {:?}",
        begun.elapsed()
    );
    assert_eq!((operator.get("/readyz").0, operator.get("/livez").0), (200, 200));
    // Nothing spins meanwhile.
    let written = operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}");
    let looked = operator.metric("tiebar_operator_reconciliations_total{result=\"error\"}");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(
        operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}"),
        written
    );
    let looked = operator.metric("tiebar_operator_reconciliations_total{result=\"error\"}") - looked;
    assert!(looked <= 5.0, "{looked} attempts in 5 s");
    // It comes back empty.
    redis.resume();
    let status = place.until_ready("a");
    assert_eq!(status["state"], "Closed");
    for reason in ["StoreUnreachable", "StoreRecovered"] {
        wait_for(reason, SOON, || place.events("a").contains(&reason.to_owned()));
    }
}

#[test]
fn a_store_that_takes_no_writes_is_told_too() {
    let (place, redis) = (Place::new("readonly"), Redis::start(&[]));
    let operator = place.operator(&redis, &[]);
    place.apply("a", "{}");
    place.until_ready("a");
    // A replica of nobody answers reads and refuses writes, and so does whoever has no memory left.
    let refusals = [
        ("ReadOnly", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("OutOfMemory", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ];
    let tell = |command: &str| redis.cli(&command.split(' ').collect::<Vec<_>>());
    for (reason, refuse, relent) in refusals {
        tell(refuse);
        wait_for("shown", SHOWN, || operator.metric("tiebar_operator_store_up") == 0.0);
        place.until("a", "Unknown", UNKNOWN, is_unknown(reason));
        let before: u64 = redis.commands();
        std::thread::sleep(Duration::from_secs(5));
        let rate = (redis.commands() - before) as f64 / 5.0;
        println!("{rate} commands/s towards a Redis that refuses: {reason}");
        assert!(rate < 50.0, "{rate} commands/s");
        tell(relent);
        place.until_ready("a");
    }
}

const TRIPS: &str = "{trip: {consecutiveFailures: 1, minimumInstances: 1}, open: {duration: 1h}}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_answers_late_is_waited_for() {
    let (place, redis) = (Place::new("late"), Redis::start(&[]));
    let slow = Slow::before(redis.port);
    slow.delay(Duration::from_millis(50));
    let url = redis.url_through(slow.port);
    let operator = Operator::start(&place.account, &url, &["--namespace", "late"]);
    place.apply("a", TRIPS);
    place.until_ready("a");
    // Three times the promised two seconds.
    assert_eq!(Caller::new(&redis, place.id("a")).fail(1).await, State::Open);
    let is_open = |status: &serde_json::Value| status["state"] == "Open" && holds(status, "Ready");
    place.until("a", "Open", Duration::from_secs(6), is_open);
    assert_eq!(slow.connections(), 1, "it lost its patience");
    assert_eq!(
        operator.metric("tiebar_operator_reconciliations_total{result=\"error\"}"),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_answers_far_too_late_is_told_and_nothing_spins() {
    let (place, redis) = (Place::new("crawling"), Redis::start(&[]));
    let slow = Slow::before(redis.port);
    let url = redis.url_through(slow.port);
    let mut operator = Operator::start(&place.account, &url, &["--namespace", "crawling"]);
    for name in ["a", "b", "c"] {
        place.apply(name, TRIPS);
        place.until_ready(name);
    }
    slow.delay(Duration::from_secs(5));
    // What nobody can read is not reported, and what was said before is no longer said.
    assert_eq!(Caller::new(&redis, place.id("a")).fail(1).await, State::Open);
    let begun = Instant::now();
    for name in ["a", "b", "c"] {
        place.until(name, "Unknown", UNKNOWN, is_unknown("Timeout"));
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(8), "too early: {took:?}");
    let requests = || place.requests("tiebar-operator").len();
    let written = || operator.metric("tiebar_operator_status_writes_total{result=\"ok\"}");
    let before = (redis.commands(), slow.connections(), requests(), written());
    std::thread::sleep(Duration::from_secs(10));
    let per_second = |now: u64, before: u64| (now - before) as f64 / 10.0;
    let rates = (
        per_second(redis.commands(), before.0),
        per_second(slow.connections(), before.1),
        per_second(requests() as u64, before.2 as u64),
    );
    println!("commands to Redis, connections, requests to the API server per second: {rates:?}");
    assert!(rates.0 < 50.0 && rates.1 < 5.0 && rates.2 < 5.0, "{rates:?}");
    assert_eq!(written(), before.3, "nothing changed");
    assert!(operator.is_running());
    assert_eq!((operator.get("/readyz").0, operator.get("/livez").0), (200, 200));

    slow.delay(Duration::ZERO);
    let begun = Instant::now();
    place.until("a", "Open", SOON, |status| {
        status["state"] == "Open" && holds(status, "Ready")
    });
    place.until_ready("b");
    println!("recovered after {:?}", begun.elapsed());
}

#[test]
fn a_wrong_password_is_told_and_a_right_one_found() {
    let place = Place::new("password");
    let redis = Redis::start(&[]);
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", redis.port);
    let operator = Operator::start(&place.account, &url, &["--namespace", "password"]);
    place.apply("a", "{}");
    place.until("a", "AuthFailed", UNKNOWN, is_unknown("AuthFailed"));
    let connections = || {
        let info = redis.cli(&["-a", "right", "--no-auth-warning", "INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|number| number.trim().parse::<u64>().ok())
            .expect("a number")
    };
    let before = connections();
    std::thread::sleep(Duration::from_secs(5));
    let rate = (connections() - before) as f64 / 5.0;
    println!("{rate} attempts/s with a wrong password");
    assert!(rate < 5.0, "{rate} attempts/s");
    redis.cli(&["-a", "right", "CONFIG", "SET", "requirepass", "wrong"]);
    place.until_ready("a");
    assert!(
        operator.log().iter().all(|line| !line.contains(":wrong@")),
        "the password is in the log"
    );
}

#[test]
fn a_flushed_store_is_programmed_again() {
    let (place, redis) = (Place::new("flushed"), Redis::start(&[]));
    let _operator = place.operator(&redis, &[]);
    place.apply("a", "{open: {duration: 11s}}");
    place.until_ready("a");
    let begun = Instant::now();
    redis.cli(&["FLUSHALL"]);
    // Thirty seconds are promised.
    wait_for("programmed again", Duration::from_secs(90), || {
        redis.cli(&["HGET", "cb:flushed/a:config", "spec"]).contains("11s")
    });
    println!("programmed again after {:?}", begun.elapsed());
    redis.nothing_was_denied();
    wait_for("said", SOON, || {
        place.events("a").contains(&"ConfigDriftCorrected".to_owned())
    });
    let status = place.until_ready("a");
    assert!(holds(&status, "Programmed"));
}

#[test]
fn an_api_server_that_restarts_is_found_again() {
    let (mut place, redis) = (Place::own("home", Settings::default()), Redis::start(&[]));
    let mut operator = place.operator(&redis, &[]);
    place.apply("a", "{}");
    place.until_ready("a");
    place.server_mut().stop();
    // Longer than the lease lasts without it.
    wait_for("it stops leading", SOON, || {
        operator.metric("tiebar_operator_leader") == 0.0
    });
    assert_eq!(operator.get("/livez").0, 200);
    place.server_mut().resume();
    place.apply("b", "{}");
    place.until("b", "Ready after the restart", Duration::from_secs(120), |status| {
        holds(status, "Ready")
    });
    assert!(operator.is_running());
    assert!(
        !redis.cli(&["HGET", "cb:home/a:config", "spec"]).is_empty(),
        "nothing was deleted"
    );
}

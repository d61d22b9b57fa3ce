//! Two replicas, one leader: from both sides' records, that no two of them ever write at once.

use crate::support::{Monitor, Operator, Place, Redis, SOON, holds};
use crds::testing::wait_for;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn leads(operator: &Operator) -> bool {
    operator.metric("tiebar_operator_leader") == 1.0
}

fn transitions(place: &Place) -> String {
    place
        .kubectl(&[
            "get",
            "lease",
            "tiebar-operator",
            "-o",
            "jsonpath={.spec.leaseTransitions}",
        ])
        .out
}

#[test]
fn a_killed_leader_is_followed_within_twenty_seconds_and_followers_write_nothing() {
    let (place, redis) = (Place::new("killed"), Redis::start(&[]));
    let first = place.operator(&redis, &[]);
    wait_for("a leader", SOON, || leads(&first));
    let second = place.operator(&redis, &[]);
    place.apply("a", "{open: {duration: 11s}}");
    place.until_ready("a");
    assert!(!leads(&second));
    assert_eq!(second.metric("tiebar_operator_status_writes_total{result=\"ok\"}"), 0.0);
    assert!(
        !second.get("/metrics").1.contains("tiebar_breaker_state"),
        "from the leader only"
    );
    assert_eq!(second.get("/readyz").0, 200);

    let begun = Instant::now();
    first.kill();
    wait_for("a new leader", Duration::from_secs(60), || leads(&second));
    println!("taken over after {:?}", begun.elapsed());
    place.apply("a", "{open: {duration: 22s}}");
    wait_for("programmed", SOON, || {
        redis.cli(&["HGET", "cb:killed/a:config", "spec"]).contains("22s")
    });
    place.until("a", "generation 2", SOON, |status| {
        status["observedGeneration"] == 2 && holds(status, "Ready")
    });
    // The store refuses whoever led before.
    assert_eq!(
        transitions(&place),
        redis.cli(&["HGET", "cb:killed/a:config", "transitions"])
    );
}

#[test]
fn a_leader_that_is_asked_to_go_gives_the_lease_back() {
    let (place, redis) = (Place::new("released"), Redis::start(&[]));
    let first = place.operator(&redis, &[]);
    wait_for("a leader", SOON, || leads(&first));
    let second = place.operator(&redis, &[]);
    let begun = Instant::now();
    assert_eq!(first.terminate(), Some(0));
    wait_for("a new leader", SOON, || leads(&second));
    let took = begun.elapsed();
    println!("taken over after {took:?}");
    assert!(
        took < Duration::from_secs(9),
        "waited for the lease to expire: {took:?}"
    );
}

/// Breakers that change all the time.
const BUSY: usize = 8;
const FIRST: &str = "tiebar-operator";
const SECOND: &str = "tiebar-operator-2";

/// What a service account wrote: statuses, Events, the Lease.
fn writes(place: &Place, account: &str) -> Vec<Value> {
    let mut requests = place.requests(account);
    requests.retain(|request| {
        let is_write = ["create", "update", "patch", "delete"].contains(&request["verb"].as_str().unwrap_or_default());
        is_write
            && request["responseStatus"]["code"]
                .as_u64()
                .is_some_and(|code| code < 300)
    });
    requests
}

fn statuses(place: &Place, account: &str) -> usize {
    let is_status = |request: &&Value| request["objectRef"]["subresource"] == "status";
    writes(place, account).iter().filter(is_status).count()
}

/// Edits all breakers again and again while something happens, then waits until the last edit is reported.
fn edited_meanwhile(place: &Place, happens: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let edits = scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                turn += 1;
                place.apply_all(BUSY, &format!("{{open: {{duration: {}s}}}}", 10 + turn % 50));
            }
        });
        // Also when it fails, or the scope would wait for ever.
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(happens));
        done.store(true, Ordering::Relaxed);
        edits.join().expect("edits");
        if let Err(panic) = happened {
            std::panic::resume_unwind(panic);
        }
    });
    for number in 0..BUSY {
        let name = format!("b{number}");
        let generation = place.get(&name)["metadata"]["generation"].clone();
        place.until(&name, "the last edit", SOON, |status| {
            status["observedGeneration"] == generation && holds(status, "Ready")
        });
    }
}

/// On neither side did the first leader write once the second had begun.
fn nobody_wrote_twice(place: &Place, monitor: &Monitor) {
    let (before, after) = (writes(place, FIRST), writes(place, SECOND));
    let at = |request: &Value| {
        request["requestReceivedTimestamp"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (last, begun) = (at(&before[before.len() - 1]), at(&after[0]));
    println!(
        "API server: {} writes of the first until {last}, {} of the second from {begun}",
        before.len(),
        after.len()
    );
    assert!(last < begun, "{}", before[before.len() - 1]);
    let terms = monitor.terms();
    let second = terms.iter().position(|term| *term > terms[0]).expect("a second term");
    println!(
        "Redis: {second} writes of the first term, {} of the second",
        terms.len() - second
    );
    assert!(terms.is_sorted() && terms.last() == Some(&(terms[0] + 1)), "{terms:?}");
}

/// Two replicas under names of their own, the first of them leading and at work.
fn two(place: &Place, redis: &Redis) -> (Operator, Operator) {
    let namespace = ["--namespace", &*place.namespace];
    let first = Operator::start(&place.account, &redis.url(), &namespace);
    wait_for("a leader", SOON, || leads(&first));
    let second = Operator::start(&place.new_account(SECOND), &redis.url(), &namespace);
    place.apply_all(BUSY, "{}");
    wait_for("reported", SOON, || statuses(place, FIRST) >= BUSY);
    (first, second)
}

#[test]
fn a_leader_killed_at_work_and_its_successor_never_write_at_once() {
    let (place, redis) = (Place::new("succeeded"), Redis::start(&[]));
    let monitor = redis.monitor();
    let (first, second) = two(&place, &redis);
    edited_meanwhile(&place, || {
        wait_for("the first at work", SOON, || statuses(&place, FIRST) >= 3 * BUSY);
        let begun = Instant::now();
        first.kill();
        wait_for("the second at work", Duration::from_secs(60), || {
            statuses(&place, SECOND) >= BUSY
        });
        println!("at work after {:?}", begun.elapsed());
    });
    assert!(leads(&second));
    nobody_wrote_twice(&place, &monitor);
}

#[test]
fn a_leader_that_slept_past_its_lease_wakes_and_writes_nothing() {
    let (place, redis) = (Place::new("slept"), Redis::start(&[]));
    let monitor = redis.monitor();
    let (first, second) = two(&place, &redis);
    edited_meanwhile(&place, || {
        wait_for("the first at work", SOON, || statuses(&place, FIRST) >= 3 * BUSY);
        first.freeze();
        wait_for("the second at work", Duration::from_secs(60), || {
            statuses(&place, SECOND) >= BUSY
        });
        // It wakes in the middle of its work, with a world of changes to catch up on.
        let asked = place.requests(FIRST).len();
        first.thaw();
        wait_for("the first looks at the lease", SOON, || {
            let looks = |request: &&Value| request["verb"] == "get" && request["objectRef"]["resource"] == "leases";
            place.requests(FIRST).iter().skip(asked).filter(looks).count() >= 3
        });
    });
    assert!(!leads(&first) && leads(&second));
    let line = "no longer the leader";
    assert!(first.log().iter().any(|said| said.contains(line)), "{:?}", first.log());
    nobody_wrote_twice(&place, &monitor);
}

//! A store that is away: calls keep flowing, each instance by itself, until it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::{Fleet, eventually, get, holds};
use tokio::task::JoinHandle;

/// Three times the two seconds within which a fault shows; one of them is the one after which the store counts as lost.
const NOTICED: Duration = Duration::from_secs(6);
/// Three times the five seconds after which the fallback is over.
const RECOVERED: Duration = Duration::from_secs(15);

/// Calls through every instance, again and again, all of which must succeed.
struct Traffic {
    running: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u64, Duration)>>,
}

impl Traffic {
    fn start(fleet: &Fleet) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let tasks = fleet.instances.iter().map(|instance| {
            let (running, url) = (Arc::clone(&running), instance.url.clone());
            tokio::spawn(async move {
                let (mut calls, mut slowest) = (0, Duration::ZERO);
                while running.load(Ordering::Relaxed) {
                    let answer = get(&url).await;
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    (calls, slowest) = (calls + 1, slowest.max(answer.took));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (calls, slowest)
            })
        });
        Self {
            tasks: tasks.collect(),
            running,
        }
    }

    async fn stop(self) {
        self.running.store(false, Ordering::Relaxed);
        for task in self.tasks {
            let (calls, slowest) = task.await.expect("every call succeeded");
            println!("{calls} calls, the slowest {slowest:.1?}");
            assert!(slowest < Duration::from_secs(2), "a call waited for the store");
        }
    }
}

async fn all_degraded(fleet: &Fleet, degraded: bool) {
    let (what, bound) = if degraded {
        ("every instance says that it goes on alone", NOTICED)
    } else {
        ("every instance is back with the others", RECOVERED)
    };
    let wanted = if degraded {
        (Some(1.0), Some(0.0))
    } else {
        (Some(0.0), Some(1.0))
    };
    eventually(bound, what, async || {
        for instance in &fleet.instances {
            let known = instance.breaker().await;
            holds(known["degraded"] == degraded, format!("{}: {known}", instance.name))?;
            let metrics = instance.metrics().await;
            let value = |name| metrics.value(name, &[]);
            let shown = (value("tiebar_store_fallback_active"), value("tiebar_store_up"));
            holds(shown == wanted, format!("{}: fallback and up {shown:?}", instance.name))?;
        }
        Ok::<(), String>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_lived_without_and_an_empty_one_taken_up() {
    let mut fleet = Fleet::with(tests::WALK_THROUGH).start().await;
    let traffic = Traffic::start(&fleet);
    fleet.redis.kill().await;
    all_degraded(&fleet, true).await;
    eventually(
        Duration::from_secs(30),
        "the operator does not know the state",
        async || {
            let status = fleet.operator.status(Fleet::ID).await;
            holds(status["state"] == "Unknown", status)
        },
    )
    .await;
    traffic.stop().await;

    // By the same rules, each alone.
    fleet.upstream.fail().await;
    for instance in &fleet.instances {
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(instance.call().await.status);
        }
        assert_eq!(answers, [500; 3], "{}", instance.name);
        eventually(NOTICED, &format!("{} opens alone", instance.name), async || {
            let answer = instance.call().await;
            holds(answer.blocked().as_deref() == Some("open"), answer.body)
        })
        .await;
    }
    fleet.upstream.heal().await;
    for instance in &fleet.instances {
        eventually(
            Duration::from_secs(6),
            &format!("{} closes alone", instance.name),
            async || {
                let answer = instance.call().await;
                holds(answer.status == 200 && answer.state() == "closed", answer.body)
            },
        )
        .await;
    }

    let traffic = Traffic::start(&fleet);
    fleet.redis.start_again().await;
    all_degraded(&fleet, false).await;
    fleet.agrees("closed").await;
    traffic.stop().await;
    assert_eq!(fleet.trip(1).await, 3, "shared as before");
    fleet.agrees("open").await;
    for instance in &fleet.instances {
        let said = |what: &str| instance.process.log().iter().filter(|line| line.contains(what)).count();
        assert_eq!(said("the store is gone"), 1, "once");
        assert_eq!(said("the store is back"), 1, "once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_lived_without() {
    let fleet = Fleet::with(tests::WALK_THROUGH).start().await;
    let traffic = Traffic::start(&fleet);
    fleet.redis.freeze();
    all_degraded(&fleet, true).await;
    fleet.redis.thaw();
    all_degraded(&fleet, false).await;
    traffic.stop().await;
    let transitions = fleet.redis.transitions(Fleet::ID).await;
    assert_eq!(transitions.len(), 1, "nothing but the seed: {transitions:?}");
    assert_eq!(fleet.trip(0).await, 3, "shared as before");
    fleet.agrees("open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_stays_open_without_the_store() {
    let spec = tests::WALK_THROUGH.replace("2s", "6s");
    let mut fleet = Fleet::with(&spec).start().await;
    fleet.trip(0).await;
    fleet.agrees("open").await;
    fleet.redis.kill().await;
    fleet.upstream.forget().await;
    eventually(NOTICED, "every instance goes on alone, open", async || {
        for (_, answer) in fleet.storm(1).await {
            assert_eq!((answer.status, answer.state()), (503, "open"), "{}", answer.body);
        }
        for instance in &fleet.instances {
            let known = instance.breaker().await;
            holds(known["degraded"] == true && known["state"] == "open", known)?;
        }
        Ok::<(), String>(())
    })
    .await;
    assert_eq!(fleet.upstream.requests().await, 0);
    fleet.upstream.heal().await;
    for instance in &fleet.instances {
        eventually(
            Duration::from_secs(18),
            &format!("{} probes and closes alone", instance.name),
            async || {
                let answer = instance.call().await;
                holds(answer.state() == "closed", answer.body)
            },
        )
        .await;
    }
}

//! One sick caller opens alone.

use std::time::Duration;
use tests::{Fleet, Instance, PATIENCE, Upstream, eventually, holds};

const SPEC: &str = "{trip: {failureRateThreshold: 50, minimumNumberOfCalls: 10, minimumInstances: 2}, \
                    open: {duration: 3s}, halfOpen: {permittedCalls: 2, maxDuration: 10s}}";

#[tokio::test(flavor = "multi_thread")]
async fn one_sick_instance_of_five_is_isolated_and_the_others_go_on() {
    let fleet = Fleet::with(SPEC).instances(4).start().await;
    let folder = fleet.folder.path();
    // Sick by its own road to the service: everything it calls fails.
    let broken = Upstream::start(folder).await;
    broken.fail().await;
    let sick = Instance::start(folder, "sick", &fleet.redis.url(), &broken.url, &[]).await;
    eventually(PATIENCE, "the fifth has joined", async || {
        let known = sick.breaker().await;
        holds(
            known["state"] == "closed" && known["revision"].as_u64() > Some(0),
            known,
        )
    })
    .await;

    // Two thirds of all calls are its failures: counted alike they would open the circuit for everybody.
    let traffic = async || {
        for instance in &fleet.instances {
            let answer = instance.call().await;
            assert_eq!(
                (answer.status, answer.state()),
                (200, "closed"),
                "{}: {}",
                instance.name,
                answer.body
            );
        }
        let mut last = sick.call().await;
        for _ in 1..8 {
            last = sick.call().await;
        }
        last
    };
    // One resync of failing, which is at most two seconds.
    eventually(Duration::from_secs(6), "the sick one is isolated", async || {
        let answer = traffic().await;
        holds(answer.blocked().as_deref() == Some("isolated"), answer.body)
    })
    .await;
    fleet.agrees("closed").await;
    assert_eq!(sick.breaker().await["isolated"], true);
    assert_eq!(sick.metrics().await.value("tiebar_isolated", &[]), Some(1.0));
    assert_eq!(
        fleet.instances[0].metrics().await.value("tiebar_isolated", &[]),
        Some(0.0)
    );

    // Heartbeats come every ten seconds.
    eventually(Duration::from_secs(36), "the operator names it", async || {
        traffic().await;
        let instances = fleet.operator.status(Fleet::ID).await["instances"].clone();
        holds(
            instances["isolatedNames"][0] == "sick" && instances["live"] == 5,
            instances,
        )
    })
    .await;

    broken.heal().await;
    eventually(Duration::from_secs(15), "it is well again and back", async || {
        let answer = traffic().await;
        holds(answer.status == 200 && answer.state() == "closed", answer.body)
    })
    .await;
    let transitions = fleet.redis.transitions(Fleet::ID).await;
    assert_eq!(transitions.len(), 1, "nothing but the seed: {transitions:?}");
}

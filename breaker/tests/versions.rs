//! A rolling upgrade: two versions of the script, and of the library that carries it, over one Redis. I12.

mod support;

use redis::AsyncCommands as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{RedisServer, twin};
use tiebar::guard::{Breakers, Guard, RejectReason, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore, SCRIPT};
use tiebar::state::{Cause, State};
use tiebar::store::{Exchange, Leader, Programme, Status, Store as _, StoreError};
use tokio::time::{Instant, sleep};

/// A release that changes nothing about what is stored.
fn same_layout() -> String {
    format!("{SCRIPT}\n-- The next release.\n")
}

/// A release that stores something new, and upgrades what it finds.
fn next_layout() -> String {
    let mut script = SCRIPT.to_owned();
    for (old, new) in [
        ("local LAYOUT = 2", "local LAYOUT = 3"),
        (
            "then c.v, cold = LAYOUT, true end\n",
            "then c.v, cold, c.novel = LAYOUT, true, 'of the next release' end\n",
        ),
    ] {
        assert_eq!(script.matches(old).count(), 1, "the script must hold {old:?} once");
        script = script.replace(old, new);
    }
    script
}

fn id() -> ServiceId {
    ServiceId::parse("shop/inventory").unwrap()
}

fn store(server: &RedisServer, script: &str) -> RedisStore {
    let settings = RedisSettings {
        timeout: Duration::from_secs(5),
        ..RedisSettings::new(&server.url())
    };
    RedisStore::with_script(settings, script, None).unwrap()
}

fn programme() -> Programme {
    Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy {
            consecutive_failures: 3,
            failure_rate_bp: 0,
            minimum_instances: 1,
            open_ms: 600_000,
            ..Policy::default()
        },
        forced: None,
    }
}

async fn raw(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// The breaker's configuration and state, field by field.
async fn dump(connection: &mut redis::aio::MultiplexedConnection) -> Vec<BTreeMap<String, Vec<u8>>> {
    let mut hashes = Vec::new();
    for suffix in ["config", "data"] {
        hashes.push(connection.hgetall(format!("cb:{}:{suffix}", id())).await.unwrap());
    }
    hashes
}

/// Whichever version decides, replies and stored state are the model's: nothing is counted twice, or not at all.
#[tokio::test]
async fn two_texts_of_one_layout_are_one_breaker() {
    let server = RedisServer::start().await;
    let next = same_layout();
    for seed in 1..=30 {
        if let Err(difference) = twin::run_versions(&server, &[SCRIPT, &next], seed, 250, &format!("v{seed}:")).await {
            panic!("{difference}");
        }
    }
}

#[tokio::test]
async fn an_older_script_leaves_a_newer_layout_alone() {
    let server = RedisServer::start().await;
    let (old, new) = (store(&server, SCRIPT), store(&server, &next_layout()));
    let request = |instance: &str| Exchange {
        instance: instance.to_owned(),
        boot: format!("{instance}b"),
        seed: true,
        ..Exchange::default()
    };
    old.configure(&id(), &programme()).await.unwrap();
    assert_eq!(old.exchange(&id(), &request("old")).await.unwrap().status, Status::Ok);
    // The upgrade keeps what it finds …
    let reply = new.exchange(&id(), &request("new")).await.unwrap();
    assert_eq!((reply.status, reply.view.unwrap().seq), (Status::Ok, 2));
    let mut connection = raw(&server).await;
    let stored = dump(&mut connection).await;
    // … and from then on the older one refuses.
    assert_eq!(
        old.exchange(&id(), &request("old")).await.unwrap().status,
        Status::Newer
    );
    let reset = old.reset(&id(), &Leader::default(), "r1").await;
    assert!(
        matches!(&reset, Err(StoreError::Refused(why) | StoreError::Protocol(why)) if why.contains("newer")),
        "{reset:?}"
    );
    assert_eq!(stored, dump(&mut connection).await, "an older script wrote");
    assert_eq!(
        old.snapshot(&id()).await.unwrap(),
        None,
        "what it cannot read it does not show"
    );
    // What it programs reaches the newer ones, whose state stays.
    let mut changed = programme();
    changed.policy.open_ms = 700_000;
    old.configure(&id(), &changed).await.unwrap();
    let reply = new.exchange(&id(), &request("new")).await.unwrap();
    assert_eq!(reply.view.unwrap().seq, 3);
    assert_eq!(reply.config.unwrap().config.policy.open_ms, 700_000);
    // The reset is still to be had.
    new.reset(&id(), &Leader::default(), "r1").await.unwrap();
    let core: Vec<u8> = connection.hget(format!("cb:{}:data", id()), "core").await.unwrap();
    assert!(String::from_utf8_lossy(&core).contains("of the next release"));
}

/// What a store of layout 1 holds.
fn layout_1() -> Vec<u8> {
    let digits: Vec<u8> = include_str!("corpus/core/live-4.hex")
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[tokio::test]
async fn the_state_of_layout_1_is_taken_over() {
    let server = RedisServer::start().await;
    let store = store(&server, SCRIPT);
    store.configure(&id(), &programme()).await.unwrap();
    let mut connection = raw(&server).await;
    let key = format!("cb:{}:data", id());
    let () = connection.hset(&key, "core", layout_1()).await.unwrap();
    let before = store.snapshot(&id()).await.unwrap().expect("what is stored is read");
    let request = Exchange {
        instance: "new".to_owned(),
        boot: "b".to_owned(),
        ..Exchange::default()
    };
    for decision in 1..=2 {
        let view = store.exchange(&id(), &request).await.unwrap().view.unwrap();
        assert_eq!(
            (view.generation, view.state, view.seq),
            (before.view.generation, before.view.state, before.view.seq + decision)
        );
    }
    let after = store.snapshot(&id()).await.unwrap().unwrap();
    assert_eq!(
        (after.transitions, after.last_trip),
        (before.transitions, before.last_trip)
    );
    assert!(connection.hexists::<_, _, bool>(&key, "hot").await.unwrap());
}

fn start(server: &RedisServer, script: &str, name: &str) -> (Breakers, Guard) {
    let breakers = Breakers::new(Arc::new(store(server, script)), Settings::new(name));
    let guard = breakers.guard(&id(), None);
    (breakers, guard)
}

/// Waits for the guards; meanwhile the stored circuit is open at every look.
async fn until(
    what: &str,
    connection: &mut redis::aio::MultiplexedConnection,
    open: bool,
    condition: impl Fn() -> bool,
) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(15), "never: {what}");
        let state: Option<String> = connection.get(format!("cb:{}:state", id())).await.unwrap();
        assert!(!open || state.as_deref() == Some("open"), "{what}: stored {state:?}");
        sleep(Duration::from_millis(10)).await;
    }
    println!("{what}: after {:?}", start.elapsed());
}

#[tokio::test]
async fn nobody_closes_an_open_circuit_while_half_of_the_fleet_is_upgraded() {
    let server = RedisServer::start().await;
    let mut connection = raw(&server).await;
    store(&server, SCRIPT).configure(&id(), &programme()).await.unwrap();
    let mut fleet: Vec<(Breakers, Guard)> = (0..4).map(|n| start(&server, SCRIPT, &format!("i{n}"))).collect();
    let all = |fleet: &[(Breakers, Guard)], state: State| {
        fleet
            .iter()
            .all(|(_, guard)| guard.status().state.as_str() == state.as_str())
    };
    until("all closed", &mut connection, false, || {
        all(&fleet, State::Closed) && fleet.iter().all(|(_, guard)| guard.status().revision > 0)
    })
    .await;
    let failing = fleet[0].1.clone();
    let caller = tokio::spawn(async move {
        loop {
            let _ = failing.call(|| async {}, |()| Verdict::Failure(Cause::Http(503))).await;
            sleep(Duration::from_millis(1)).await;
        }
    });
    until("all open", &mut connection, false, || all(&fleet, State::Open)).await;
    caller.abort();

    // Half of them are replaced; the other half finds what it cannot read, and goes on alone with what it knows.
    let next = next_layout();
    for (n, place) in fleet.iter_mut().enumerate().take(2) {
        *place = start(&server, &next, &format!("i{n}"));
    }
    until("the older half is degraded", &mut connection, true, || {
        fleet[2..].iter().all(|(_, guard)| guard.status().degraded)
    })
    .await;
    until("the newer half knows", &mut connection, true, || {
        all(&fleet, State::Open)
    })
    .await;
    for (_, guard) in &fleet {
        let rejected = guard.acquire().await.unwrap_err();
        assert_eq!(rejected.reason, RejectReason::Open);
        assert!(rejected.retry_after_ms.is_some_and(|ms| ms > 500_000), "{rejected:?}");
    }
    assert!(fleet[..2].iter().all(|(_, guard)| !guard.status().degraded));

    // Then the rest.
    for (n, place) in fleet.iter_mut().enumerate().skip(2) {
        *place = start(&server, &next, &format!("i{n}"));
    }
    until("all upgraded", &mut connection, true, || {
        all(&fleet, State::Open) && fleet.iter().all(|(_, guard)| !guard.status().degraded)
    })
    .await;
}

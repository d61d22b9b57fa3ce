//! What every store must do, shown on each: the memory store and a real redis-server. Time is the test's.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::RedisServer;
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::{Override, Policy, Window};
use tiebar::redis::{RedisSettings, RedisStore, SCRIPT};
use tiebar::state::{Kind, Reason, State};
use tiebar::store::{
    Acquire, Announcement, Batch, Beat, Exchange, Leader, Memory, Outcome, ProbeResult, Programme, Reply, Status,
    Store, Written,
};

const START: u64 = 1_764_000_000_000;

/// A store, its clock, and what instances and operators say to it.
struct Bench {
    store: Arc<dyn Store>,
    time: Arc<AtomicU64>,
    id: ServiceId,
}

impl Bench {
    fn pass(&self, ms: u64) {
        self.time.fetch_add(ms, Ordering::Relaxed);
    }

    async fn tell(&self, exchange: Exchange) -> Reply {
        self.store.exchange(&self.id, &exchange).await.unwrap()
    }

    async fn programme(&self, policy: Policy) -> Written {
        self.programme_as(&leader("cluster-a"), policy, None).await
    }

    async fn programme_as(&self, leader: &Leader, policy: Policy, forced: Option<Override>) -> Written {
        let programme = Programme {
            leader: leader.clone(),
            spec: "{\"mode\":\"Enforce\"}".to_owned(),
            policy,
            forced,
        };
        self.store.configure(&self.id, &programme).await.unwrap()
    }

    /// Programmed and seeded; the seed's generation.
    async fn ready(&self, policy: Policy) -> u64 {
        self.programme(policy).await;
        let seed = Exchange {
            seed: true,
            ..instance("i0")
        };
        generation(&self.tell(seed).await)
    }

    /// Tripped by three failures; the open state's generation.
    async fn opened(&self) -> u64 {
        let closed = self.ready(three_in_a_row()).await;
        let reply = self.tell(with_batch("i0", batch(1, closed, &[Kind::Failure; 3]))).await;
        assert_eq!(state(&reply), State::Open);
        generation(&reply)
    }

    /// Opened, waited, and granted `want` probes.
    async fn probing(&self, want: u64) -> Reply {
        self.opened().await;
        self.pass(10_000);
        self.tell(wish("i0", 1, want)).await
    }
}

fn leader(owner: &str) -> Leader {
    Leader {
        owner: owner.to_owned(),
        created: 5,
        transitions: 1,
    }
}

fn three_in_a_row() -> Policy {
    Policy {
        consecutive_failures: 3,
        failure_rate_bp: 0,
        minimum_instances: 1,
        open_ms: 10_000,
        open_max_ms: 10_000,
        permitted_calls: 2,
        half_open_ms: 5_000,
        call_timeout_ms: 1_000,
        ..Policy::default()
    }
}

fn instance(name: &str) -> Exchange {
    Exchange {
        instance: name.to_owned(),
        boot: format!("{name}-boot"),
        ..Exchange::default()
    }
}

fn batch(number: u64, generation: u64, kinds: &[Kind]) -> Batch {
    Batch {
        number,
        generation,
        outcomes: kinds.iter().map(|kind| Outcome { kind: *kind, cause: 0 }).collect(),
        causes: vec!["503".to_owned()],
        ..Batch::default()
    }
}

fn with_batch(name: &str, batch: Batch) -> Exchange {
    Exchange {
        batch: Some(batch),
        ..instance(name)
    }
}

fn wish(name: &str, token: u64, want: u64) -> Exchange {
    Exchange {
        acquire: Some(Acquire { token, want }),
        ..instance(name)
    }
}

fn probes(number: u64, generation: u64, leases: &[(u64, Kind)]) -> Exchange {
    let probes = leases
        .iter()
        .map(|(lease, kind)| ProbeResult {
            lease: *lease,
            kind: *kind,
            cause: 0,
        })
        .collect();
    let batch = Batch {
        probes,
        ..batch(number, generation, &[])
    };
    with_batch("i0", batch)
}

fn state(reply: &Reply) -> State {
    reply.view.as_ref().unwrap().state
}

fn generation(reply: &Reply) -> u64 {
    reply.view.as_ref().unwrap().generation
}

/// Each behaviour is a test of both stores.
macro_rules! on_every_store {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(&on_memory()).await; })*
        }
        mod redis {
            use super::*;
            $(#[tokio::test] async fn $behaviour() {
                let server = RedisServer::start().await;
                super::$behaviour(&on_redis(&server)).await;
            })*
        }
    };
}

fn on_memory() -> Bench {
    let time = Arc::new(AtomicU64::new(START));
    let clock = Arc::clone(&time);
    Bench {
        store: Arc::new(MemoryStore::with_clock(Arc::new(move || clock.load(Ordering::Relaxed)))),
        time,
        id: ServiceId::parse("shop/inventory").unwrap(),
    }
}

fn on_redis(server: &RedisServer) -> Bench {
    let time = Arc::new(AtomicU64::new(START));
    let clock = Arc::clone(&time);
    let settings = RedisSettings {
        timeout: Duration::from_secs(10),
        ..RedisSettings::new(&server.url())
    };
    let clock: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(move || clock.load(Ordering::Relaxed));
    Bench {
        store: Arc::new(RedisStore::with_script(settings, SCRIPT, Some(clock)).unwrap()),
        time,
        id: ServiceId::parse("shop/inventory").unwrap(),
    }
}

on_every_store!(
    without_configuration_it_says_so,
    only_the_silent_may_seed,
    a_configuration_reaches_who_does_not_have_it,
    the_threshold_trips_and_not_before,
    a_repeated_batch_counts_once,
    outcomes_of_another_generation_change_nothing,
    open_lasts_its_duration,
    no_more_probes_than_permitted,
    a_repeated_wish_gets_the_same_leases,
    passed_probes_close,
    a_failed_probe_opens_again,
    an_expired_lease_frees_its_slot_and_its_outcome_is_late,
    a_lost_open_state_comes_back_open,
    an_override_lapses_by_the_store_s_clock,
    a_reset_happens_once,
    a_tombstone_leaves_nothing_to_restore,
    a_foreign_owner_is_refused_until_silent,
    an_older_leader_is_refused,
    the_same_configuration_keeps_its_revision,
    history_is_kept_newest_first,
    the_channel_tells_of_transitions_and_revisions,
    instances_are_known_until_they_say_goodbye,
    the_snapshot_says_what_is,
    a_survey_says_of_each_what_questions_one_by_one_say,
    a_window_of_time_forgets,
    a_window_of_calls_holds_so_many,
    a_full_breaker_refuses_further_instances,
    a_busy_breaker_advises_pauses,
    what_an_instance_says_of_itself_holds_for_so_long,
    a_run_waits_for_whoever_is_not_in_it,
);

async fn without_configuration_it_says_so(bench: &Bench) {
    assert_eq!(bench.tell(instance("i0")).await.status, Status::Unconfigured);
    assert_eq!(bench.store.config(&bench.id).await.unwrap(), None);
    assert_eq!(bench.store.snapshot(&bench.id).await.unwrap(), None);
    assert_eq!(bench.store.now().await.unwrap(), START);
}

async fn only_the_silent_may_seed(bench: &Bench) {
    bench.programme(three_in_a_row()).await;
    assert_eq!(bench.tell(instance("i0")).await.status, Status::Missing);
    let seeded = bench
        .tell(Exchange {
            seed: true,
            ..instance("i0")
        })
        .await;
    assert_eq!((state(&seeded), generation(&seeded)), (State::Closed, 0));
    assert_eq!(seeded.caused, [(None, State::Closed, Reason::Seeded)]);
    assert_eq!(bench.tell(instance("i1")).await.caused, []);
}

async fn a_configuration_reaches_who_does_not_have_it(bench: &Bench) {
    bench.ready(three_in_a_row()).await;
    let first = bench.tell(instance("i1")).await.config.expect("a configuration");
    assert_eq!(first.config.policy, three_in_a_row());
    let carrying = Exchange {
        carried: Some(first.config),
        ..instance("i1")
    };
    assert_eq!(bench.tell(carrying).await.config, None);
}

async fn the_threshold_trips_and_not_before(bench: &Bench) {
    let closed = bench.ready(three_in_a_row()).await;
    let two = bench
        .tell(with_batch("i0", batch(1, closed, &[Kind::Failure; 2])))
        .await;
    assert_eq!((state(&two), two.headroom, two.failing), (State::Closed, Some(0), 2));
    let third = bench.tell(with_batch("i1", batch(1, closed, &[Kind::Failure]))).await;
    assert_eq!(
        third.caused,
        [(Some(State::Closed), State::Open, Reason::ConsecutiveFailures)]
    );
    assert!(generation(&third) > closed);
}

async fn a_repeated_batch_counts_once(bench: &Bench) {
    let closed = bench.ready(three_in_a_row()).await;
    let twice = with_batch("i0", batch(1, closed, &[Kind::Failure; 2]));
    assert_eq!(bench.tell(twice.clone()).await.applied, 2);
    let again = bench.tell(twice).await;
    assert_eq!((again.applied, again.failing, state(&again)), (0, 2, State::Closed));
}

async fn outcomes_of_another_generation_change_nothing(bench: &Bench) {
    let open = bench.opened().await;
    let late = bench.tell(with_batch("i1", batch(1, 0, &[Kind::Success; 4]))).await;
    assert_eq!((late.applied, late.late, generation(&late)), (0, 4, open));
}

async fn open_lasts_its_duration(bench: &Bench) {
    bench.opened().await;
    bench.pass(9_999);
    let early = bench.tell(wish("i0", 1, 1)).await;
    assert_eq!((state(&early), early.granted.1, early.retry_ms), (State::Open, 0, 1));
    bench.pass(1);
    let due = bench.tell(wish("i0", 2, 1)).await;
    assert_eq!((state(&due), due.granted.1), (State::HalfOpen, 1));
}

async fn no_more_probes_than_permitted(bench: &Bench) {
    assert_eq!(bench.probing(50).await.granted.1, 2);
    let refused = bench.tell(wish("i1", 1, 50)).await;
    assert_eq!((refused.granted.1, refused.retry_ms), (0, 500));
}

async fn a_repeated_wish_gets_the_same_leases(bench: &Bench) {
    let first = bench.probing(1).await;
    let again = bench.tell(wish("i0", 1, 1)).await;
    assert_eq!(again.granted, first.granted);
    assert_eq!(bench.tell(wish("i0", 2, 9)).await.granted.1, 1);
}

async fn passed_probes_close(bench: &Bench) {
    let granted = bench.probing(2).await;
    let (first, generation) = (granted.granted.0, generation(&granted));
    let half = bench.tell(probes(2, generation, &[(first, Kind::Success)])).await;
    assert_eq!(state(&half), State::HalfOpen);
    let closed = bench.tell(probes(3, generation, &[(first + 1, Kind::Success)])).await;
    assert_eq!((state(&closed), closed.calls), (State::Closed, 0));
    assert_eq!(
        closed.caused,
        [(Some(State::HalfOpen), State::Closed, Reason::ProbesSucceeded)]
    );
}

async fn a_failed_probe_opens_again(bench: &Bench) {
    let granted = bench.probing(2).await;
    let failed = [(granted.granted.0, Kind::Failure)];
    let reply = bench.tell(probes(2, generation(&granted), &failed)).await;
    assert_eq!((state(&reply), reply.view.as_ref().unwrap().round), (State::Open, 2));
}

async fn an_expired_lease_frees_its_slot_and_its_outcome_is_late(bench: &Bench) {
    let granted = bench.probing(2).await;
    // The call's timeout and a second.
    bench.pass(2_000);
    let late = bench
        .tell(probes(2, generation(&granted), &[(granted.granted.0, Kind::Failure)]))
        .await;
    assert_eq!((late.applied, late.late, state(&late)), (0, 1, State::HalfOpen));
    assert_eq!(bench.tell(wish("i1", 1, 9)).await.granted.1, 2);
}

async fn a_lost_open_state_comes_back_open(bench: &Bench) {
    bench.programme(three_in_a_row()).await;
    let memory = Memory {
        generation: START + 7,
        state: State::Open.code(),
        remaining_ms: 4_000,
        round: 2,
        streak: 2,
        last_open_ms: 10_000,
        lease_remaining_ms: 0,
    };
    let restored = bench
        .tell(Exchange {
            memory: Some(memory.clone()),
            ..instance("i0")
        })
        .await;
    let view = restored.view.unwrap();
    assert_eq!(
        (view.state, view.remaining_ms, view.generation),
        (State::Open, 4_000, START + 8)
    );
    assert_eq!(restored.caused, [(None, State::Open, Reason::Reseeded)]);
}

async fn an_override_lapses_by_the_store_s_clock(bench: &Bench) {
    bench.ready(three_in_a_row()).await;
    let forced = Override {
        open: true,
        expires_at: START + 5_000,
    };
    bench
        .programme_as(&leader("cluster-a"), three_in_a_row(), Some(forced))
        .await;
    assert_eq!(state(&bench.tell(instance("i0")).await), State::ForcedOpen);
    bench.pass(4_999);
    assert_eq!(state(&bench.tell(instance("i0")).await), State::ForcedOpen);
    bench.pass(1);
    let lapsed = bench.tell(instance("i0")).await;
    assert_eq!((state(&lapsed), lapsed.view.unwrap().remaining_ms), (State::Open, 0));
}

async fn a_reset_happens_once(bench: &Bench) {
    bench.opened().await;
    let leader = leader("cluster-a");
    let written = bench
        .store
        .reset(&bench.id, &leader, "2026-11-01T12:00:00Z")
        .await
        .unwrap();
    assert!(matches!(written, Written::Changed(_)));
    let closed = bench.tell(instance("i0")).await;
    assert_eq!(state(&closed), State::Closed);
    let failures = with_batch("i0", batch(2, generation(&closed), &[Kind::Failure; 3]));
    assert_eq!(state(&bench.tell(failures).await), State::Open);
    let again = bench
        .store
        .reset(&bench.id, &leader, "2026-11-01T12:00:00Z")
        .await
        .unwrap();
    assert!(matches!(again, Written::Unchanged(_)));
    assert_eq!(state(&bench.tell(instance("i0")).await), State::Open);
}

async fn a_tombstone_leaves_nothing_to_restore(bench: &Bench) {
    let open = bench.opened().await;
    bench.store.tombstone(&bench.id, &leader("cluster-a")).await.unwrap();
    let reply = bench.tell(instance("i0")).await;
    assert_eq!(reply.status, Status::Unconfigured);
    assert!(reply.floor >= open);
    assert_eq!(bench.store.snapshot(&bench.id).await.unwrap(), None);
    assert_eq!(bench.store.ids().await.unwrap(), []);
    // Programmed again: what was remembered from before is void.
    bench.programme(three_in_a_row()).await;
    let memory = Memory {
        generation: open,
        state: State::Open.code(),
        remaining_ms: 9_000,
        ..Memory::default()
    };
    let reply = bench
        .tell(Exchange {
            memory: Some(memory.clone()),
            ..instance("i0")
        })
        .await;
    assert_eq!(reply.status, Status::Missing);
}

async fn a_foreign_owner_is_refused_until_silent(bench: &Bench) {
    bench.programme(three_in_a_row()).await;
    let foreign = leader("cluster-b");
    let refused = bench.programme_as(&foreign, Policy::default(), None).await;
    assert_eq!(refused, Written::OwnedElsewhere("cluster-a".to_owned()));
    bench.pass(599_999);
    let refused = bench.programme_as(&foreign, Policy::default(), None).await;
    assert_eq!(refused, Written::OwnedElsewhere("cluster-a".to_owned()));
    bench.pass(1);
    let taken = bench.programme_as(&foreign, Policy::default(), None).await;
    assert!(matches!(taken, Written::Changed(_)));
    assert_eq!(bench.store.config(&bench.id).await.unwrap().unwrap().leader, foreign);
}

async fn an_older_leader_is_refused(bench: &Bench) {
    bench.programme(three_in_a_row()).await;
    for older in [
        Leader {
            transitions: 0,
            ..leader("cluster-a")
        },
        Leader {
            created: 4,
            transitions: 9,
            ..leader("cluster-a")
        },
    ] {
        let refused = bench.programme_as(&older, Policy::default(), None).await;
        assert_eq!(refused, Written::Superseded, "{older:?}");
    }
}

async fn the_same_configuration_keeps_its_revision(bench: &Bench) {
    let Written::Changed(revision) = bench.programme(three_in_a_row()).await else {
        panic!("the first write changes")
    };
    bench.pass(1_000);
    assert_eq!(bench.programme(three_in_a_row()).await, Written::Unchanged(revision));
    let stored = bench.store.config(&bench.id).await.unwrap().unwrap();
    assert_eq!(stored.owner_seen_at, START + 1_000);
    let changed = bench.programme(Policy::default()).await;
    assert!(matches!(changed, Written::Changed(newer) if newer > revision));
}

async fn history_is_kept_newest_first(bench: &Bench) {
    let open = bench.opened().await;
    let events = bench.store.events(&bench.id, 10).await.unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.generation, e.from, e.to, e.reason)).collect();
    assert_eq!(
        told,
        [
            (open, Some(State::Closed), State::Open, Reason::ConsecutiveFailures),
            (0, None, State::Closed, Reason::Seeded)
        ]
    );
    assert_eq!((events[0].instance.as_str(), events[0].at), ("i0", START));
    assert!(events[0].snapshot.contains("[\"503\",3]"), "{}", events[0].snapshot);
    assert_eq!(bench.store.events(&bench.id, 1).await.unwrap().len(), 1);
}

async fn the_channel_tells_of_transitions_and_revisions(bench: &Bench) {
    let mut news = bench.store.subscribe();
    bench.programme(three_in_a_row()).await;
    // Which also is when the subscription certainly holds.
    let revision = Announcement::Revision(bench.id.clone());
    let mut told = Vec::new();
    while !told.contains(&revision) {
        let next = tokio::time::timeout(Duration::from_secs(10), news.recv());
        match next.await {
            Ok(next) => told.push(next.unwrap()),
            Err(_) => panic!("never told of the revision: {told:?}"),
        }
        if told.last() == Some(&Announcement::Gap) {
            bench.programme(Policy::default()).await;
        }
    }
    bench.programme(three_in_a_row()).await;
    let open = bench.opened().await;
    let is_open = |news: &Announcement| {
        matches!(news, Announcement::Transition(id, view)
            if *id == bench.id && view.generation == open && view.state == State::Open)
    };
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), news.recv()).await;
        if is_open(&next.expect("told of the trip").unwrap()) {
            return;
        }
    }
}

async fn instances_are_known_until_they_say_goodbye(bench: &Bench) {
    let beat = |name: &str| Beat {
        instance: name.to_owned(),
        boot: "b".to_owned(),
        state: "closed".to_owned(),
        calls: 12,
        ..Beat::default()
    };
    let beats = [(bench.id.clone(), beat("i0")), (bench.id.clone(), beat("i1"))];
    bench.store.beat(&beats).await.unwrap();
    let known = bench.store.instances(&bench.id).await.unwrap();
    let names: Vec<_> = known
        .iter()
        .map(|beat| (beat.instance.as_str(), beat.calls, beat.seen_at))
        .collect();
    assert_eq!(names, [("i0", 12, START), ("i1", 12, START)]);
    bench
        .store
        .goodbye(std::slice::from_ref(&bench.id), "i0")
        .await
        .unwrap();
    assert_eq!(bench.store.instances(&bench.id).await.unwrap().len(), 1);
}

async fn the_snapshot_says_what_is(bench: &Bench) {
    let open = bench.opened().await;
    bench.pass(1_000);
    let snapshot = bench.store.snapshot(&bench.id).await.unwrap().unwrap();
    assert_eq!((snapshot.view.generation, snapshot.view.state), (open, State::Open));
    assert_eq!((snapshot.since, snapshot.open_until), (START, START + 10_000));
    assert_eq!((snapshot.previous, snapshot.now), (Some(State::Closed), START + 1_000));
    assert!(snapshot.last_trip.contains("\"failures\":3"), "{}", snapshot.last_trip);
    assert_eq!(bench.store.ids().await.unwrap(), std::slice::from_ref(&bench.id));
}

/// More than one pipeline holds and more than a thousand, one buried, one never heard of, asked for in no order.
async fn a_survey_says_of_each_what_questions_one_by_one_say(bench: &Bench) {
    const MANY: usize = 1_050;
    let store = &bench.store;
    let open = bench.opened().await;
    let beat = |name: &str| Beat {
        instance: name.to_owned(),
        boot: "b".to_owned(),
        state: "open".to_owned(),
        generation: open,
        ..Beat::default()
    };
    let beats = [(bench.id.clone(), beat("i0")), (bench.id.clone(), beat("i1"))];
    store.beat(&beats).await.unwrap();
    let mut ids: Vec<ServiceId> = (0..MANY)
        .map(|n| ServiceId::parse(&format!("fleet/service-{n}")).unwrap())
        .collect();
    for (n, id) in ids.iter().enumerate() {
        let programme = Programme {
            leader: leader("cluster-a"),
            spec: format!("{{\"serviceName\":\"service-{n}\"}}"),
            policy: three_in_a_row(),
            forced: None,
        };
        store.configure(id, &programme).await.unwrap();
    }
    let buried = ids[MANY / 2].clone();
    store.tombstone(&buried, &leader("cluster-a")).await.unwrap();
    ids.reverse();
    ids.insert(7, bench.id.clone());
    ids.insert(MANY - 7, ServiceId::parse("fleet/never-heard-of").unwrap());

    let surveys = store.survey(&ids).await.unwrap();
    assert_eq!(surveys.len(), ids.len());
    let mut programmed = 0;
    for (id, survey) in ids.iter().zip(surveys) {
        let survey = survey.unwrap();
        assert_eq!(survey.config, store.config(id).await.unwrap(), "{id}");
        assert_eq!(survey.snapshot, store.snapshot(id).await.unwrap(), "{id}");
        assert_eq!(survey.beats, store.instances(id).await.unwrap(), "{id}");
        let config = survey.config.and_then(|config| config.programmed);
        programmed += usize::from(config.is_some());
        if *id == bench.id {
            assert_eq!(survey.beats.len(), 2);
            assert_eq!(survey.snapshot.map(|snapshot| snapshot.view.state), Some(State::Open));
        } else if let Some(config) = config {
            let name = id.as_str().trim_start_matches("fleet/");
            assert!(config.spec.contains(&format!("\"{name}\"")), "{id}: {}", config.spec);
        }
    }
    // All but the buried and the unknown one; and whoever asks for none is told of none.
    assert_eq!(programmed, ids.len() - 2);
    assert_eq!(store.ids().await.unwrap().len(), programmed);
    assert!(store.survey(&[]).await.unwrap().is_empty());
}

async fn a_window_of_time_forgets(bench: &Bench) {
    let policy = Policy {
        consecutive_failures: 0,
        failure_rate_bp: 5_000,
        minimum_calls: 4,
        window: Window::Time(10_000),
        ..three_in_a_row()
    };
    let closed = bench.ready(policy).await;
    let three = bench
        .tell(with_batch("i0", batch(1, closed, &[Kind::Failure; 3])))
        .await;
    assert_eq!((state(&three), three.calls), (State::Closed, 3));
    bench.pass(10_000);
    let fourth = bench.tell(with_batch("i0", batch(2, closed, &[Kind::Failure]))).await;
    assert_eq!((state(&fourth), fourth.calls), (State::Closed, 1));
}

async fn a_window_of_calls_holds_so_many(bench: &Bench) {
    let policy = Policy {
        consecutive_failures: 0,
        failure_rate_bp: 5_000,
        minimum_calls: 4,
        window: Window::Count(4),
        ..three_in_a_row()
    };
    let closed = bench.ready(policy).await;
    let mixed = [Kind::Failure, Kind::Success, Kind::Success, Kind::Success];
    let reply = bench.tell(with_batch("i0", batch(1, closed, &mixed))).await;
    assert_eq!((state(&reply), reply.calls, reply.failing), (State::Closed, 4, 1));
    // The first failure leaves as the next arrives.
    let reply = bench.tell(with_batch("i0", batch(2, closed, &[Kind::Failure]))).await;
    assert_eq!((state(&reply), reply.calls, reply.failing), (State::Closed, 4, 1));
    let reply = bench.tell(with_batch("i0", batch(3, closed, &[Kind::Failure]))).await;
    assert_eq!(state(&reply), State::Open);
}

/// More than half of the active instances open alone: the circuit opens. To the millisecond.
async fn what_an_instance_says_of_itself_holds_for_so_long(bench: &Bench) {
    let policy = Policy {
        minimum_instances: 2,
        window: Window::Time(10_000),
        ..Policy::default()
    };
    let alone = |name: &str, memory: &Memory| Exchange {
        isolated: true,
        memory: Some(memory.clone()),
        ..instance(name)
    };
    // A circuit for each case: i1 does something, `passed` ms go by, i0 makes a call, and `last` say that they are open alone.
    let case = async |id: &str, rejects: bool, passed: u64, last: &[&str]| {
        let bench = Bench {
            store: Arc::clone(&bench.store),
            time: Arc::clone(&bench.time),
            id: ServiceId::parse(id).unwrap(),
        };
        let closed = bench.ready(policy.clone()).await;
        let call = |number| with_batch("i0", batch(number, closed, &[Kind::Success]));
        let memory = bench.tell(call(1)).await.view.unwrap().memory();
        let rejected = Batch {
            rejected: 1,
            ..batch(1, closed, &[])
        };
        bench
            .tell(if rejects {
                with_batch("i1", rejected)
            } else {
                alone("i1", &memory)
            })
            .await;
        bench.pass(passed);
        let mut reply = bench.tell(call(2)).await;
        for name in last {
            assert_eq!(state(&reply), State::Closed, "{id}: no more than half yet");
            reply = bench.tell(alone(name, &memory)).await;
        }
        let view = reply.view.unwrap();
        (view.state, view.reason)
    };
    let (open, closed) = (
        (State::Open, Reason::InstancesIsolated),
        (State::Closed, Reason::Seeded),
    );
    // i1 and i2 of three; or i2 of two, i1 having been silent for too long.
    assert_eq!(case("isolated-lately", false, 4_999, &["i2"]).await, open);
    assert_eq!(case("isolated-long-ago", false, 5_000, &["i2"]).await, closed);
    // Whoever rejects is active as long as the window is: i2 and i3 of four; or of three.
    assert_eq!(case("rejects-lately", true, 9_999, &["i2", "i3"]).await, closed);
    assert_eq!(case("rejected-long-ago", true, 10_000, &["i2", "i3"]).await, open);
}

/// Where a run takes two instances, more failures of the one that is in it change nothing; the first of another trips.
async fn a_run_waits_for_whoever_is_not_in_it(bench: &Bench) {
    let policy = Policy {
        minimum_instances: 2,
        ..three_in_a_row()
    };
    let closed = bench.ready(policy).await;
    bench.tell(with_batch("i1", batch(1, closed, &[Kind::Success]))).await;
    let reply = bench
        .tell(with_batch("i0", batch(1, closed, &[Kind::Failure; 3])))
        .await;
    assert_eq!((state(&reply), reply.headroom), (State::Closed, None));
    assert!(reply.headroom_ms > 0, "as long as the run lasts");
    let reply = bench.tell(instance("i1")).await;
    assert_eq!((state(&reply), reply.headroom), (State::Closed, Some(0)));
    let reply = bench.tell(with_batch("i1", batch(2, closed, &[Kind::Failure]))).await;
    assert_eq!(state(&reply), State::Open);
}

async fn a_busy_breaker_advises_pauses(bench: &Bench) {
    let advised = async |decisions: u64, instances: u64| {
        let mut last = 0;
        for n in 0..decisions {
            last = bench.tell(instance(&format!("i{}", n % instances))).await.interval_ms;
        }
        last
    };
    bench.ready(three_in_a_row()).await;
    // What a second was like is known in the next.
    bench.pass(1_000);
    assert_eq!(advised(100, 3).await, 0);
    bench.pass(1_000);
    assert_eq!(advised(101, 3).await, 0, "a hundred a second is not busy");
    bench.pass(1_000);
    assert_eq!(advised(1, 3).await, 6, "2 ms for each of three");
    bench.pass(1_000);
    assert_eq!(advised(1, 3).await, 0, "quiet again");
    assert_eq!(advised(99, 100).await, 0);
    bench.pass(1_000);
    assert_eq!(advised(100, 100).await, 0, "nor are a hundred instances");
    bench.pass(1_000);
    // More instances than that are busy by themselves, also in the second after one in which all were silent.
    assert_eq!(advised(101, 101).await, 202);
    bench.pass(2_000);
    assert_eq!(advised(1, 101).await, 202);
}

async fn a_full_breaker_refuses_further_instances(bench: &Bench) {
    bench.ready(three_in_a_row()).await;
    for n in 1..tiebar::store::MAX_INSTANCES {
        assert_eq!(bench.tell(instance(&format!("i{n}"))).await.status, Status::Ok);
    }
    assert_eq!(bench.tell(instance("one-more")).await.status, Status::Full);
    assert_eq!(bench.tell(instance("i7")).await.status, Status::Ok);
}

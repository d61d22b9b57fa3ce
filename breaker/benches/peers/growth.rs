//! What a growing fleet asks of the store at constant load: real guards on a real Redis as far as one machine bears, then
//! the same guards over the memory store in paused time.

use crate::report::Row;
use crate::shared::fleet;
use crate::store::spent;
use crate::support::RedisServer;
use std::sync::Arc;
use std::time::Duration;
use tiebar::guard::{Breakers, Guard, Settings, Verdict};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::Policy;
use tiebar::store::{Leader, Programme, Store as _};
use tokio::time::{Instant, interval};

/// Calls per second over all instances.
const LOAD: usize = 2_000;
/// What a breaker may ask of the store.
const MOST: f64 = 500.0;
const MEASURED: Duration = Duration::from_secs(5);

/// Spreads the load over the guards for so long, each in its turn.
async fn load(guards: &[Guard], lasts: Duration, calls_per_second: usize) {
    // Timers have a resolution of a millisecond.
    let mut tick = interval(Duration::from_millis(1));
    let end = Instant::now() + lasts;
    let (mut owed, mut next) = (0, 0);
    while Instant::now() < end {
        tick.tick().await;
        owed += calls_per_second;
        while owed >= 1_000 {
            owed -= 1_000;
            next += 1;
            if let Ok(permit) = guards[next % guards.len()].acquire().await {
                permit.record(Verdict::Success);
            }
        }
    }
}

fn row(measure: String, calls: f64) -> Row {
    Row::alone(&measure, format!("{calls:.0}"), "≤ 500", Some(calls <= MOST))
}

/// Calls on a real store.
pub(crate) async fn real(server: &RedisServer) -> Vec<Row> {
    let client = redis::Client::open(format!("unix://{}", server.socket())).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let mut rows = Vec::new();
    for instances in [3, 30, 100] {
        let members = fleet(server, &format!("growth-{instances}"), instances, Policy::default()).await;
        let guards: Vec<Guard> = members.iter().map(|(_, guard)| guard.clone()).collect();
        load(&guards, Duration::from_secs(2), LOAD).await;
        let before = spent(&mut connection).await.1;
        load(&guards, MEASURED, LOAD).await;
        let calls = (spent(&mut connection).await.1 - before) as f64 / MEASURED.as_secs_f64();
        rows.push(row(
            format!("store calls/s of one breaker at {LOAD} calls/s, {instances} instances"),
            calls,
        ));
    }
    rows
}

/// A memory store on the runtime's clock, with these breakers.
async fn store(ids: &[ServiceId]) -> Arc<MemoryStore> {
    let epoch = Instant::now();
    let store = Arc::new(MemoryStore::with_clock(Arc::new(move || {
        1_800_000_000_000 + epoch.elapsed().as_millis() as u64
    })));
    for id in ids {
        let programme = Programme {
            leader: Leader::default(),
            spec: "{}".to_owned(),
            policy: Policy::default(),
            forced: None,
        };
        store.configure(id, &programme).await.expect("configured");
    }
    store
}

/// Decisions so far.
async fn decisions(store: &MemoryStore, ids: &[ServiceId]) -> u64 {
    let mut all = 0;
    for id in ids {
        all += store
            .snapshot(id)
            .await
            .expect("answers")
            .map_or(0, |snapshot| snapshot.view.seq);
    }
    all
}

async fn simulate(instances: usize, breakers: usize, calls_per_second: usize) -> f64 {
    let ids: Vec<ServiceId> = (0..breakers)
        .map(|n| ServiceId::parse(&format!("s{n}")).expect("an id"))
        .collect();
    let store = store(&ids).await;
    let members: Vec<Breakers> = (0..instances)
        .map(|n| {
            let settings = Settings {
                boot: format!("boot{n}"),
                ..Settings::new(&format!("i{n}"))
            };
            Breakers::new(Arc::clone(&store) as Arc<_>, settings)
        })
        .collect();
    let guards: Vec<Guard> = ids
        .iter()
        .flat_map(|id| members.iter().map(move |member| member.guard(id, None)))
        .collect();
    load(&guards, Duration::from_secs(6), calls_per_second).await;
    let before = decisions(&store, &ids).await;
    load(&guards, MEASURED, calls_per_second).await;
    (decisions(&store, &ids).await - before) as f64 / MEASURED.as_secs_f64()
}

/// Calls on a simulated store.
pub(crate) fn simulated() -> Vec<Row> {
    let run = |instances, breakers, calls_per_second| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(simulate(instances, breakers, calls_per_second))
    };
    let mut rows = Vec::new();
    for instances in [3, 30, 100, 300, 1_000] {
        rows.push(row(
            format!("store calls/s of one breaker at {LOAD} calls/s, {instances} instances, simulated"),
            run(instances, 1, LOAD),
        ));
    }
    let one = run(3, 1, 30);
    for breakers in [10, 100, 1_000] {
        let each = run(3, breakers, 30 * breakers) / breakers as f64;
        rows.push(Row {
            measure: format!(
                "store calls/s per breaker, {breakers} breakers of 3 instances at 30 calls/s each, simulated"
            ),
            ours: format!("{each:.1}"),
            peer: format!("{one:.1} of one alone"),
            ratio: Some(each / one),
            target: "flat".to_owned(),
            held: Some((0.9..=1.1).contains(&(each / one))),
        });
    }
    rows
}

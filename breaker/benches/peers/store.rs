//! What a decision costs the server: CPU time per script by its own books, and memory per breaker.

use crate::report::Row;
use crate::support::RedisServer;
use redis::AsyncCommands as _;
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Kind;
use tiebar::store::{Batch, Exchange, Leader, Outcome, Programme, Store as _};

/// Decisions per size.
const DECISIONS: u64 = 2_000;

fn outcomes(size: usize) -> Vec<Outcome> {
    // One in ten fails: below every threshold, above nothing.
    (0..size)
        .map(|n| Outcome {
            kind: if n % 10 == 9 { Kind::Failure } else { Kind::Success },
            cause: 0,
        })
        .collect()
}

/// Microseconds of server time spent in functions so far, and their number.
pub(crate) async fn spent(connection: &mut redis::aio::MultiplexedConnection) -> (u64, u64) {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(connection)
        .await
        .expect("INFO");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_fcall:"))
        .expect("functions were called");
    let field = |name: &str| {
        line.split(',')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            .and_then(|number| number.parse().ok())
            .expect("a number")
    };
    (field("usec"), field("calls"))
}

/// The rows of this group.
pub(crate) async fn rows(server: &RedisServer) -> Vec<Row> {
    let client = redis::Client::open(format!("unix://{}", server.socket())).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let store = RedisStore::new(RedisSettings::new(&server.url())).expect("a store");
    let id = ServiceId::parse("shop/inventory").expect("an id");
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy::default(),
        forced: None,
    };
    store.configure(&id, &programme).await.expect("configured");
    let mut request = Exchange {
        instance: "bench".to_owned(),
        boot: "boot".to_owned(),
        seed: true,
        ..Exchange::default()
    };
    let reply = store.exchange(&id, &request).await.expect("seeded");
    request.carried = reply.config.map(|programmed| programmed.config);
    let mut rows = Vec::new();
    let mut number = 0;
    for (size, target) in [(1, Some(15.0)), (16, None), (64, Some(40.0))] {
        let before = spent(&mut connection).await;
        for _ in 0..DECISIONS {
            number += 1;
            request.batch = Some(Batch {
                number,
                generation: 0,
                outcomes: outcomes(size),
                causes: vec!["503".to_owned()],
                ..Batch::default()
            });
            store.exchange(&id, &request).await.expect("a decision");
        }
        let after = spent(&mut connection).await;
        let each = (after.0 - before.0) as f64 / (after.1 - before.1) as f64;
        rows.push(Row::alone(
            &format!("record script, {size} outcomes, server CPU"),
            format!("{each:.1} µs"),
            &target.map_or_else(String::new, |target| format!("≤ {target} µs")),
            target.map(|target| each <= target),
        ));
    }
    let mut bytes = 0;
    for suffix in ["state", "failures", "last_failure", "config", "data"] {
        let key = format!("cb:shop/inventory:{suffix}");
        if connection.exists(&key).await.expect("a reply") {
            let usage: u64 = redis::cmd("MEMORY")
                .arg(&["USAGE", &key])
                .query_async(&mut connection)
                .await
                .expect("a number");
            bytes += usage;
        }
    }
    rows.push(Row::alone(
        "Redis memory of a breaker with one instance",
        format!("{bytes} B"),
        "≤ 2048 B without instances",
        Some(bytes <= 2_048),
    ));
    rows
}

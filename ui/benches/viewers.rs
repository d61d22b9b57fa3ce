//! 1,000 breakers, 200 live viewers, 50 changes a second: how long a list takes, when a change arrives, what it costs.
//!
//! The dashboard is a process of its own over a redis-server, and only its own cost is counted; changes come from here by
//! the requests that instances send, and the viewers read every line. Prints a table and writes `target/bench-ui.json`.
//! `TIEBAR_BENCH_SECONDS` says how long it measures; default 20.

use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tests::{Process, RedisServer, eventually, holds};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::state::Kind;
use tiebar::store::{Batch, Exchange, Leader, Outcome, Programme, Store as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const BREAKERS: usize = 1_000;
const VIEWERS: usize = 200;
const CHANGES_PER_SECOND: u32 = 50;
/// Between two lists asked for while viewers look on.
const LIST_PAUSE: Duration = Duration::from_millis(200);
/// Failures that open a breaker whatever it saw before.
const ENOUGH: usize = 64;

/// What the viewers note.
#[derive(Default)]
struct Notes {
    messages: AtomicU64,
    bytes: AtomicU64,
    /// The breaker that opened last, and when.
    tripped: Mutex<Option<(String, Instant)>>,
    /// How long that took to each viewer who sees it.
    delays: Mutex<Vec<Duration>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processor time of a process, from the kernel's clock ticks (100 a second).
fn cpu(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields = after.split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// The most memory a process had, megabytes.
fn peak_mb(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1_024
}

fn id(number: usize) -> ServiceId {
    ServiceId::parse(&format!("team-{}/service-{number}", number % 20)).expect("a service id")
}

/// Reports outcomes of one kind, which is a change of what is shown.
async fn report(store: &RedisStore, number: usize, batch: u64, kind: Kind, count: usize) {
    let mut request = Exchange {
        instance: "one".to_owned(),
        boot: "1".to_owned(),
        seed: true,
        ..Exchange::default()
    };
    let id = id(number);
    let reply = store.exchange(&id, &request).await.expect("answers");
    request.batch = Some(Batch {
        number: batch,
        generation: reply.view.expect("a view").generation,
        outcomes: vec![Outcome { kind, cause: 0 }; count],
        causes: vec!["503".to_owned()],
        ..Batch::default()
    });
    store.exchange(&id, &request).await.expect("answers");
}

/// Programmes all breakers and lets each see one call.
async fn programme(store: &RedisStore) {
    let programme = Programme {
        leader: Leader {
            owner: "bench".to_owned(),
            ..Leader::default()
        },
        spec: "{}".to_owned(),
        policy: Policy::default(),
        forced: None,
    };
    for number in 0..BREAKERS {
        store.configure(&id(number), &programme).await.expect("answers");
        report(store, number, 1, Kind::Success, 1).await;
    }
}

/// The first page of the list, compressed as browsers ask for it: how long it took, and its size.
async fn list(address: &str) -> (Duration, usize) {
    let start = Instant::now();
    let mut socket = TcpStream::connect(address).await.expect("connects");
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut page = Vec::new();
    socket.read_to_end(&mut page).await.expect("reads");
    (start.elapsed(), page.len())
}

/// One viewer: every other one looks at the whole fleet, the others each at a namespace.
async fn view(address: String, viewer: usize, notes: Arc<Notes>) {
    let namespace = match viewer % 2 {
        0 => String::new(),
        _ => format!("&ns=team-{}", viewer % 20),
    };
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET /events?view=list{namespace} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut lines = BufReader::new(socket).lines();
    let mut seen = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        notes.bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
        if !line.starts_with("data:") {
            continue;
        }
        notes.messages.fetch_add(1, Ordering::Relaxed);
        let newest = lock(&notes.tripped).clone();
        if let Some((name, at)) = newest.filter(|(name, _)| *name != seen)
            && line.contains(&format!("{name} is open"))
        {
            lock(&notes.delays).push(at.elapsed());
            seen = name;
        }
    }
}

/// Lists asked for one after the other until told to end.
async fn lists(address: String, end: Arc<AtomicBool>) -> Vec<Duration> {
    let mut times = Vec::new();
    while !end.load(Ordering::Relaxed) {
        times.push(list(&address).await.0);
        tokio::time::sleep(LIST_PAUSE).await;
    }
    times
}

/// Changes at their rate, each second's last one a trip.
async fn change(store: &RedisStore, notes: &Notes, measured: Duration) {
    let start = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    let mut number = 0_usize;
    while start.elapsed() < measured {
        pause.tick().await;
        number += 1;
        let batch = number as u64 + 1;
        if number.is_multiple_of(CHANGES_PER_SECOND as usize) {
            let tripped = number * 7 % BREAKERS;
            report(store, tripped, batch, Kind::Failure, ENOUGH).await;
            *lock(&notes.tripped) = Some((id(tripped).to_string(), Instant::now()));
        } else {
            report(store, number * 37 % BREAKERS, batch, Kind::Success, 1).await;
        }
    }
}

/// The middle and the worst of a hundred.
fn p50_p99(mut times: Vec<Duration>) -> (Duration, Duration) {
    assert!(!times.is_empty(), "nothing was measured");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}

fn row(measure: &str, ours: String, target: &str, held: Option<bool>) -> Value {
    json!({"measure": measure, "ours": ours, "peer": "", "ratio": null, "target": target, "held": held})
}

fn finish(rows: &[Value]) {
    for row in rows {
        println!(
            "{}: {} (target {}, held: {})",
            row["measure"], row["ours"], row["target"], row["held"]
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-ui.json");
    let text = serde_json::to_string_pretty(rows).expect("JSON");
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Waits until the dashboard counts so many of something.
async fn counted(address: &str, what: &str, number: usize) {
    let line = format!("tiebar_ui_{what} {number}");
    eventually(Duration::from_secs(60), &line, async || {
        let metrics = tests::try_get(&format!("http://{address}/metrics")).await?.body;
        holds(metrics.lines().any(|found| found == line), metrics)
    })
    .await;
}

#[tokio::main]
async fn main() {
    let seconds = std::env::var("TIEBAR_BENCH_SECONDS").ok();
    let measured = Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(20));
    let folder = tempfile::tempdir().expect("a folder");
    let server = RedisServer::start(folder.path()).await;
    let store = RedisStore::new(RedisSettings::new(&server.url())).expect("a store");
    programme(&store).await;
    let dashboard = Process::start(
        "tiebar-ui",
        Path::new(env!("CARGO_BIN_EXE_tiebar-ui")),
        folder.path(),
        &[
            "--listen",
            "127.0.0.1:0",
            "--redis",
            &server.url(),
            "--log-format",
            "json",
        ],
    );
    let (address, pid) = (dashboard.listening(None).await, dashboard.id());
    counted(&address, "breakers", BREAKERS).await;
    let (mut alone, mut size) = (Vec::new(), 0);
    for _ in 0..50 {
        let (took, bytes) = list(&address).await;
        alone.push(took);
        size = bytes;
    }
    let notes = Arc::<Notes>::default();
    for viewer in 0..VIEWERS {
        tokio::spawn(view(address.clone(), viewer, Arc::clone(&notes)));
    }
    counted(&address, "viewers", VIEWERS).await;

    let end = Arc::new(AtomicBool::new(false));
    let listing = tokio::spawn(lists(address.clone(), Arc::clone(&end)));
    let now = || {
        let all = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        (Instant::now(), cpu(pid), all(&notes.messages), all(&notes.bytes))
    };
    let before = now();
    change(&store, &notes, measured).await;
    let after = now();
    end.store(true, Ordering::Relaxed);
    let times = listing.await.expect("lists");

    let seconds = (after.0 - before.0).as_secs_f64();
    let cores = (after.1 - before.1).as_secs_f64() / seconds;
    let each = |all: f64| all / seconds / VIEWERS as f64;
    let delays = std::mem::take(&mut *lock(&notes.delays));
    let told = delays.len();
    let (alone, times, delays) = (p50_p99(alone), p50_p99(times), p50_p99(delays));
    let ms = |(p50, p99): (Duration, Duration)| {
        format!(
            "p50 {:.1} ms, p99 {:.1} ms",
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3
        )
    };
    let load = format!("dashboard, {BREAKERS} breakers, {VIEWERS} viewers, {CHANGES_PER_SECOND} changes/s");
    finish(&[
        row(
            &format!("dashboard, list of {BREAKERS} breakers, a page of {} KB", size / 1_024),
            ms(alone),
            "",
            None,
        ),
        row(
            &format!("{load}: list"),
            ms(times),
            "≤ 50 ms",
            Some(times.1 <= Duration::from_millis(50)),
        ),
        row(
            &format!("{load}: a trip reaches a viewer ({told} times)"),
            ms(delays),
            "≤ 2 s",
            Some(delays.1 <= Duration::from_secs(2)),
        ),
        row(
            &format!(
                "{load}: CPU, each viewer reading {:.1} messages/s of {:.0} KB/s",
                each(after.2 - before.2),
                each(after.3 - before.3) / 1_024.0
            ),
            format!("{cores:.2} cores"),
            "≤ 0.5 cores",
            Some(cores <= 0.5),
        ),
        row(
            &format!("{load}: most memory"),
            format!("{} MB", peak_mb(pid)),
            "",
            None,
        ),
    ]);
}

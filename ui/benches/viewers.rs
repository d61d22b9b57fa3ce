//! 1,000 breakers, 200 live viewers, 50 changes a second: how long a list takes, when a change arrives, what it costs.
//!
//! In one process over the store in it, so the cost is of dashboard, store and the viewers' reading together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;
use tiebar::memory::MemoryStore;
use tiebar::policy::Policy;
use tiebar::state::Kind;
use tiebar::store::{Batch, Exchange, Leader, Outcome, Programme, Store};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use ui::{Actions, Auth, Dashboard, Settings};

const BREAKERS: usize = 1_000;
const VIEWERS: usize = 200;
const CHANGES_PER_SECOND: u32 = 50;
const MEASURED: Duration = Duration::from_secs(15);

/// Processor time of this process, from the kernel's clock ticks (100 a second).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse().ok())
        .collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

fn memory_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        / 1_024
}

fn id(number: usize) -> ServiceId {
    ServiceId::parse(&format!("team-{}/service-{number}", number % 20)).expect("a service id")
}

/// One outcome reported, which is a change of what is shown.
async fn call(store: &MemoryStore, number: usize, batch: u64) {
    let mut request = Exchange {
        instance: "one".to_owned(),
        boot: "1".to_owned(),
        seed: true,
        ..Exchange::default()
    };
    let id = id(number);
    let view = store
        .exchange(&id, &request)
        .await
        .expect("answers")
        .view
        .expect("a view");
    request.batch = Some(Batch {
        number: batch,
        generation: view.generation,
        outcomes: vec![Outcome {
            kind: Kind::Success,
            cause: 0,
        }],
        ..Batch::default()
    });
    store.exchange(&id, &request).await.expect("answers");
}

async fn list(address: std::net::SocketAddr) -> (Duration, usize) {
    let start = Instant::now();
    let mut socket = TcpStream::connect(address).await.expect("connects");
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut page = Vec::new();
    socket.read_to_end(&mut page).await.expect("reads");
    (start.elapsed(), page.len())
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

#[tokio::main]
async fn main() {
    let store = Arc::new(MemoryStore::new());
    for number in 0..BREAKERS {
        let programme = Programme {
            leader: Leader {
                owner: "bench".to_owned(),
                ..Leader::default()
            },
            spec: "{}".to_owned(),
            policy: Policy::default(),
            forced: None,
        };
        store.configure(&id(number), &programme).await.expect("answers");
        call(&store, number, 1).await;
    }
    let settings = Settings {
        listen: "127.0.0.1:0".to_owned(),
        hosts: Vec::new(),
        auth: Auth::None,
        actions: Actions::Off,
        key_prefix: None,
        max_viewers: VIEWERS,
    };
    let dashboard = Dashboard::bind(Arc::clone(&store) as _, settings)
        .await
        .expect("a free port");
    let address = dashboard.local_addr().expect("an address");
    tokio::spawn(dashboard.run(std::future::pending()));
    while list(address).await.1 < 100_000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut times = Vec::new();
    for _ in 0..50 {
        times.push(list(address).await.0);
    }
    println!(
        "list of {BREAKERS} (a page of {} KB): p50 {:?}, p99 {:?}",
        list(address).await.1 / 1_024,
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.99)
    );

    let (messages, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    // The newest tripped breaker and when it tripped; a viewer that reads its name notes how long that took.
    let tripped: Arc<std::sync::Mutex<Option<(String, Instant)>>> = Arc::default();
    let delays: Arc<std::sync::Mutex<Vec<Duration>>> = Arc::default();
    for viewer in 0..VIEWERS {
        let (messages, bytes) = (Arc::clone(&messages), Arc::clone(&bytes));
        let (tripped, delays) = (Arc::clone(&tripped), Arc::clone(&delays));
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("connects");
            let request = format!(
                "GET /events?view=list&ns=team-{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
                viewer % 20
            );
            let request = if viewer % 2 == 0 {
                "GET /events?view=list HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()
            } else {
                request
            };
            socket.write_all(request.as_bytes()).await.expect("writes");
            let mut lines = BufReader::new(socket).lines();
            let mut seen = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
                if line.starts_with("data:") {
                    messages.fetch_add(1, Ordering::Relaxed);
                    let newest = tripped.lock().expect("lock").clone();
                    if let Some((name, at)) =
                        newest.filter(|(name, _)| *name != seen && line.contains(&format!("{name} is open")))
                    {
                        delays.lock().expect("lock").push(at.elapsed());
                        seen = name;
                    }
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (start, before, sent, told) = (
        Instant::now(),
        cpu(),
        bytes.load(Ordering::Relaxed),
        messages.load(Ordering::Relaxed),
    );
    let mut pause = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    let mut change = 0_usize;
    while start.elapsed() < MEASURED {
        pause.tick().await;
        change += 1;
        call(&store, change * 37 % BREAKERS, change as u64 + 10).await;
        if change.is_multiple_of(CHANGES_PER_SECOND as usize) {
            let number = change * 7 % BREAKERS;
            trip(&store, number, change as u64).await;
            *tripped.lock().expect("lock") = Some((id(number).to_string(), Instant::now()));
        }
    }
    let (seconds, used) = (start.elapsed().as_secs_f64(), cpu() - before);
    let mut delays = delays.lock().expect("lock").clone();
    println!(
        "{VIEWERS} viewers, {CHANGES_PER_SECOND} changes/s: {:.2} cores, {} MB resident, {:.1} messages/s each, {:.1} KB/s each",
        used.as_secs_f64() / seconds,
        memory_mb(),
        (messages.load(Ordering::Relaxed) - told) as f64 / seconds / VIEWERS as f64,
        (bytes.load(Ordering::Relaxed) - sent) as f64 / seconds / VIEWERS as f64 / 1_024.0,
    );
    let (p50, p99) = (quantile(&mut delays, 0.5), quantile(&mut delays, 0.99));
    println!(
        "a trip reaches a viewer: p50 {p50:?}, p99 {p99:?} ({} told)",
        delays.len()
    );
}

/// Twenty-five failures at once.
async fn trip(store: &MemoryStore, number: usize, batch: u64) {
    let mut request = Exchange {
        instance: "one".to_owned(),
        boot: "2".to_owned(),
        ..Exchange::default()
    };
    let id = id(number);
    let view = store
        .exchange(&id, &request)
        .await
        .expect("answers")
        .view
        .expect("a view");
    request.batch = Some(Batch {
        number: batch,
        generation: view.generation,
        outcomes: vec![
            Outcome {
                kind: Kind::Failure,
                cause: 0
            };
            64
        ],
        causes: vec!["503".to_owned()],
        ..Batch::default()
    });
    store.exchange(&id, &request).await.expect("answers");
}

//! Many breakers from cold: how long until each is programmed and says Ready, how many requests that takes and how much
//! memory; then a change among all of them, and whether an idle minute is idle. What is reported is seen by a watch of the
//! bench's own, not asked of the operator.
//!
//! `TIEBAR_BENCH_BREAKERS` says how many; default 5000. Prints a table and writes `target/bench-operator.json`; judges
//! nothing but by the table's last column.

#[path = "../tests/kubernetes/support.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

use crds::testing::{Settings, wait_for};
use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Operator, Place, Redis};
use tiebar::store::{Announcement, Store as _};

const NAMESPACE: &str = "bench";
/// So many changes are timed.
const CHANGES: usize = 21;
/// Longer than everything is looked at twice, and every heartbeat is written.
const IDLE: Duration = Duration::from_secs(65);

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("tiebar.dev", "v1alpha1", "CircuitBreaker");
    ApiResource::from_gvk_with_plural(&kind, "circuitbreakers")
}

async fn breakers(place: &Place) -> Api<DynamicObject> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = std::fs::read_to_string(place.server().kubeconfig()).expect("a kubeconfig");
    let config = kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options);
    let client = kube::Client::try_from(config.await.expect("a config")).expect("a client");
    Api::namespaced_with(client, NAMESPACE, &resource())
}

async fn create(api: &Api<DynamicObject>, count: usize) {
    futures_util::stream::iter(0..count)
        .for_each_concurrent(50, |number| async move {
            let breaker = DynamicObject::new(&format!("b{number}"), &resource())
                .data(serde_json::json!({"spec": {"trip": {"consecutiveFailures": 5}}}));
            api.create(&PostParams::default(), &breaker).await.expect("created");
        })
        .await;
}

/// What the bench's own watch saw.
#[derive(Debug, Default)]
struct Watched {
    ready: HashSet<String>,
    changes: usize,
}

async fn watch(api: Api<DynamicObject>, watched: Arc<Mutex<Watched>>) {
    let mut events = std::pin::pin!(
        watcher(api, watcher::Config::default())
            .default_backoff()
            .applied_objects()
    );
    while let Some(event) = events.next().await {
        let Ok(breaker) = event else { continue };
        let conditions = breaker.data["status"]["conditions"].as_array();
        let is_ready = conditions.is_some_and(|list| {
            list.iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        });
        let mut watched = watched.lock().expect("a lock");
        watched.changes += 1;
        if is_ready {
            watched.ready.extend(breaker.metadata.name);
        }
    }
}

/// Asks Redis for a number, over one connection: a `redis-cli` each time would be half of the load.
struct Asking(BufReader<TcpStream>);

impl Asking {
    fn new(redis: &Redis) -> Self {
        Self(BufReader::new(
            TcpStream::connect(("127.0.0.1", redis.port)).expect("Redis"),
        ))
    }

    fn number(&mut self, command: &str) -> usize {
        self.0
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("asked");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("answered");
        line.trim_start_matches(':').trim().parse().unwrap_or(0)
    }
}

fn server_metrics(place: &Place) -> String {
    let said = place.server().kubectl(&["get", "--raw", "/metrics"]);
    said.expect_ok("metrics")
}

/// Seconds of a core that the API server used so far: on a busy machine they tell more than the clock.
fn server_seconds(place: &Place) -> f64 {
    let text = server_metrics(place);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// The same of the operator, from the kernel's hundredths.
fn operator_seconds(operator: &Operator) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", operator.id())).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let hundredths = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok());
    (hundredths(11).unwrap_or(0.0) + hundredths(12).unwrap_or(0.0)) / 100.0
}

/// Requests about breakers and Events that change something, as the API server counts them.
fn writes(place: &Place) -> u64 {
    let text = server_metrics(place);
    let counts = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && (line.contains("resource=\"circuitbreakers\"") || line.contains("resource=\"events\""))
            && ["APPLY", "POST", "PATCH", "PUT"]
                .iter()
                .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter(counts).filter_map(value).sum::<f64>() as u64
}

/// The most memory it had, in MB.
fn peak(operator: &Operator) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0) / 1_024
}

/// From the API server's answer to a changed specification to the announcement of what the store then holds.
async fn change(api: &Api<DynamicObject>, place: &Place, redis: &Redis, count: usize) -> Vec<Duration> {
    let store = redis.store();
    let mut heard = store.subscribe();
    store.config(&place.id("b0")).await.expect("Redis");
    let mut took = Vec::new();
    for turn in 0..CHANGES {
        let name = format!("b{}", turn * 7 % count);
        let id = place.id(&name);
        while heard.try_recv().is_ok() {}
        let patch = serde_json::json!({"spec": {"trip": {"consecutiveFailures": 6}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        api.patch(&name, &params, &patch).await.expect("patched");
        let begun = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_secs(60), heard.recv()).await {
                Ok(Ok(Announcement::Revision(heard))) if heard == id => break,
                Ok(Ok(_)) => {}
                other => panic!("{name}: not heard: {other:?}"),
            }
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took
}

/// One line of the table.
struct Row {
    measure: String,
    ours: String,
    target: &'static str,
    held: Option<bool>,
}

fn finish(rows: &[Row]) {
    println!("| measure | ours | target | held |\n|---|---|---|---|");
    for Row {
        measure,
        ours,
        target,
        held,
    } in rows
    {
        let held = held.map_or("–", |held| if held { "yes" } else { "NO" });
        println!("| {measure} | {ours} | {target} | {held} |");
    }
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({"measure": row.measure, "ours": row.ours, "peer": "", "ratio": null,
                "target": row.target, "held": row.held})
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-operator.json");
    let text = serde_json::to_string_pretty(&list).expect("JSON");
    match std::fs::write(&path, text) {
        Ok(()) => println!("\nalso in target/bench-operator.json"),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

fn main() {
    let count: usize = std::env::var("TIEBAR_BENCH_BREAKERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5_000);
    let (place, redis) = (Place::own(NAMESPACE, Settings::default()), Redis::start(&[]));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let api = runtime.block_on(breakers(&place));
    let begun = Instant::now();
    runtime.block_on(create(&api, count));
    println!("{count} breakers made in {:.1?}", begun.elapsed());

    let watched = Arc::new(Mutex::new(Watched::default()));
    runtime.spawn(watch(api.clone(), Arc::clone(&watched)));
    let seen = |what: fn(&Watched) -> usize| what(&watched.lock().expect("a lock"));
    wait_for("listed", Duration::from_secs(60), || seen(|all| all.changes) >= count);
    let (commands_before, writes_before) = (redis.commands(), writes(&place));
    let server_before = server_seconds(&place);

    let begun = Instant::now();
    let operator = place.operator(&redis, &[]);
    let mut asking = Asking::new(&redis);
    let mut programmed = None;
    let bound = Duration::from_secs(600);
    wait_for("reported", bound, || {
        if programmed.is_none() && asking.number("SCARD cb:index") >= count {
            programmed = Some(begun.elapsed());
        }
        seen(|all| all.ready.len()) >= count
    });
    let (programmed, reported) = (programmed.unwrap_or_else(|| begun.elapsed()), begun.elapsed());
    let cores = (operator_seconds(&operator), server_seconds(&place) - server_before);
    println!(
        "programmed after {programmed:.1?}, reported after {reported:.1?}, {} MB",
        peak(&operator)
    );
    // Events wait until nothing else has to be written.
    let mut quiet = (Instant::now(), writes(&place));
    wait_for("quiet", bound, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = writes(&place);
        if now != quiet.1 {
            quiet = (Instant::now(), now);
        }
        quiet.0.elapsed() > Duration::from_secs(3)
    });
    let (commands_taken, writes_taken) = (redis.commands() - commands_before, quiet.1 - writes_before);
    let scraped = Instant::now();
    let lines = operator.get("/metrics").1.lines().count();
    println!("{lines} lines of metrics in {:.1?}", scraped.elapsed());
    let memory = peak(&operator);

    let took = runtime.block_on(change(&api, &place, &redis, count));
    std::thread::sleep(Duration::from_secs(5));
    let (changes, writes_before, looked) = (seen(|all| all.changes), writes(&place), looks(&operator));
    std::thread::sleep(IDLE);
    let changed = seen(|all| all.changes) - changes;
    let written = writes(&place) - writes_before;
    println!("{} looks in an idle minute", looks(&operator) - looked);

    let milliseconds = |took: Duration| took.as_secs_f64() * 1_000.0;
    let row = |measure: &str, ours: String, target, held| Row {
        measure: format!("operator, {count} breakers: {measure}"),
        ours,
        target,
        held,
    };
    let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
    finish(&[
        row("all programmed from cold", seconds(programmed), "", None),
        row(
            "all reported Ready from cold",
            seconds(reported),
            "≤ 30 s",
            Some(reported <= Duration::from_secs(30)),
        ),
        row(
            "most memory, metrics scraped once",
            format!("{memory} MB"),
            "≤ 150 MB",
            Some(memory <= 150),
        ),
        row(
            "seconds of a core until then",
            format!("operator {:.1}, API server {:.1}", cores.0, cores.1),
            "",
            None,
        ),
        row("requests to Redis from cold", commands_taken.to_string(), "", None),
        row("writes to the API server from cold", writes_taken.to_string(), "", None),
        row(
            "one change until the store announces it",
            format!(
                "median {:.1} ms, worst of {CHANGES} {:.1} ms",
                milliseconds(took[CHANGES / 2]),
                milliseconds(took[CHANGES - 1])
            ),
            "",
            None,
        ),
        row(
            "writes to the API server in an idle minute",
            format!("{written}, {changed} changes seen"),
            "0",
            Some(written == 0 && changed == 0),
        ),
    ]);
}

fn looks(operator: &Operator) -> f64 {
    operator.metric("tiebar_operator_reconciliations_total{result=\"ok\"}")
}

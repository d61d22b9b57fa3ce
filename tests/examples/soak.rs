//! `make soak`: mixed faults under load for minutes; at the end every counter must add up, and memory and descriptors
//! must be where they were.
//!
//! `SOAK_MINUTES` (default 10) says for how long, `SOAK_SEED` repeats an order of faults.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::{Ensemble, Fault, PATIENCE, Process, Reach, Settings, Traffic, eventually, holds, try_get};
use tokio::task::JoinHandle;

/// Callers at once, per instance.
const CALLERS: usize = 4;
/// Of a hundred answers of the service, so many are failures: now and then three in a row trip the circuit.
const FAILING: &str = r#"{"errorPercent": 10, "latencyMs": 2}"#;
/// The last calls, each of which must be in the store's own count.
const COUNTED: usize = 1_000;
/// What a process may have grown by since it was warm.
const GROWTH: f64 = 1.2;
/// Or this much, in bytes: debug builds and allocators breathe.
const BREATH: u64 = 8 * 1_024 * 1_024;
/// What descriptors may differ by: connections that are idle, or being made.
const SOCKETS: usize = 16;

/// What callers saw, by answer.
type Answers = BTreeMap<String, u64>;

#[derive(Default)]
struct Load {
    sent: u64,
    answers: Answers,
    /// How long it took, when it ended, and how.
    slowest: (Duration, Option<Instant>, String),
}

/// Calls the busy circuit until told to stop.
async fn caller(running: Arc<AtomicBool>, url: String) -> Load {
    let mut load = Load::default();
    while running.load(Ordering::Relaxed) {
        load.sent += 1;
        let key = match try_get(&url).await {
            Ok(answer) => {
                let took = answer.took;
                let (kind, said) = match (answer.blocked(), answer.status) {
                    (Some(reason), _) => ("rejected".to_owned(), format!("rejected: {reason}")),
                    (None, status) => (status.to_string(), format!("{status}, {}", answer.state())),
                };
                if took > load.slowest.0 {
                    load.slowest = (took, Some(Instant::now()), said);
                }
                kind
            }
            Err(error) => {
                eprintln!("no answer: {error}");
                "none".to_owned()
            }
        };
        *load.answers.entry(key).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load
}

fn callers(ensemble: &Ensemble, running: &Arc<AtomicBool>) -> Vec<JoinHandle<Load>> {
    let urls = ensemble
        .instances
        .iter()
        .map(|instance| format!("{}/{}", instance.url, Ensemble::WELL));
    urls.flat_map(|url| std::iter::repeat_n(url, CALLERS))
        .map(|url| tokio::spawn(caller(Arc::clone(running), url)))
        .collect()
}

/// Memory and descriptors of every process of ours.
fn sizes(ensemble: &Ensemble) -> BTreeMap<String, (u64, usize)> {
    let size = |process: &Process| (process.memory(), process.descriptors());
    let mut all: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for instance in &ensemble.instances {
        all.insert(format!("instance {}", instance.name), size(&instance.process));
    }
    all.insert("operator".to_owned(), size(&ensemble.operator.process));
    all.insert("dashboard".to_owned(), size(&ensemble.dashboard.process));
    all
}

/// The sum of a metric over all instances.
async fn sum(ensemble: &Ensemble, name: &str, labels: &[(&str, &str)]) -> u64 {
    let mut sum = 0.0;
    for instance in &ensemble.instances {
        sum += instance.metrics().await.value(name, labels).unwrap_or(0.0);
    }
    sum as u64
}

/// Waits until everybody acts by the store again.
async fn whole(ensemble: &Ensemble, after: Fault) {
    eventually(PATIENCE, &format!("all is well after {after:?}"), async || {
        for instance in 0..ensemble.instances.len() {
            ensemble.says(instance, false).await?;
        }
        let list = ensemble.dashboard.list().await;
        holds(list["storeUp"] == true, list["storeUp"].clone())
    })
    .await;
    ensemble.agree(Ensemble::SICK, "open").await;
}

struct Verdict(bool);

impl Verdict {
    fn line(&mut self, what: &str, seen: &str, good: bool) {
        self.0 &= good;
        println!("  {what:<44} {seen:>28}  {}", if good { "ok" } else { "WRONG" });
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let number = |name: &str, default: u64| -> u64 {
        let text = std::env::var(name).unwrap_or_default();
        text.parse().unwrap_or(default)
    };
    let length = Duration::from_secs(60 * number("SOAK_MINUTES", 10).max(1));
    let mut seed = number("SOAK_SEED", 7) | 1;
    println!("soak: {length:?}, SOAK_SEED={seed}");
    let settings = Settings {
        instances: 3,
        ..Settings::default()
    };
    let mut ensemble = Ensemble::start(settings).await;
    ensemble.upstream.faults(FAILING).await;
    ensemble.upstream.forget().await;
    let before = [
        sum(&ensemble, "tiebar_calls_total", &[("breaker", Ensemble::WELL)]).await,
        sum(
            &ensemble,
            "tiebar_calls_total",
            &[("breaker", Ensemble::WELL), ("outcome", "rejected")],
        )
        .await,
    ];
    let running = Arc::new(AtomicBool::new(true));
    let tasks = callers(&ensemble, &running);
    // Those to the circuit that is open must all be rejected, whatever happens.
    let rejected = Traffic::to_the_open(&ensemble);

    let start = Instant::now();
    let (mut faults, mut seen) = (BTreeMap::<String, u64>::new(), Vec::new());
    let mut struck = vec![(start, "nothing yet".to_owned())];
    let mut order: Vec<Fault> = Vec::new();
    while start.elapsed() < length {
        let fault = match order.pop() {
            Some(fault) => fault,
            None => {
                order = shuffled(&mut seed);
                continue;
            }
        };
        struck.push((Instant::now(), format!("{fault:?}")));
        fault.strike(&mut ensemble).await;
        let lasts = if fault.reach() == Reach::Nobody { 1 } else { 3 };
        tokio::time::sleep(Duration::from_secs(lasts)).await;
        fault.heal(&mut ensemble).await;
        whole(&ensemble, fault).await;
        *faults.entry(format!("{fault:?}")).or_default() += 1;
        seen.push((start.elapsed(), sizes(&ensemble)));
    }
    running.store(false, Ordering::Relaxed);
    let mut load = Load::default();
    for task in tasks {
        let one = task.await.expect("a caller ends");
        load.sent += one.sent;
        load.slowest = load.slowest.max(one.slowest);
        for (answer, count) in one.answers {
            *load.answers.entry(answer).or_default() += count;
        }
    }
    let open = rejected.stop().await;
    let before_it = |(at, _): &&(Instant, String)| load.slowest.1.is_some_and(|ended| *at <= ended);
    let during = struck.iter().rfind(before_it).map_or("", |(_, fault)| fault);
    println!(
        "\nfaults: {faults:?}\nanswers: {:?}, the slowest {:.1?} ({}), during {during}\n",
        load.answers, load.slowest.0, load.slowest.2
    );

    let mut verdict = Verdict(true);
    add_up(&mut verdict, &ensemble, &load, before).await;
    let leaks = open.wrong.len();
    for wrong in open.wrong.iter().take(5) {
        println!("  {wrong}");
    }
    verdict.line(
        "calls to the open circuit, let through",
        &format!("{leaks} of {}", open.calls),
        leaks == 0,
    );
    let transitions = ensemble.redis.transitions(Ensemble::SICK).await;
    let closed = transitions
        .iter()
        .skip(1)
        .filter(|line| line.contains("→ closed"))
        .count();
    verdict.line("its transitions to closed", &closed.to_string(), closed == 0);
    flat(&mut verdict, &seen);
    counted(&mut verdict, &ensemble).await;
    if verdict.0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Every kind of fault once, in an order that the seed says.
fn shuffled(seed: &mut u64) -> Vec<Fault> {
    let mut order = Fault::MIXED.to_vec();
    for place in (1..order.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        order.swap(place, (*seed % (place as u64 + 1)) as usize);
    }
    order
}

/// sent = answered = counted.
async fn add_up(verdict: &mut Verdict, ensemble: &Ensemble, load: &Load, before: [u64; 2]) {
    let answered: u64 = load
        .answers
        .iter()
        .filter(|(name, _)| *name != "none")
        .map(|(_, count)| count)
        .sum();
    let rejected = load.answers.get("rejected").copied().unwrap_or(0);
    let well = ("breaker", Ensemble::WELL);
    let calls = sum(ensemble, "tiebar_calls_total", &[well]).await - before[0];
    let blocked = sum(ensemble, "tiebar_calls_total", &[well, ("outcome", "rejected")]).await - before[1];
    let served = ensemble.upstream.requests().await;
    let flying = sum(ensemble, "tiebar_in_flight", &[]).await;
    let late = sum(ensemble, "tiebar_late_outcomes_total", &[well]).await;
    let dropped = sum(ensemble, "tiebar_dropped_outcomes_total", &[well]).await;
    verdict.line(
        "sent = answered",
        &format!("{} = {answered}", load.sent),
        load.sent == answered,
    );
    verdict.line(
        "answered = counted by the instances",
        &format!("{answered} = {calls}"),
        answered == calls,
    );
    verdict.line(
        "rejected = counted as rejected",
        &format!("{rejected} = {blocked}"),
        rejected == blocked,
    );
    let admitted = answered - rejected;
    verdict.line(
        "admitted = served upstream",
        &format!("{admitted} = {served}"),
        admitted == served,
    );
    verdict.line("still in flight", &flying.to_string(), flying == 0);
    let lost = format!("{late} late, {dropped} dropped");
    verdict.line(
        "outcomes that came too late for the store",
        &lost,
        late + dropped < answered,
    );
    let slow = load.slowest.0 < Duration::from_secs(2);
    verdict.line("the slowest call", &format!("{:.1?}", load.slowest.0), slow);
}

/// When, and each process' bytes of memory and open descriptors.
type Sizes = (Duration, BTreeMap<String, (u64, usize)>);

/// Memory and descriptors: the end against what they were when everything was warm, after a third of the time.
fn flat(verdict: &mut Verdict, seen: &[Sizes]) {
    let third = (seen.len() / 3).max(1);
    let Some((_, last)) = seen.last() else { return };
    let part = |range: &[Sizes], name: &str| {
        let sizes: Vec<(u64, usize)> = range.iter().filter_map(|(_, all)| all.get(name).copied()).collect();
        let memory = sizes.iter().map(|(memory, _)| *memory).max().unwrap_or(0);
        (memory, sizes.iter().map(|(_, files)| *files).max().unwrap_or(0))
    };
    for name in last.keys() {
        let (warm, now) = (part(&seen[..third], name), part(&seen[seen.len() - third..], name));
        let mega = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
        let grown = now.0 as f64 > warm.0 as f64 * GROWTH && now.0 > warm.0 + BREATH;
        verdict.line(
            &format!("{name}: MB, then and now"),
            &format!("{} → {}", mega(warm.0), mega(now.0)),
            !grown,
        );
        let files = format!("{} → {}", warm.1, now.1);
        verdict.line(
            &format!("{name}: descriptors, then and now"),
            &files,
            now.1 <= warm.1 + SOCKETS,
        );
    }
}

/// With everything healthy, each outcome is in the store's window once.
async fn counted(verdict: &mut Verdict, ensemble: &Ensemble) {
    let stored = async || -> u64 {
        let count = ensemble.redis.get("cb:counted:failures").await;
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    ensemble.agree(Ensemble::COUNTED, "closed").await;
    ensemble.upstream.fail().await;
    let before = stored().await;
    for round in 0..COUNTED {
        let answer = ensemble.call(round % ensemble.instances.len(), Ensemble::COUNTED).await;
        assert_eq!(answer.status, 500, "{}", answer.body);
    }
    let wanted = before + COUNTED as u64;
    eventually(PATIENCE, "the store has counted", async || {
        let now = stored().await;
        holds(now >= wanted, now)
    })
    .await;
    let added = stored().await - before;
    verdict.line(
        "failures made = counted in the store",
        &format!("{COUNTED} = {added}"),
        added == COUNTED as u64,
    );
}

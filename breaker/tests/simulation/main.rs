//! Whole fleets of real guards in simulated time over the real machine, behind a network and a store that fail in every
//! way we know of, then a healed phase in which everything must come right. Each run follows from its seed:
//! `TIEBAR_SIM_SEED=17 TIEBAR_SIM_RUNS=1` repeats one. Which invariant is checked where is a table in CONTRIBUTING.md.

#[path = "../support/edges.rs"]
mod edges;
mod evidence;
mod fleet;
mod net;

use fleet::{Report, simulate};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

/// A run takes a tenth of a second; this long, of the real clock, none takes.
const STANDS_STILL: Duration = Duration::from_secs(120);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Paused time in a runtime of its own: nothing here waits for a real clock.
fn run(seed: u64) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    // Paused time stands still while tasks wake each other: without a bound such a run would only hang.
    let (finished, standing) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if standing.recv_timeout(STANDS_STILL) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("seed {seed} stands still; repeat with TIEBAR_SIM_SEED={seed} TIEBAR_SIM_RUNS=1");
            std::process::abort();
        }
    });
    let result = runtime.block_on(simulate(seed));
    drop(finished);
    result.map_err(|broken| format!("seed {seed}: {broken}\nrepeat with TIEBAR_SIM_SEED={seed} TIEBAR_SIM_RUNS=1"))
}

#[test]
fn the_invariants_survive_every_fault_and_the_fleet_recovers() {
    let (first, runs) = (setting("TIEBAR_SIM_SEED", 1), setting("TIEBAR_SIM_RUNS", 10_000));
    let next = AtomicU64::new(first);
    let reports: Mutex<Vec<Result<Report, String>>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + runs {
                        return;
                    }
                    reports.lock().unwrap().push(run(seed));
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let broken: Vec<&String> = reports.iter().filter_map(|report| report.as_ref().err()).collect();
    assert!(
        broken.is_empty(),
        "{} of {runs} runs, the first: {}",
        broken.len(),
        broken[0]
    );
    let mut edges: BTreeMap<&String, u64> = BTreeMap::new();
    let (mut decisions, mut calls, mut slowest) = (0, 0, 0);
    for report in reports.iter().flatten() {
        decisions += report.decisions;
        calls += report.calls;
        slowest = slowest.max(report.recovered_ms);
        for (edge, count) in &report.edges {
            *edges.entry(edge).or_default() += count;
        }
    }
    println!("{runs} seeds, {calls} calls, {decisions} decisions, slowest recovery {slowest} ms\n{edges:#?}");
    if runs >= 10_000 {
        assert!(edges.len() >= 35, "the faults reach too few edges: {edges:#?}");
    }
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in [3, 4] {
        let (one, two) = (run(seed).unwrap(), run(seed).unwrap());
        assert_eq!((one.trace, one.decisions), (two.trace, two.decisions));
    }
}

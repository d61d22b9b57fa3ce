//! Mistakes that nobody planted: each comparison of the script turned, each sum and each bound shifted, one at a time. The
//! twin must tell every one of them from the model, or [`HARMLESS`] must say why it cannot be told.
//!
//! The script is the model function by function, so what the twin does not notice in the one, no test of it would notice
//! in the other. A sample runs with the tests; `TIEBAR_MUTANTS=all` runs them all (half an hour), and `MUTANTS.md` says
//! what came of that.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{RedisServer, twin};
use tiebar::redis::SCRIPT;

/// What is read, and what is written instead.
const CHANGES: &[(&str, &str)] = &[
    (" >= ", " > "),
    (" > ", " >= "),
    (" <= ", " < "),
    (" < ", " <= "),
    (" == ", " ~= "),
    (" ~= ", " == "),
    (" and ", " or "),
    (" or ", " and "),
    (" + ", " - "),
    (" - ", " + "),
    ("max(", "min("),
    ("min(", "max("),
    ("floor(", "math.ceil("),
    ("not ", ""),
    (" true", " false"),
    (" false", " true"),
    (" nil", " 1"),
];

/// Mutants that do what the script does: a part of the line with the change in «», and why it is none.
const HARMLESS: &[(&str, &str)] = &[
    ("if last < calls and c.run« > »0", "ends a run that there is not"),
    // What is kept between calls.
    ("if kept_count« >= »", "2,001 breakers kept"),
    ("kept_count = kept_count« + »", "shows beyond 2,000 breakers"),
    ("local known = book.core« == »", "unpacks what it knows"),
    (
        "mine, others, causes, stepped = nil, nil, nil, nil, nil, nil,« false»",
        "writes companions that have not changed",
    ),
    (
        "p, R, c, mine, others, causes, stepped = nil,« nil»",
        "R is set before it is read",
    ),
    (
        "p, R, c, mine, others, causes, stepped = nil, nil,« nil»",
        "c is set before it is read",
    ),
    (
        "p, R, c, mine, others, causes, stepped = nil, nil, nil,« nil»",
        "mine is set before it is read",
    ),
    // Only more of the state is written than must be.
    ("events, cold = 0, 0, 0, {},« false»", "the core, each time"),
    ("if c.v« < »LAYOUT", "the core, when it was unpacked"),
    (
        "cold = cold or w« == »c.w",
        "an instance's bucket begins whenever the window's does",
    ),
    ("if #c.rt« > »MAX_AFTER", "causes move to the core one sooner"),
    // The server's own clock, which the test replaces.
    ("now = t[1] * 1000« + »", "not asked in the twin"),
    ("now = t[1] * 1000 + «floor(»", "not asked in the twin"),
    // Only slower.
    ("(R.cf == 0« or »c.run + bad", "outcomes one by one"),
    ("(R.fr == 0« or »not holds", "outcomes one by one"),
    ("(R.sr == 0« or »not holds", "outcomes one by one"),
    ("c.st == FCLOSED then return« true»", "outcomes one by one"),
    ("max(minimum(), sum_c« + »c.gau), R.sr)", "outcomes one by one"),
    (
        "(c.st == CLOSED« or »c.st == FCLOSED) and c.mode",
        "outcomes one by one",
    ),
    ("#outcomes / 2, 0, 0,« nil»", "set before it is looked at"),
    (
        "while last« < »bad and failing(",
        "no further failure is there; before the first outcome stands a cause",
    ),
    ("r[8], r[9], r[10] = w,« nil», nil", "not looked at again"),
    ("r[8], r[9], r[10] = w, nil,« nil»", "not looked at again"),
    // Both sides of the comparison do the same where they meet.
    ("return calls« > »0 and bad", "nobody asks for a share of no calls"),
    ("if #outcomes« > »1024", "the first 1,024 of 1,024"),
    ("local counts = gauge« > »0", "none counts as none"),
    ("find(outcomes, '4', 1,« true»", "a pattern of one digit is that digit"),
    ("find(outcomes, '2', 1,« true»", "a pattern of one digit is that digit"),
    ("find(outcomes, '3', 1,« true»", "a pattern of one digit is that digit"),
    (
        "local wanted, plain = '1',« true»",
        "a pattern of one digit is that digit",
    ),
    ("if list[from« - »", "an override of -1 is none"),
    ("if reading« < »", "a step of nothing"),
    ("if #w == 0 or w[1]« >= »", "a copy of all of it"),
    ("if c.ramp« > »", "a ramp since 0 is over"),
    ("while doubled < streak and d« < »", "twice the most is the most"),
    ("then return a[1]« > »", "equal ones were told apart before"),
    ("then return a[2]« < »", "equal ones were told apart before"),
    ("return a[3]« < »", "names differ"),
    ("then return counts[a]« > »", "equal ones were told apart before"),
    ("then return a[6]« > »", "equal ones were told apart before"),
    ("if #c.runby« >= »", "the long way says the same of m instances"),
    ("r[7] == c.wid and r[6]« > »", "a rejection at 0 is long past"),
    ("else bad = c.bad« > »", "none is no share of a rate above 0"),
    ("(R.sr > 0 and c.slo« > »", "none is no share of a rate above 0"),
    ("if c.run« > »", "an empty run is emptied"),
    ("(not least or room« < »", "the same number"),
    ("local unchanged = before« > »", "no configuration has revision 0"),
    // Only more is written than must be, or a time of hours differs by seconds.
    ("ttl = 2 * silence()« + »", "the hour is what counts"),
    ("ttl = 2 * silence() + R.ramp« + »", "the hour is what counts"),
    (
        "all = all or stepped or #events« > »",
        "writes companions that have not changed",
    ),
    ("if #events« > »", "the events live longer"),
    ("finish(swept or number« == »", "a sweep a second writes them too"),
    ("finish(swept« or »", "a sweep a second writes them too"),
    // Shown elsewhere.
    (
        "now - tonumber(h[4] or 0)« < »600000",
        "a millisecond of silence: stores.rs",
    ),
    ("if c.run« < »R.cf then return R.cf", "who is in the run: stores.rs"),
    (
        "c.clk - r[2]« < »GAUGE_SILENCE end",
        "a millisecond of silence: stores.rs",
    ),
    (
        "r[6] > 0 and c.clk - r[6]« < »silence()",
        "a millisecond of silence: stores.rs",
    ),
    (
        "in ipairs(c.runby) do if name« == »me then return nil",
        "who is in the run: stores.rs",
    ),
    (
        "in ipairs(c.runby) do if name == me then return« nil»",
        "who is in the run: stores.rs",
    ),
    ("    return« true»", "an older layout: versions.rs"),
    ("if c.v > LAYOUT then return« false»", "a newer layout: versions.rs"),
    (
        "elseif not read_core(packed, hot) then return« nil»",
        "a newer layout: versions.rs",
    ),
    ("then c.v, cold = LAYOUT,« true»", "an older layout: versions.rs"),
    ("if found ==« nil»", "a newer layout: versions.rs"),
    ("if not mine and c.kno« >= »", "2,000 instances: stores.rs"),
    ("if «not »mine and c.kno", "2,000 instances: stores.rs"),
    ("if call('HLEN', key)« > »2000", "2,000 heartbeats: server.rs"),
    ("(all[i« + »1], '(%d+)$')", "2,000 heartbeats: server.rs"),
    ("'(%d+)$')« or »0)", "a heartbeat without an instant is nobody's"),
    ("if now« - »seen >= FORGET", "2,000 heartbeats: server.rs"),
    ("if now - seen« >= »FORGET", "2,000 heartbeats: server.rs"),
    (
        "c.bef« > »100",
        "exactly 100 decisions in a second: an advice, not a rule",
    ),
    ("c.kno« > »100", "more than 100 instances: stores.rs"),
    ("c.bef > 100« or »c.kno", "more than 100 instances: stores.rs"),
];

/// One of so many runs with the tests.
const SAMPLE: usize = 12;
/// Random runs a mutant may survive before it counts as missed; most fall in the first.
const RUNS: u64 = 160;

struct Mutant {
    line: usize,
    /// The line, with what is changed in «».
    marked: String,
    change: (&'static str, &'static str),
    script: String,
}

fn mutants() -> Vec<Mutant> {
    let mut mutants = Vec::new();
    let mut start = 0;
    for (number, line) in SCRIPT.split_inclusive('\n').enumerate() {
        let code = line.split("--").next().unwrap_or_default();
        for (from, to) in CHANGES {
            for (at, _) in code.match_indices(from) {
                let (before, after) = (&SCRIPT[..start + at], &SCRIPT[start + at + from.len()..]);
                // `math.floor(` is spelled out where it is given its short name.
                if before.ends_with("math.") {
                    continue;
                }
                mutants.push(Mutant {
                    line: number + 1,
                    marked: format!("{}«{from}»{}", &code[..at], &code[at + from.len()..]),
                    change: (from, to),
                    script: format!("{before}{to}{after}"),
                });
            }
        }
        start += line.len();
    }
    mutants
}

/// The difference that gives a mutant away; none: it survived.
async fn caught(server: &RedisServer, mutant: &Mutant, prefix: &str) -> Option<String> {
    for seed in 1..=RUNS {
        let run = twin::run(server, &mutant.script, seed, 250, &format!("{prefix}s{seed}:")).await;
        if let Err(difference) = run {
            return Some(difference);
        }
    }
    None
}

#[test]
fn each_is_caught_or_explained() {
    let all = std::env::var("TIEBAR_MUTANTS").is_ok_and(|which| which == "all");
    let mutants: Vec<Mutant> = mutants().into_iter().step_by(if all { 1 } else { SAMPLE }).collect();
    let (next, survivors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut server = RedisServer::start().await;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(mutant) = mutants.get(index) else { return };
                if HARMLESS.iter().any(|(part, _)| mutant.marked.contains(part)) {
                    continue;
                }
                match caught(&server, mutant, &format!("m{index}:")).await {
                    // One that never ends holds its server for ever.
                    Some(difference) if difference.contains("BUSY") || difference.contains("no reply") => {
                        server = RedisServer::start().await;
                    }
                    Some(_) => {}
                    None => {
                        let told = format!("line {}, {:?}: {}", mutant.line, mutant.change, mutant.marked.trim());
                        println!("survives: {told}");
                        survivors.lock().unwrap().push(told);
                    }
                }
            }
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let survivors = survivors.into_inner().unwrap();
    println!("{} mutants, {} survive", mutants.len(), survivors.len());
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

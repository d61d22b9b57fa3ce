//! Wrong scripts that the twin test must tell from the right one. Each is one plausible mistake.

mod support;

use support::{RedisServer, twin};

/// (what is wrong, the text, its replacement)
const MUTANTS: &[(&str, &str, &str)] = &[
    (
        "no generation fence",
        "if c.gen ~= generation or kind == 4 then",
        "if kind == 4 then",
    ),
    (
        "late probes count",
        "if held and c.st == HALF and c.gen == generation then",
        "if c.st == HALF then",
    ),
    (
        "a foreign lease is as good",
        "and c.ls[i + 1] == me then held",
        "then held",
    ),
    (
        "a batch counts again when retried",
        "if number > marker[2] then",
        "if number > 0 then",
    ),
    (
        "a wish is granted again when retried",
        "if marker[3] == token and",
        "if false and",
    ),
    (
        "an eleventh bucket",
        "local oldest = bucket - 9",
        "local oldest = bucket - 10",
    ),
    ("nine buckets", "local oldest = bucket - 9", "local oldest = bucket - 8"),
    (
        "a count window one too long",
        "if #c.sl > 5 * c.wl then",
        "if #c.sl > 5 * c.wl + 5 then",
    ),
    (
        "unbounded probes",
        "local count = min(want, max(0, c.per - #c.ls / 3 - c.fin))",
        "local count = want",
    ),
    (
        "finished probes free their slot",
        "c.per - #c.ls / 3 - c.fin",
        "c.per - #c.ls / 3",
    ),
    (
        "expired leases keep their slot",
        "if c.ls[i + 2] > c.clk then",
        "if true then",
    ),
    (
        "leases never end",
        "min(R.tmo == 0 and 10000 or R.tmo + 1000, R.half)",
        "86400000",
    ),
    (
        "a leap of the clock forgets batches",
        "local settled = c.lp == 0 or c.clk - c.lp >= FORGET",
        "local settled = true",
    ),
    (
        "a revision below the one last judged by",
        "before + 1, judged + 1, now",
        "before + 1, now",
    ),
    (
        "unknown becomes closed",
        "ARGV[10] == '1') then return {1, void} end",
        "true) then return {1, void} end",
    ),
    (
        "a lost open state comes back closed",
        "if remembered(m) == CLOSED or R.mode == DISABLED then",
        "if true then",
    ),
    (
        "an older store is believed",
        "local newer = m[1] > c.gen",
        "local newer = false",
    ),
    (
        "memory re-seeds towards closed",
        "if c.st == HALF or (c.st == CLOSED and theirs",
        "if c.st ~= CLOSED or (theirs",
    ),
    (
        "re-seeding keeps the number",
        "local generation = max(m[1], c.gen) + 1",
        "local generation = max(m[1], c.gen)",
    ),
    ("void memory is believed", "if m and m[1] <= void then m = nil end", ""),
    (
        "the worst instance is not left out",
        "for i = 1, agreeing - 1 do bad, calls",
        "for i = 1, 0 do bad, calls",
    ),
    (
        "one too many is left out",
        "for i = 1, agreeing - 1 do bad, calls",
        "for i = 1, min(agreeing, #ranked - 1) do bad, calls",
    ),
    (
        "ties go to the busier",
        "if a[2] ~= b[2] then return a[2] < b[2] end\n    return a[3] < b[3]",
        "return a[3] < b[3]",
    ),
    (
        "the threshold must be exceeded",
        "bad * 10000 >= bp * calls end",
        "bad * 10000 > bp * calls end",
    ),
    (
        "the minimum must be exceeded",
        "if calls < minimum() or not holds(bad, calls, bp) then return false end\n  if R.m",
        "if calls <= minimum() or not holds(bad, calls, bp) then return false end\n  if R.m",
    ),
    (
        "the minimum ignores the window's size",
        "return R.wt == 1 and min(R.minc, R.wl) or R.minc",
        "return R.minc",
    ),
    (
        "a run needs one more",
        "or c.run < R.cf then return false end",
        "or c.run <= R.cf then return false end",
    ),
    (
        "a success does not end a run",
        "elseif c.run > 0 then",
        "elseif false then",
    ),
    (
        "silence does not end a run",
        "if c.run > 0 and c.clk - c.runat >= silence()",
        "if false",
    ),
    (
        "the window survives a transition",
        "    clear_window()\n    c.frz",
        "    c.frz",
    ),
    (
        "the window survives its redefinition",
        "c.wt, c.wl = R.wt, R.wl\n    clear_window()",
        "c.wt, c.wl = R.wt, R.wl",
    ),
    (
        "open ends a millisecond early",
        "c.st == OPEN and c.clk >= c.till then",
        "c.st == OPEN and c.clk >= c.till - 1 then",
    ),
    (
        "backoff grows twice",
        "while doubled < streak and",
        "while doubled <= streak and",
    ),
    (
        "backoff never resets",
        "c.strk = (c.clk - c.since >= R.ramp + c.lo) and 1 or c.strk + 1",
        "c.strk = c.strk + 1",
    ),
    (
        "a clock that steps back is followed",
        "c.off, stepped, cold = c.off + c.clk - reading, true, true",
        "c.clk = reading",
    ),
    (
        "generations follow the count, not the clock",
        "return max(c.gen + 1, now, void + 1)",
        "return max(c.gen + 1, void + 1)",
    ),
    (
        "a lapsed override closes",
        "change(OPEN, LAPSED)",
        "change(CLOSED, LAPSED)",
    ),
    (
        "overrides never expire",
        "(list[from - 1] == 0 or now < list[from - 1])",
        "true",
    ),
    (
        "a round never times out",
        "if c.ga > 0 and c.clk - c.ga >= R.half then",
        "if false then",
    ),
    (
        "lost probes close",
        "if c.fin == 0 then change(HALF, LOST)",
        "if c.fin == 0 then close()",
    ),
    (
        "an expired gauge counts",
        "(r[4] == c.gen and c.clk - r[2] < GAUGE_SILENCE) and r[3] or 0",
        "r[4] == c.gen and r[3] or 0",
    ),
    (
        "half of them isolated suffices",
        "return isolated * 2 > active",
        "return isolated * 2 >= active",
    ),
    (
        "an old leader may write",
        "if mine_created < created or",
        "if false and mine_created < created or",
    ),
    (
        "a reset is repeated",
        "if call('HGET', KEYS[4], 'reset') == ARGV[10] then",
        "if false then",
    ),
    (
        "a newer revision's rules are undone by older ones",
        "if revision < c.rev then return end",
        "",
    ),
    (
        "open expires with its key",
        "if c.st == CLOSED then ttl =",
        "if true then ttl =",
    ),
    (
        "a batch taken at once ignores the rate",
        "and (R.fr == 0 or not holds(sum_f + bad, max(minimum(), sum_c), R.fr))",
        "",
    ),
    (
        "a batch taken at once ignores the run",
        "return (R.cf == 0 or c.run + bad < R.cf)",
        "return true",
    ),
    (
        "a batch taken at once ignores slowness",
        "and (R.sr == 0 or not holds(sum_s + c.gau + slow_ones, max(minimum(), sum_c + c.gau), R.sr))",
        "",
    ),
    (
        "a success in a batch taken at once does not end a run",
        "if last < calls and c.run > 0 then end_run() end",
        "",
    ),
    (
        "a count window one too long after a batch taken at once",
        "string.sub(c.sl .. slots, -5 * c.wl)",
        "string.sub(c.sl .. slots, -5 * c.wl - 5)",
    ),
    (
        "ignored outcomes count in a batch taken at once",
        "if find(outcomes, '4', 1, true) then return false end",
        "",
    ),
    (
        "a memory of the store's own generation is not read",
        "(remembered_gen ~= c.gen or page.st ~= c.st)",
        "remembered_gen ~= c.gen",
    ),
];

/// Random runs a mutant may survive before it counts as missed; most fall in the first.
const RUNS: u64 = 150;

#[tokio::test]
async fn every_planted_mistake_is_caught() {
    let server = RedisServer::start().await;
    let mut missed = Vec::new();
    for (index, (name, right, wrong)) in MUTANTS.iter().enumerate() {
        assert_eq!(
            tiebar::redis::SCRIPT.matches(right).count(),
            1,
            "{name}: the script must hold {right:?} once"
        );
        let script = tiebar::redis::SCRIPT.replacen(right, wrong, 1);
        let mut caught = None;
        for seed in 1..=RUNS {
            if let Err(difference) = twin::run(&server, &script, seed, 250, &format!("m{index}s{seed}:")).await {
                caught = Some((seed, difference));
                break;
            }
        }
        match caught {
            Some((seed, difference)) => {
                assert!(
                    !difference.contains("ERR"),
                    "{name}: the mutant must run, not crash: {difference}"
                );
                println!("caught in run {seed}: {name}");
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

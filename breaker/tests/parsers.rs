//! Every parser of bytes that come from elsewhere, on what is kept in `corpus/` and on changes of it at random.
//! `TIEBAR_FUZZ_RUNS=1000000` for longer; `fuzz/` runs the same under a coverage-guided fuzzer.

#[path = "support/mutate.rs"]
mod mutate;
#[path = "support/parsers.rs"]
mod parsers;

use std::path::Path;

fn shake(name: &str, words: &[&str]) {
    let (_, parse) = parsers::PARSERS.iter().find(|(known, _)| *known == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    mutate::shake(&folder, words, parse);
}

#[test]
fn durations() {
    shake("duration", &["h", "m", "s", "ms", "99999", "100000", "1.5"]);
}

#[test]
fn service_ids() {
    shake("id", &["/", ":", "{", "}", "*", "\r\n", "-", ".", "é"]);
}

#[test]
fn store_addresses() {
    shake(
        "address",
        &[
            "redis",
            "rediss",
            "+",
            "://",
            "unix",
            "sentinel",
            "cluster",
            "@",
            ":",
            "/",
            ",",
            "[::1]",
            "%",
            "?protocol=3",
        ],
    );
}

#[test]
fn announcements() {
    shake("announcement", &["T ", "R ", " ", "shop/inventory"]);
}

#[test]
fn replies() {
    shake(
        "reply",
        &[
            "*",
            "$",
            ":",
            "%",
            "-",
            "\r\n",
            "*999999999\r\n",
            "$999999999\r\n",
            "_\r\n",
        ],
    );
}

#[test]
fn stored_states() {
    shake("core", &["\u{7f}", "core", "wl", "clk", "prev"]);
}

#[test]
fn stored_hot_parts() {
    shake("hot", &["\0", "AAAA", "\u{7f}"]);
}

#[test]
fn stored_instances() {
    shake("record", &[]);
}

#[test]
fn stored_markers() {
    shake("marker", &[]);
}

#[test]
fn stored_configurations() {
    shake("config", &[]);
}

#[test]
fn stored_events() {
    shake("event", &["generation ", "from ", "to ", "reason ", "\n"]);
}

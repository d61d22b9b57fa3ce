//! `cargo run`'s dashboard in a real browser: what a person sees, does, and is told when something is lost.
//!
//! Chromium and the two packages that drive it come from `.ci/tools`; without them this fails, as a promise that nobody
//! checks is none.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

/// The ports of `cargo run` without an offset.
const PORTS: [u16; 9] = [8_080, 8_081, 8_001, 8_002, 8_003, 8_101, 8_102, 8_103, 9_000];

/// An offset under which all of them are free.
fn offset() -> u16 {
    let free = |offset: &u16| {
        PORTS
            .iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port + offset)).is_ok())
    };
    let from = 20_000 + std::process::id() as u16 % 20_000;
    (from..50_000).step_by(7).find(free).expect("free ports")
}

#[test]
fn a_person_s_way_through_the_dashboard() {
    let browser = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ];
    let browser = std::env::var("CHROMIUM").ok().or_else(|| {
        let found = browser.iter().find(|path| PathBuf::from(path).exists());
        found.map(|path| (*path).to_owned())
    });
    let home = std::env::var("XDG_CACHE_HOME").map_or_else(
        |_| PathBuf::from(std::env::var("HOME").expect("a home")).join(".cache"),
        PathBuf::from,
    );
    let modules = home.join("tiebar/browser/node_modules");
    assert!(
        browser.is_some() && modules.join("playwright-core").exists(),
        "there is no browser to test with; `.ci/tools` installs it"
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../ui/tests/browser/walk.mjs");
    let status = Command::new("node")
        .arg(script)
        .env("BINARY", env!("CARGO_BIN_EXE_tiebar-local"))
        .env("OFFSET", offset().to_string())
        .env("CHROMIUM", browser.expect("checked above"))
        .env("NODE_MODULES", modules)
        .status()
        .expect("node runs");
    assert!(status.success(), "the browser's way failed; see above");
}

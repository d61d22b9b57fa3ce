//! `cargo run`.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tests::{Process, RedisServer, Terminal, binary, run};

/// A number to add to every port so that all of them are free: below those that port 0 gives out, and unlike any other
/// test's.
fn free_offset() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).expect("below 100");
    loop {
        let offset = 1_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 100 * 200;
        let ports = [9_000, 8_081].into_iter().chain(8_001..8_004).chain(8_101..8_104);
        let taken: Result<Vec<TcpListener>, _> = ports
            .map(|port| TcpListener::bind(("127.0.0.1", port + offset)))
            .collect();
        if taken.is_ok() {
            return offset.to_string();
        }
    }
}

/// The circuit opens, probes and closes within thirty seconds by itself; then a summary.
async fn shows_a_round(store: &[&str]) {
    let offset = free_offset();
    let args = [&["--duration", "30s", "--port-offset", &offset][..], store].concat();
    let ended = run(&binary("tiebar-local"), Path::new("/"), &args).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut rest = &*ended.stdout;
    for next in [
        "3 instances share one circuit breaker",
        "service well | local:8001",
        "closed → open ConsecutiveFailures by local:800",
        "3 in a row; 500 ×3",
        "open → half_open WaitElapsed",
        "half_open → closed ProbesSucceeded",
        "After 30 s:",
    ] {
        let at = rest
            .find(next)
            .unwrap_or_else(|| panic!("no {next:?} (any more) in {}", ended.stdout));
        rest = &rest[at + next.len()..];
    }
    assert!(!ended.stdout.contains('\x1b'), "plain lines where there is no terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_shows_it_all() {
    shows_a_round(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_over_redis_shows_it_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redis = RedisServer::start(folder.path()).await;
    shows_a_round(&["--redis", &redis.url()]).await;
    assert_eq!(
        redis.transitions("unreliable_service").await[1],
        "closed → open ConsecutiveFailures"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_gets_one_line_that_names_port_and_flag() {
    let offset = free_offset();
    let moved = |port: u16| port + offset.parse::<u16>().expect("a number");
    for port in [9_000, 8_081, 8_002, 8_103] {
        let taken = TcpListener::bind(("127.0.0.1", moved(port))).expect("it is free");
        let ended = run(&binary("tiebar-local"), Path::new("/"), &["--port-offset", &offset]).await;
        drop(taken);
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for named in [&*moved(port).to_string(), "--port-offset", "in use"] {
            assert!(ended.stderr.contains(named), "{}", ended.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn breakers_that_say_nothing_about_the_service_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("b.yaml");
    let path = file.to_str().expect("a readable name");
    for (text, named) in [
        (tests::document("another", "{}"), "unreliable_service"),
        (
            tests::document("unreliable_service", "{open: {duration: 1ms}}"),
            "spec.open.duration",
        ),
    ] {
        std::fs::write(&file, text).expect("a file");
        let ended = run(&binary("tiebar-local"), folder.path(), &["--breakers", path]).await;
        assert_eq!(
            (ended.code, ended.stderr.lines().count()),
            (Some(1), 1),
            "{}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains(path) && ended.stderr.contains(named),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_a_summary() {
    let offset = free_offset();
    let args = ["--port-offset", &*offset];
    let mut local = Process::start("local", &binary("tiebar-local"), Path::new("/"), &args);
    local
        .logged("it runs", |line| line.contains("service well").then_some(()))
        .await;
    assert_eq!(local.terminate().await, Some(0));
    local
        .logged("a summary", |line| line.starts_with("After ").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_a_terminal_try_each_promise() {
    let offset = free_offset();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut local = Terminal::start(&binary("tiebar-local"), folder.path(), &["--port-offset", &offset]);
    // Open, probing and closed within thirty seconds is the promise.
    local.shows(Duration::from_secs(90), "closed → open").await;
    // While the circuit is open: the probes come after ten seconds, and the lease of a dead prober lasts as long again.
    local.press("k");
    local.shows(Duration::from_secs(30), "was killed while it probed").await;
    local
        .shows(Duration::from_secs(60), "died with a probe: the round was not wedged")
        .await;
    local.press("s");
    local
        .shows(Duration::from_secs(6), "go on alone, by the same rules")
        .await;
    local.press("s");
    local.shows(Duration::from_secs(15), "share one circuit again").await;
    local.press("b");
    local.shows(Duration::from_secs(60), "✔ open on all").await;
    local.press("h");
    local.shows(Duration::from_secs(30), "✔ closed on all").await;
    let pressed = Instant::now();
    local.press("q");
    assert_eq!(local.ended().await, Some(0));
    println!("ended {:.1?} after the key", pressed.elapsed());
    local.shows(Duration::from_secs(6), "\x1b[?1049l").await;
    local.shows(Duration::from_secs(6), "After ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duration_and_a_signal_end_it_on_a_terminal_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let offset = free_offset();
    let args = ["--port-offset", &*offset, "--duration", "2s"];
    let mut local = Terminal::start(&binary("tiebar-local"), folder.path(), &args);
    assert_eq!(local.ended().await, Some(0), "without a key pressed");
    for interrupt in [true, false] {
        let mut local = Terminal::start(&binary("tiebar-local"), folder.path(), &args[..2]);
        local.shows(Duration::from_secs(20), "Timeline").await;
        if interrupt {
            local.press("\x03");
        } else {
            local.terminate();
        }
        assert_eq!(local.ended().await, Some(0));
    }
}

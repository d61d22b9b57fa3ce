//! The binary: flags, exit codes, signals.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Far above what anything here takes; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiebar-upstream"));
    command.args(args).kill_on_drop(true);
    command
}

async fn output(args: &[&str]) -> Output {
    tokio::time::timeout(PATIENCE, command(args).output())
        .await
        .expect("it ends")
        .expect("it starts")
}

#[tokio::test]
async fn bad_configuration_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("port 0 binds");
    let addr = taken.local_addr().expect("it is bound").to_string();
    for (args, named) in [
        (&["--listen", &addr][..], ["--listen", &*addr]),
        (&["--listen", "nonsense"], ["--listen", "nonsense"]),
        (&["--error-percent", "101"], ["--error-percent", "101"]),
        (&["--error-percent", "-1"], ["--error-percent", "-1"]),
        (&["--error-status", "200"], ["--error-status", "400..=599"]),
        (&["--hang-percent", "41"], ["together at most 100", "hangPercent 41"]),
        (&["--log-level", "loud"], ["--log-level", "loud"]),
        (&["--nonsense"], ["--nonsense", "unexpected"]),
    ] {
        let refused = output(args).await;
        assert!(!refused.status.success(), "{args:?}");
        let line = String::from_utf8(refused.stderr).expect("UTF-8");
        assert_eq!(line.trim_end().lines().count(), 1, "one line: {line}");
        assert!(
            line.starts_with("error: ") && named.iter().all(|name| line.contains(name)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn help_and_version_are_told_on_stdout() {
    let help = output(&["--help"]).await;
    let text = String::from_utf8(help.stdout).expect("UTF-8");
    assert!(help.status.success());
    for told in [
        "--listen",
        "127.0.0.1:9000",
        "TIEBAR_UPSTREAM_ERROR_PERCENT",
        "TIEBAR_LOG_FORMAT",
        "[default: 60]",
    ] {
        assert!(text.contains(told), "{told} is missing from:\n{text}");
    }
    let version = output(&["--version"]).await;
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("tiebar-upstream ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test]
async fn it_logs_the_address_it_bound_and_a_signal_ends_it_well() {
    for signal in ["TERM", "INT"] {
        let mut child = command(&["--log-format", "json"])
            .env("TIEBAR_UPSTREAM_LISTEN", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("in time")
            .expect("UTF-8");
        let line: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        assert_eq!(line["message"], "listening");
        let addr = line["addr"].as_str().expect("the address");
        assert!(addr.starts_with("127.0.0.1:") && !addr.ends_with(":0"), "{addr}");

        let pid = child.id().expect("it runs").to_string();
        let killed = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .await
            .expect("kill runs");
        assert!(killed.success());
        let ended = tokio::time::timeout(PATIENCE, child.wait())
            .await
            .expect("in time")
            .expect("it ends");
        assert_eq!(ended.code(), Some(0), "SIG{signal}");
    }
}

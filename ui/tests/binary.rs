//! The binary: flags, exit codes, signals.

use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Far above what anything here takes; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiebar-ui"));
    command.args(args).kill_on_drop(true);
    // Neither a cluster nor a kubeconfig of whoever runs the tests.
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("KUBECONFIG", "/does/not/exist");
    command
}

async fn output(args: &[&str]) -> Output {
    let ended = tokio::time::timeout(PATIENCE, command(args).output()).await;
    ended.expect("it ends").expect("it starts")
}

#[tokio::test]
async fn bad_configuration_is_one_clear_line_that_names_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    std::fs::write(&file, "anna too-short\n").expect("writes");
    let file = file.to_str().expect("text");
    for (args, named) in [
        (&["--listen", "nonsense"][..], &["--listen", "nonsense"][..]),
        (&["--actions"], &["--actions", "--auth"]),
        (&["--auth", "proxy-header"], &["--auth-proxies"]),
        (
            &["--auth", "proxy-header", "--auth-proxies", "everywhere"],
            &["--auth-proxies", "everywhere"],
        ),
        (
            &[
                "--auth",
                "proxy-header",
                "--auth-proxies",
                "10.0.0.0/8",
                "--auth-header",
                "a b",
            ],
            &["--auth-header", "a b"],
        ),
        (&["--auth", "token"], &["--auth token", "--auth-token-file"]),
        (
            &["--auth", "token", "--auth-token-file", "/does/not/exist"],
            &["--auth-token-file", "/does/not/exist"],
        ),
        (&["--auth", "token", "--auth-token-file", file], &["line 1", "16"]),
        (
            &["--auth", "proxy-header", "--auth-proxies", "10.0.0.0/8", "--actions"],
            &["--operator"],
        ),
        (
            &[
                "--auth",
                "proxy-header",
                "--auth-proxies",
                "10.0.0.0/8",
                "--actions",
                "--operator",
                "https://a",
            ],
            &["--operator", "http://HOST:PORT"],
        ),
        (&["--redis", "localhost"], &["--redis", "redis://"]),
        (&["--nonsense"], &["--nonsense", "unexpected"]),
    ] {
        let refused = output(args).await;
        assert!(!refused.status.success(), "{args:?}");
        let line = String::from_utf8(refused.stderr).expect("UTF-8");
        assert_eq!(line.trim_end().lines().count(), 1, "{args:?}: one line: {line}");
        assert!(
            line.starts_with("error: ") && named.iter().all(|name| line.contains(name)),
            "{args:?}: {line}"
        );
        assert!(!line.contains("too-short"), "{line}");
    }
}

#[tokio::test]
async fn help_tells_every_flag_with_its_variable_and_default() {
    let help = output(&["--help"]).await;
    let text = String::from_utf8(help.stdout).expect("UTF-8");
    assert!(help.status.success());
    for told in [
        "127.0.0.1:8080",
        "TIEBAR_UI_LISTEN",
        "TIEBAR_UI_AUTH_TOKEN_FILE",
        "TIEBAR_REDIS",
        "X-Forwarded-User",
        "[default: none]",
    ] {
        assert!(text.contains(told), "{told} is missing from:\n{text}");
    }
    assert!(output(&["--version"]).await.stdout.starts_with(b"tiebar-ui "));
}

#[tokio::test]
async fn it_logs_the_address_it_bound_and_a_signal_ends_it_well_with_viewers_connected() {
    // No store answers there, which is something to show, not to die of.
    let mut child = command(&["--log-format", "json", "--redis", "redis://127.0.0.1:1"])
        .env("TIEBAR_UI_LISTEN", "127.0.0.1:0")
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
    let address = line["addr"].as_str().expect("the address").to_owned();
    assert!(
        address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
        "{address}"
    );

    let mut viewer = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    let request = "GET /events?view=list HTTP/1.1\r\nhost: localhost\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut viewer, request.as_bytes())
        .await
        .expect("writes");
    let mut answer = BufReader::new(viewer).lines();
    assert!(
        answer
            .next_line()
            .await
            .expect("reads")
            .is_some_and(|line| line.contains("200"))
    );

    let pid = child.id().expect("it runs").to_string();
    let killed = Command::new("kill").args(["-s", "TERM", &pid]).status().await;
    assert!(killed.expect("kill runs").success());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert_eq!(ended.expect("in time").expect("it ends").code(), Some(0));
}

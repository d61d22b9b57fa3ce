//! Bytes that nobody meant, to the proxy and in its routes file: what is kept in `corpus/`, and changes of it at random.
//! `TIEBAR_FUZZ_RUNS` for more.

use crate::mutate::{self, Dice};
use crate::support::client::get;
use crate::support::upstream::healthy;
use crate::support::{PATIENT, Proxy, soon};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

#[test]
fn routes_files() {
    let words = [
        "- ",
        "host: ",
        "pathPrefix: ",
        "service: ",
        "upstream: ",
        "stripPrefix: ",
        "caFile: ",
        "http://",
        "h2c://",
        "https://",
        "null",
        "&a ",
        "*a",
        "{",
        "[",
        "!!str ",
        "---\n",
        ":99999",
        "/",
        "?",
        "#",
        "\t",
        "é",
    ];
    mutate::shake(&folder("routes"), &words, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        instance::parse_routes(text)
            .map(drop)
            .map_err(|error| error.to_string())
    });
}

/// Sends bytes, says that there are no more, and reads what comes.
async fn send(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A refusal may come, and the connection close, before everything is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = soon("the connection's end", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn the_proxy_outlives_any_bytes() {
    let words = [
        "\r\n",
        "\r\n\r\n",
        "HTTP/1.1",
        "HTTP/1.0",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "host: a\r\n",
        "connection: ",
        "close",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "CONNECT ",
        "HEAD ",
        "expect: 100-continue\r\n",
        "\0",
        "upgrade: h2c\r\n",
        "te: trailers\r\n",
        "\u{b}",
    ];
    let upstream = healthy().await;
    let proxy = Proxy::start_with(PATIENT, &upstream.url, |settings| {
        settings.limits.header_timeout = Duration::from_millis(500);
        settings.limits.idle_timeout = Duration::from_millis(500);
        settings.limits.body_timeout = Duration::from_millis(500);
    })
    .await;
    let runs = mutate::runs() / 4;
    let inputs = mutate::corpus(&folder("http"));
    let mut dice = Dice::new(mutate::seed());
    let mut under_way = tokio::task::JoinSet::new();
    let (mut answered, mut silent) = (0, 0);
    let mut note = |answer: Vec<u8>, bytes: &[u8]| {
        let shown = || {
            (
                String::from_utf8_lossy(bytes).into_owned(),
                String::from_utf8_lossy(&answer).into_owned(),
            )
        };
        // HTTP/2 answers with its settings, HTTP/1 with a status.
        let is_http = answer.starts_with(b"HTTP/1.") || answer.get(3) == Some(&4);
        assert!(answer.is_empty() || is_http, "no HTTP: {:?}", shown());
        assert!(
            [502, 503, 504]
                .iter()
                .all(|status| !answer.starts_with(format!("HTTP/1.1 {status}").as_bytes())),
            "blamed on the upstream: {:?}",
            shown()
        );
        *(if answer.is_empty() { &mut silent } else { &mut answered }) += 1;
    };
    for run in 0..inputs.len() + runs {
        let bytes = match inputs.get(run) {
            Some((_, kept)) => kept.clone(),
            None => mutate::mutate(&mut dice, &inputs, &words),
        };
        let to = proxy.traffic;
        under_way.spawn(async move { (send(to, &bytes).await, bytes) });
        if under_way.len() >= 32 {
            let (answer, bytes) = under_way.join_next().await.unwrap().unwrap();
            note(answer, &bytes);
        }
    }
    while let Some(done) = under_way.join_next().await {
        let (answer, bytes) = done.unwrap();
        note(answer, &bytes);
    }
    println!(
        "{answered} answered, {silent} not, {} reached the upstream",
        upstream.count()
    );
    assert!(answered > runs / 4 && upstream.count() > 0);
    assert_eq!(proxy.outcomes().await[1..4], [0, 0, 0], "became evidence");
    assert_eq!(get(proxy.traffic, "/").await.status, 200);
    assert!(!proxy.task.is_finished());
}

//! The stream: only what changed, resumed where it was lost, and bounded.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/mod.rs"]
mod support;

use bench::{Acting, Bench, PATIENCE};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Fleet;
use tiebar::policy::Policy;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use ui::Auth;

/// A stream, read line by line.
struct Stream(Lines<BufReader<TcpStream>>);

/// One event.
#[derive(Debug, Default)]
struct Event {
    id: String,
    kind: String,
    data: serde_json::Value,
}

impl Stream {
    async fn open(bench: &Bench, path: &str, last: &str) -> (u16, Self) {
        let mut socket = TcpStream::connect(bench.address).await.expect("a connection");
        let resume = if last.is_empty() {
            String::new()
        } else {
            format!("last-event-id: {last}\r\n")
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{resume}\r\n");
        socket.write_all(request.as_bytes()).await.expect("writes");
        let mut lines = BufReader::new(socket).lines();
        let status = lines.next_line().await.expect("reads").expect("a status");
        (status[9..12].parse().expect("a number"), Self(lines))
    }

    /// The next event that is as wanted.
    async fn next(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let search = async {
            let mut event = Event::default();
            while let Some(line) = self.0.next_line().await.expect("reads") {
                match line.split_once(':') {
                    Some(("id", id)) => id.trim().clone_into(&mut event.id),
                    Some(("event", kind)) => kind.trim().clone_into(&mut event.kind),
                    Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
                    _ if line.is_empty() && wanted(&event) => return event,
                    _ if line.is_empty() => event = Event::default(),
                    _ => {}
                }
            }
            panic!("the stream ended");
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .expect("within six seconds")
    }
}

fn rows(event: &Event) -> Vec<&str> {
    let rows = event.data["rows"].as_array().into_iter().flatten();
    rows.filter_map(|row| row[0].as_str()).collect()
}

async fn three() -> (Bench, Fleet) {
    let bench = Bench::with(Auth::None, Acting::Off, 2).await;
    let mut fleet = Fleet::new(Arc::clone(&bench.store) as _);
    let policy = Policy {
        minimum_instances: 1,
        ..Policy::default()
    };
    for name in ["shop/a", "shop/b", "infra/c"] {
        fleet.programme(name, "{}", policy.clone(), None).await;
        fleet.calls(name, "one", 1, 0, 0).await;
    }
    let three = |answer: &bench::Answer| answer.body.matches("1 of 20 calls").count() == 3;
    bench.until("/", &[], three).await;
    (bench, fleet)
}

#[tokio::test]
async fn a_trip_is_told_within_two_seconds_with_its_row_alone_and_resumes_where_it_was_lost() {
    let (bench, mut fleet) = three().await;
    let (status, mut stream) = Stream::open(&bench, "/events?view=list", "").await;
    assert_eq!(status, 200);
    let first = stream.next(|event| !event.id.is_empty()).await;
    let start = Instant::now();
    fleet.calls("shop/a", "one", 0, 30, 0).await;
    let told = stream.next(|event| event.data.get("say").is_some()).await;
    println!("told after {:?}", start.elapsed());
    assert_eq!(rows(&told), ["shop/a"]);
    assert_eq!(told.data["order"][0], "shop/a", "worst first");
    assert!(
        told.data["say"][0]
            .as_str()
            .is_some_and(|text| text.starts_with("shop/a is open")),
        "{told:?}"
    );
    drop(stream);

    let (_, mut again) = Stream::open(&bench, "/events?view=list", &first.id).await;
    let resumed = again.next(|event| event.data.get("rows").is_some()).await;
    assert!(
        rows(&resumed).contains(&"shop/a"),
        "what was missed is told: {resumed:?}"
    );
    drop(again);

    let (_, mut quiet) = Stream::open(&bench, "/events?view=list&q=infra", &first.id).await;
    let other = quiet.next(|event| !event.id.is_empty()).await;
    assert!(
        !rows(&other).contains(&"shop/a"),
        "another filter, another stream: {other:?}"
    );
}

#[tokio::test]
async fn messages_keep_half_a_second_between_them_however_much_changes() {
    let (bench, mut fleet) = three().await;
    let start = Instant::now();
    let (_, mut stream) = Stream::open(&bench, "/events?view=list", "").await;
    let changes = tokio::spawn(async move {
        loop {
            fleet.calls("shop/b", "one", 1, 0, 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for before in 0..6 {
        stream.next(|event| !event.id.is_empty()).await;
        // From the beginning: a busy machine may hold one message back until the next one comes, but brings none early.
        let (since, least) = (start.elapsed(), Duration::from_millis(500) * before);
        assert!(since >= least, "message {before} after {since:?}");
    }
    changes.abort();
}

#[tokio::test]
async fn a_frame_of_another_life_asks_for_the_page_and_too_many_viewers_are_sent_to_polling() {
    let (bench, _fleet) = three().await;
    let (_, mut stream) = Stream::open(&bench, "/events?view=detail&id=shop/a&since=0000-7", "").await;
    stream.next(|event| event.kind == "reload").await;
    let (_, _second) = Stream::open(&bench, "/events?view=history", "").await;
    let (status, _) = Stream::open(&bench, "/events?view=list", "").await;
    assert_eq!(status, 503);
    drop(stream);
    let free = |answer: &bench::Answer| answer.body.contains("tiebar_ui_viewers 1");
    bench.until("/metrics", &[], free).await;
    let (status, _) = Stream::open(&bench, "/events?view=list", "").await;
    assert_eq!(status, 200, "a place that was left is free");
}

#[tokio::test]
async fn a_breaker_s_stream_replaces_its_parts_and_says_when_it_is_gone() {
    let (bench, mut fleet) = three().await;
    let (_, mut stream) = Stream::open(&bench, "/events?view=detail&id=shop/a", "").await;
    fleet.calls("shop/a", "one", 0, 30, 0).await;
    let part = |event: &Event, name: &str| {
        let regions = event.data["regions"].as_array().into_iter().flatten();
        regions
            .filter(|region| region[0] == name)
            .any(|region| region[1].as_str().is_some_and(|html| html.contains("Open")))
    };
    stream.next(|event| part(event, "head")).await;
    fleet.bury("shop/a").await;
    stream.next(|event| event.data["reload"] == true).await;
}

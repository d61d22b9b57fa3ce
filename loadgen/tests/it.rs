//! Runs over real sockets, and the binary's exit codes. When calls start and what latency means is the driver's unit
//! tests' business, in virtual time.

use std::convert::Infallible;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Uri};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use loadgen::{CircuitState, Plan, Scenario, run};
use tokio::net::TcpListener;
use tokio::process::Command;
use upstream::{FaultProfile, Handle, Upstream};

async fn upstream(faults: FaultProfile) -> (Uri, Handle) {
    let upstream = Upstream::bind("127.0.0.1:0", faults).await.expect("port 0 binds");
    let uri = format!("http://{}/", upstream.local_addr()).parse().expect("a URL");
    let handle = upstream.handle();
    tokio::spawn(upstream.run(std::future::pending()));
    (uri, handle)
}

/// An instance that answers its first calls by `script` and the others closed and well.
async fn instance(script: &'static [(&'static str, Said)]) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port 0 binds");
    let uri = format!("http://{}/", listener.local_addr().expect("it is bound"))
        .parse()
        .expect("a URL");
    let calls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let calls = Arc::clone(&calls);
            let service = service_fn(move |_| {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                let (state, said) = script.get(call).copied().unwrap_or(("closed", Said::Passed(200)));
                std::future::ready(Ok::<_, Infallible>(said.response(state)))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    uri
}

#[derive(Clone, Copy)]
enum Said {
    Passed(u16),
    Rejected,
    Unreachable,
}

impl Said {
    fn response(self, state: &str) -> Response<Full<Bytes>> {
        let (status, problem) = match self {
            Self::Passed(status) => (status, None),
            Self::Rejected => (
                503,
                Some(("destination_unavailable", r#"{"status":503,"outcome":"blocked"}"#)),
            ),
            Self::Unreachable => (
                502,
                Some(("connection_refused", r#"{"status":502,"outcome":"failure"}"#)),
            ),
        };
        let mut response = Response::builder().status(status).header("x-circuit-state", state);
        if let Some((error, _)) = problem {
            response = response
                .header("proxy-status", format!("tiebar; error={error}"))
                .header("content-type", "application/problem+json");
        }
        let body = problem.map_or_else(Bytes::new, |(_, body)| Bytes::from_static(body.as_bytes()));
        response.body(Full::new(body)).expect("a valid response")
    }
}

/// A scenario over `target`, faults set on `upstream`.
fn scenario(target: &Uri, upstream: &Uri, phases: &str) -> Plan {
    let text = format!("targets: [\"{target}\"]\nupstream: {upstream}\n{phases}");
    Scenario::parse("test.yaml", &text)
        .expect("a good scenario")
        .into_plan(Vec::new(), 100.0)
}

#[tokio::test]
async fn a_scenario_sets_faults_and_counts_what_they_do() {
    let (uri, handle) = upstream(FaultProfile::default()).await;
    let plan = scenario(
        &uri,
        &uri,
        "
phases:
  - {name: well, duration: 200ms, faults: {}, expect: {okShare: {min: 1}}}
  - {name: ill, duration: 200ms, faults: {errorPercent: 100, errorStatus: 503}, expect: {failedShare: {min: 1}}}
  - {name: cut, duration: 200ms, faults: {resetPercent: 100}, expect: {failedShare: {min: 1}}}
expect: {blockedShare: {max: 0}}
",
    );
    let mut last = None;
    let report = run(plan, |now| last = Some(now.clone()), std::future::pending()).await;
    assert!(report.passed, "{report}");
    assert_eq!(
        (report.total.ok, report.total.failed, report.total.unanswered),
        (20, 20, 20),
        "{report}"
    );
    let stats = handle.stats();
    assert_eq!(
        (stats.by_status[&200], stats.by_status[&503], stats.reset),
        (20, 20, 20),
        "both sides agree"
    );
    assert_eq!(handle.faults().reset_percent, 100, "the last phase's faults stay");
    let last = last.expect("progress is told at the end");
    assert_eq!((last.total, last.targets[0].counts), (report.total, report.total));
}

#[tokio::test]
async fn a_round_is_seen_through_the_instances_headers() {
    let target = instance(&[
        ("closed", Said::Passed(500)),
        ("closed", Said::Unreachable),
        ("open", Said::Rejected),
        ("open", Said::Rejected),
        ("half_open", Said::Passed(200)),
        ("half_open", Said::Passed(200)),
        ("half_open", Said::Rejected),
        ("closed", Said::Passed(200)),
    ])
    .await;
    for (most, passes) in [(2, true), (1, false)] {
        let phases = format!(
            "phases: [{{name: all, duration: 100ms}}]
expect: {{statesSeen: [closed, open, half_open], maxProbesPerRound: {most}, blockedShare: {{min: 0.3, max: 0.3}}}}"
        );
        let mut plan = scenario(&target, &target, &phases);
        plan.concurrency = 1;
        if !passes {
            // The script is over: what was seen the first time is not seen again.
            let report = run(plan, |_| {}, std::future::pending()).await;
            assert!(
                !report.passed && report.findings.iter().filter(|finding| !finding.held).count() == 2,
                "{report}"
            );
            continue;
        }
        let report = run(plan, |_| {}, std::future::pending()).await;
        assert!(report.passed, "{report}");
        assert_eq!(
            (report.total.ok, report.total.failed, report.total.blocked),
            (5, 2, 3),
            "a 502 is no rejection"
        );
        assert_eq!((report.half_open.rounds, report.half_open.max_probes), (1, 2));
        assert_eq!(report.targets[0].states.count(CircuitState::HalfOpen), 3);
        assert_eq!(report.targets[0].last_state, Some(CircuitState::Closed));
    }
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_problem_that_names_it() {
    let (uri, _) = upstream(FaultProfile::HEALTHY).await;
    // Bound and dropped: nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|listener| listener.local_addr())
        .expect("it binds");
    let nowhere = format!("http://{closed}").parse().expect("a URL");
    let plan = scenario(&uri, &nowhere, "phases: [{name: a, duration: 1s, faults: {}}]");
    let report = run(plan, |_| {}, std::future::pending()).await;
    let problem = report.problem.expect("faults cannot be set");
    assert!(
        problem.contains(&format!("PUT http://{closed}/_faults")) && problem.contains("refused"),
        "{problem}"
    );
}

async fn binary(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiebar-loadgen"));
    command.args(args).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(30), command.output())
        .await
        .expect("it ends")
        .expect("it starts")
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text.trim_end().lines().count(), 1, "one line: {text}");
    text
}

#[tokio::test]
async fn the_exit_code_tells_run_from_failure_from_misuse() {
    let (uri, _) = upstream(FaultProfile::default()).await;
    let target = uri.to_string();
    let ran = binary(&[
        "--target",
        &target,
        "--duration",
        "200ms",
        "--json",
        "--log-level",
        "off",
    ])
    .await;
    assert_eq!(ran.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON and nothing else");
    assert_eq!(
        (report["passed"].as_bool(), report["total"]["calls"].as_u64()),
        (Some(true), Some(10))
    );
    assert!(report["latencyMs"]["all"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0));

    let nowhere = binary(&["--target", "http://127.0.0.1:1", "--duration", "100ms"]).await;
    assert_eq!(nowhere.status.code(), Some(1), "nothing answered");

    for (args, named) in [
        (&["--duration", "10"][..], "--duration"),
        (&["--rate", "-1"], "--rate"),
        (&["--target", "https://x"], "scheme http"),
        (&["--concurrency", "0"], "1 to 10000"),
        (&["--scenario", "/nowhere.yaml"], "/nowhere.yaml"),
        (&["--speed", "1"], "--speed"),
    ] {
        let refused = binary(args).await;
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        let line = one_line(&refused.stderr);
        assert!(line.starts_with("error: ") && line.contains(named), "{line}");
    }
}

//! The proxy beside nginx as a plain proxy, and beside itself without a breaker: CPU time per request by the kernel's
//! books, over keep-alive connections, with the same upstream and the same load in turns.

use crate::measure::Spread;
use crate::programs::{Program, output, own};
use crate::report::Row;
use crate::support::RedisServer;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tiebar::id::ServiceId;
use tiebar::policy::Policy;
use tiebar::redis::{RedisSettings, RedisStore};
use tiebar::store::{Leader, Programme, Store as _};

/// Turns per contender and load, of a second each.
const TURNS: usize = 5;
/// Latencies taken per contender.
const SAMPLES: usize = 4_000;
/// Which of the contenders has a promise to keep.
const GUARDED: usize = 1;

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// nginx with this server, on a free port.
fn nginx(folder: &Path, name: &str, workers: usize, before: &str, server: &str) -> (Program, u16) {
    let port = free_port();
    let home = folder.join(name);
    std::fs::create_dir_all(&home).expect("a folder");
    let config = home.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes {workers}; pid {home}/pid; error_log {home}/error.log;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 1000000000; sendfile on; open_file_cache max=10;
           client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
           uwsgi_temp_path {home}/d; scgi_temp_path {home}/e;
           {before}
           server {{ listen 127.0.0.1:{port} backlog=4096; {server} }} }}",
        home = home.display(),
    );
    std::fs::write(&config, text).expect("a file");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&config).stderr(Stdio::null());
    let program = Program::start(&mut command);
    wait_for(port);
    (program, port)
}

fn wait_for(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The instance, and the port it took.
pub(crate) fn instance(server: &RedisServer, service: &str, upstream: u16) -> (Program, u16) {
    let mut program = Program::start(
        Command::new(own("tiebar-instance"))
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args([
                "--service",
                service,
                "--upstream",
                &format!("http://127.0.0.1:{upstream}"),
            ])
            .args(["--redis", &server.url(), "--instance-id", service])
            .args(["--log-format", "json", "--log-level", "info"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    );
    let port = program.says("the instance listens", |line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        if line["message"] != "listening" || line["port"] != "traffic" {
            return None;
        }
        line["addr"].as_str()?.rsplit(':').next()?.parse().ok()
    });
    (program, port)
}

struct Contender {
    program: Program,
    port: u16,
}

/// CPU nanoseconds per request, and requests per second, under so many connections for a second.
fn turn(contender: &Contender, path: &str, connections: usize) -> (f64, f64) {
    let before = contender.program.cpu();
    let report = output(
        Command::new("wrk")
            .args(["-t1", "-d1s", &format!("-c{connections}")])
            .arg(format!("http://127.0.0.1:{}{path}", contender.port)),
    );
    let used = contender.program.cpu() - before;
    assert!(
        !report.contains("Non-2xx") && !report.contains("Socket errors"),
        "{report}"
    );
    let requests = report
        .lines()
        .find_map(|line| line.split_once(" requests in ")?.0.trim().parse::<f64>().ok())
        .expect("wrk's count");
    (used as f64 / requests, requests)
}

/// Milliseconds per request at a given rate, over eight connections.
fn latencies(port: u16, path: &str, rate: f64) -> Vec<f64> {
    const CONNECTIONS: usize = 8;
    let pause = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let caller = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let mut buffer = vec![0; 256 * 1_024];
            let mut taken = Vec::new();
            let mut due = Instant::now();
            while taken.len() < SAMPLES / CONNECTIONS {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                due += pause;
                let start = Instant::now();
                stream.write_all(request.as_bytes()).expect("sent");
                let (mut length, mut wanted) = (0, usize::MAX);
                while length < wanted {
                    length += stream.read(&mut buffer[length..]).expect("an answer");
                    if let Some(end) = buffer[..length].windows(4).position(|four| four == b"\r\n\r\n") {
                        wanted = end + 4 + 1_024;
                    }
                }
                taken.push(start.elapsed().as_nanos() as f64);
            }
            taken
        };
        let callers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(caller)).collect();
        for caller in callers {
            all.extend(caller.join().expect("a caller"));
        }
    });
    all.sort_by(f64::total_cmp);
    all
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn ratio(of: &[f64], by: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = of.iter().zip(by).map(|(of, by)| of / by).collect();
    ratios.sort_by(f64::total_cmp);
    at(&ratios, 0.5)
}

/// The rows of this group.
pub(crate) async fn rows(server: &RedisServer) -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    // nginx' workers give up root, and must still read this.
    let _ = Command::new("chmod").arg("-R").arg("a+rX").arg(folder.path()).status();
    for (name, size) in [("1k", 1_024), ("64k", 65_536)] {
        std::fs::write(folder.path().join(name), "x".repeat(size)).expect("a file");
    }
    let root = format!("root {};", folder.path().display());
    let (_upstream, upstream) = nginx(folder.path(), "upstream", 1, "", &root);
    let plain = format!("upstream behind {{ server 127.0.0.1:{upstream}; keepalive 512; }}");
    let pass = "location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ''; }";
    let (program, port) = nginx(folder.path(), "proxy", 2, &plain, pass);
    let nginx = Contender { program, port };
    let store = RedisStore::new(RedisSettings::new(&server.url())).expect("a store");
    let programme = Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: Policy::default(),
        forced: None,
    };
    let id = ServiceId::parse("guarded").expect("an id");
    store.configure(&id, &programme).await.expect("configured");
    let contender = |service: &str| {
        let (program, port) = instance(server, service, upstream);
        wait_for(port);
        Contender { program, port }
    };
    let (on, off) = (contender("guarded"), contender("unguarded"));
    // The first state is seeded after two seconds.
    std::thread::sleep(Duration::from_secs(3));

    let mut rows = Vec::new();
    // Calls a second that ours answers at most, of 1 KiB: its full load.
    let mut full = 0.0_f64;
    for path in ["/1k", "/64k"] {
        for connections in [1, 32, 256] {
            let mut costs = [Vec::new(), Vec::new(), Vec::new()];
            for taken in 0..=TURNS {
                for (index, contender) in [&nginx, &on, &off].into_iter().enumerate() {
                    let (cost, rate) = turn(contender, path, connections);
                    // The first turn opens connections and warms up.
                    if taken > 0 {
                        costs[index].push(cost);
                    }
                    if path == "/1k" && index == GUARDED {
                        full = full.max(rate);
                    }
                }
            }
            let [plain, guarded, bare] = costs.clone().map(Spread::of);
            let load = format!("{} bodies, {connections} connections", &path[1..]);
            let (to_off, to_nginx) = (ratio(&costs[GUARDED], &costs[2]), ratio(&costs[GUARDED], &costs[0]));
            rows.push(Row {
                measure: format!("proxy, breaker on ÷ off, CPU per request, {load}"),
                ours: guarded.text(),
                peer: bare.text(),
                ratio: Some(to_off),
                target: "≤ 1.03".to_owned(),
                held: Some(to_off <= 1.03),
            });
            rows.push(Row {
                measure: format!("proxy ÷ nginx, CPU per request, {load}"),
                ours: guarded.text(),
                peer: plain.text(),
                ratio: Some(to_nginx),
                target: "≤ 1.0".to_owned(),
                held: Some(to_nginx <= 1.0),
            });
        }
    }
    let rate = full / 2.0;
    let direct = latencies(upstream, "/1k", rate);
    for (name, contender, promised) in [("proxy", &on, true), ("nginx", &nginx, false)] {
        let through = latencies(contender.port, "/1k", rate);
        let added = |share| (at(&through, share) - at(&direct, share)) / 1e6;
        rows.push(Row::alone(
            &format!("latency added by {name} at half of the proxy's full load ({rate:.0} calls/s)"),
            format!("p50 {:.2} ms, p99 {:.2} ms", added(0.5), added(0.99)),
            if promised { "p99 ≤ 0.3 ms" } else { "" },
            promised.then(|| added(0.99) <= 0.3),
        ));
    }
    rows
}

//! What the programs weigh: size, memory and CPU when idle, time to ready, time to build. `make bench` has built them and
//! the image.

use crate::programs::{Program, output, own};
use crate::report::Row;
use crate::support::RedisServer;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Idle for so long before memory and CPU are looked at.
const IDLE: Duration = Duration::from_secs(4);
/// Starts, of which the median counts.
const STARTS: usize = 5;

/// Program, arguments that make it run, what it may weigh.
const PROGRAMS: [(&str, &[&str]); 5] = [
    (
        "tiebar-instance",
        &[
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--service",
            "idle",
            "--upstream",
            "http://127.0.0.1:9",
        ],
    ),
    (
        "tiebar-operator",
        &["run", "--listen", "127.0.0.1:0", "--breakers", "BREAKERS"],
    ),
    ("tiebar-ui", &["--listen", "127.0.0.1:0"]),
    ("tiebar-upstream", &["--listen", "127.0.0.1:0"]),
    ("tiebar-loadgen", &[]),
];

/// Starts it; milliseconds until it says that it listens.
fn start(server: &RedisServer, name: &str, args: &[&str], breakers: &str) -> (Program, f64) {
    let mut command = Command::new(own(name));
    for arg in args {
        command.arg(if *arg == "BREAKERS" { breakers } else { arg });
    }
    if name != "tiebar-upstream" {
        command.args(["--redis", &server.url()]);
    }
    command.args(["--log-format", "json", "--log-level", "info"]);
    let begun = Instant::now();
    let mut program = Program::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    program.says(name, |line| line.contains("\"listening\"").then_some(()));
    (program, begun.elapsed().as_secs_f64() * 1e3)
}

/// The image, and the sidecar's build from nothing: crates are there, and as many cores as elsewhere in this run.
fn built() -> Vec<Row> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let image = workspace.join("target/tiebar-image.tar");
    let bytes = std::fs::metadata(&image)
        .unwrap_or_else(|error| panic!("{}: {error}; `make bench` builds it", image.display()))
        .len();
    let folder = tempfile::tempdir().expect("a folder");
    let begun = Instant::now();
    output(
        Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "-p",
                "instance",
                "--target-dir",
            ])
            .arg(folder.path())
            .current_dir(workspace),
    );
    vec![
        Row::alone(
            "image with every program, compressed",
            format!("{:.1} MB", bytes as f64 / 1e6),
            "≤ 25 MB",
            Some(bytes <= 25_000_000),
        ),
        Row::alone(
            "tiebar-instance: release build from nothing",
            format!("{:.0} s", begun.elapsed().as_secs_f64()),
            "",
            None,
        ),
    ]
}

/// The rows of this group.
pub(crate) fn rows(server: &RedisServer) -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let breakers = folder.path().display().to_string();
    let mut rows = built();
    for (name, args) in PROGRAMS {
        let size = std::fs::metadata(own(name)).map_or(0, |file| file.len()) as f64 / 1e6;
        rows.push(Row::alone(&format!("{name}: size"), format!("{size:.1} MB"), "", None));
        if args.is_empty() {
            continue;
        }
        let mut starts: Vec<f64> = (0..STARTS).map(|_| start(server, name, args, &breakers).1).collect();
        starts.sort_by(f64::total_cmp);
        let (program, _) = start(server, name, args, &breakers);
        std::thread::sleep(IDLE);
        let before = program.cpu();
        std::thread::sleep(IDLE);
        let cpu = (program.cpu() - before) as f64 / IDLE.as_nanos() as f64 * 1e3;
        let memory = program.resident() as f64 / 1_024.0;
        let promised = name == "tiebar-instance";
        rows.push(Row::alone(
            &format!("{name}: start to listening"),
            format!("{:.0} ms", starts[STARTS / 2]),
            "",
            None,
        ));
        rows.push(Row::alone(
            &format!("{name}: resident when idle"),
            format!("{memory:.1} MB"),
            if promised { "≤ 15 MB" } else { "" },
            promised.then_some(memory <= 15.0),
        ));
        rows.push(Row::alone(
            &format!("{name}: CPU when idle"),
            format!("{cpu:.2} ms/s"),
            "",
            None,
        ));
    }
    rows
}

//! The binaries under test, built once per test run.
//!
//! Cargo builds a package's binaries for that package's own tests only, so a stale one, or none, would be found beside
//! the test executable. Asking cargo is always right: after `cargo test --workspace` it has almost nothing to do, and it
//! holds no lock while tests run. Building this test along makes cargo choose the same dependency features as it did for
//! the tests, so nothing is compiled twice.

use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();

/// The path of a binary such as `tiebar-instance`, fresh.
///
/// # Panics
/// When the workspace does not build, or has no such binary.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let built = BUILT.get_or_init(build);
    let found = built.get(name).cloned();
    found.unwrap_or_else(|| panic!("cargo built no {name}; it built {:?}", built.keys()))
}

fn build() -> HashMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--workspace", "--bins", "--test", "blackbox", "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What cargo tells a test about its package would look like a changed environment to build scripts.
    for (name, _) in std::env::vars_os() {
        let own = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        if name
            .to_str()
            .is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix)))
        {
            command.env_remove(name);
        }
    }
    let output = command.output().expect("cargo can be run");
    assert!(
        output.status.success(),
        "the binaries do not build; `cargo build --workspace --bins` says why"
    );
    let executable = |line: &str| -> Option<(String, PathBuf)> {
        let message: Value = serde_json::from_str(line).ok()?;
        let kinds = message["target"]["kind"].as_array()?;
        let path = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        let test = message["profile"]["test"].as_bool()?;
        (!test && kinds.iter().any(|kind| kind == "bin")).then(|| (name.to_owned(), Path::new(path).to_owned()))
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(executable)
        .collect()
}

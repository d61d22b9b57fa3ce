//! One table for people, the same as JSON for programs.

use serde_json::json;
use std::path::{Path, PathBuf};

/// One line of the table.
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) ours: String,
    pub(crate) peer: String,
    /// The peer's cost ÷ ours: how many times cheaper; where the measure says ÷, that quotient.
    pub(crate) ratio: Option<f64>,
    pub(crate) target: String,
    /// None: nothing was promised.
    pub(crate) held: Option<bool>,
}

impl Row {
    /// A measure without a peer.
    pub(crate) fn alone(measure: &str, ours: String, target: &str, held: Option<bool>) -> Self {
        Self {
            measure: measure.to_owned(),
            ours,
            peer: String::new(),
            ratio: None,
            target: target.to_owned(),
            held,
        }
    }
}

/// Rows that another benchmark of `make bench` wrote, each to a file of its own.
fn of_others() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["bench-operator.json", "bench-ui.json"] {
        let path = target(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; `make bench` runs what writes it", path.display()));
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list of rows");
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        rows.extend(list.iter().map(|row| Row {
            measure: word(&row["measure"]),
            ours: word(&row["ours"]),
            peer: word(&row["peer"]),
            ratio: row["ratio"].as_f64(),
            target: word(&row["target"]),
            held: row["held"].as_bool(),
        }));
    }
    rows
}

fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name)
}

/// Prints the table; the whole one takes in what others measured and becomes `target/bench.json`.
pub(crate) fn finish(mut rows: Vec<Row>, whole: bool) {
    if whole {
        rows.extend(of_others());
    }
    println!("| measure | ours | peer | ratio | target | held |\n|---|---|---|---|---|---|");
    for row in &rows {
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let held = match row.held {
            None => "–",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        println!(
            "| {} | {} | {} | {ratio} | {} | {held} |",
            row.measure, row.ours, row.peer, row.target
        );
    }
    if !whole {
        return;
    }
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({"measure": row.measure, "ours": row.ours, "peer": row.peer, "ratio": row.ratio,
                "target": row.target, "held": row.held})
        })
        .collect();
    let path = target("bench.json");
    let text = serde_json::to_string_pretty(&list).expect("JSON");
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("\nalso in target/bench.json");
}

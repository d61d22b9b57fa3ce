//! One table for people, the same as JSON for programs.

use serde_json::json;
use std::path::Path;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) ours: String,
    pub(crate) peer: String,
    /// Peer ÷ ours where there is a peer: how many times cheaper.
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

/// Prints the table and writes `target/bench.json`.
pub(crate) fn finish(rows: &[Row]) {
    println!("| measure | ours | peer | ratio | target | held |\n|---|---|---|---|---|---|");
    for row in rows {
        let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}"));
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
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({"measure": row.measure, "ours": row.ours, "peer": row.peer, "ratio": row.ratio,
                "target": row.target, "held": row.held})
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench.json");
    let text = serde_json::to_string_pretty(&list).expect("JSON");
    match std::fs::write(&path, text) {
        Ok(()) => println!("\nalso in target/bench.json"),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

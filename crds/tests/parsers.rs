//! Documents that nobody meant: what is kept in `corpus/yaml/`, and changes of it at random. `TIEBAR_FUZZ_RUNS` for more.

#[path = "../../breaker/tests/support/mutate.rs"]
mod mutate;

use std::path::Path;

#[test]
fn documents() {
    let words = [
        "spec:",
        "trip:",
        "open:",
        "duration:",
        "halfOpen:",
        "slidingWindow:",
        "CountBased",
        "httpStatusCodes:",
        "500-599",
        "override:",
        "expireTime:",
        "fallback:",
        "Static",
        "null",
        "~",
        "&a",
        "*a",
        "---\n",
        "!!binary",
        "[",
        "{",
        "- ",
        "? ",
        "<<: ",
        "0x10",
        ".inf",
        "\t",
        "|\n",
        "\u{feff}",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/yaml");
    mutate::shake(&folder, &words, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        for document in crds::parse_documents(text) {
            let document = document.map_err(|error| {
                assert!(
                    error.problems.iter().all(|problem| !problem.trim().is_empty()),
                    "{error:?}"
                );
                error.to_string()
            })?;
            // What is accepted can be programmed: its JSON is read back, and every number is exact in the script.
            let json: serde_json::Value = serde_json::from_str(&document.resolved.json).unwrap();
            assert!(json.is_object());
            assert!(document.resolved.policy.open_ms < 1 << 53);
        }
        Ok(())
    });
}

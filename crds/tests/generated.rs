//! What is generated from the types is committed, and is what they say now.

use std::path::Path;

/// Compares with the committed file; with `TIEBAR_REGENERATE` set, writes it.
fn same(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("TIEBAR_REGENERATE").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let first = wanted
        .lines()
        .zip(found.lines())
        .position(|(wanted, found)| wanted != found);
    assert!(
        found == wanted,
        "crds/{name} is not what the types say (first difference: line {}); TIEBAR_REGENERATE=1 cargo test -p crds --test generated \
         writes it",
        first.map_or_else(
            || found.lines().count().min(wanted.lines().count()) + 1,
            |index| index + 1
        )
    );
}

#[test]
fn the_definition_is_committed() {
    same("circuitbreakers.yaml", &crds::yaml());
}

//! One parser of foreign bytes under a coverage-guided fuzzer: the one that `TIEBAR_PARSER` names.
#![no_main]

#[path = "../../tests/support/parsers.rs"]
mod parsers;

use libfuzzer_sys::fuzz_target;
use parsers::Parser;
use std::sync::LazyLock;

static PARSE: LazyLock<Parser> = LazyLock::new(|| {
    let names: Vec<&str> = parsers::PARSERS.iter().map(|(name, _)| *name).collect();
    let wanted = std::env::var("TIEBAR_PARSER").unwrap_or_default();
    let found = parsers::PARSERS.iter().find(|(name, _)| *name == wanted);
    let Some((_, parse)) = found else { panic!("TIEBAR_PARSER={wanted:?}; wanted one of {names:?}") };
    *parse
});

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = PARSE(bytes) {
        assert!(!error.trim().is_empty());
    }
});

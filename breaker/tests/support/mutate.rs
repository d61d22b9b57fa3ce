//! Inputs nobody meant: kept ones, changed at random by a seeded generator without dependencies, so that every package's
//! tests can use it.
#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::path::Path;
use std::time::{Duration, Instant};

/// No input this small may take longer, on a busy machine and unoptimised; most take microseconds.
const BOUND: Duration = Duration::from_secs(2);
/// Inputs stay below this, in bytes.
const MAX_BYTES: usize = 4_096;

/// SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// The kept inputs of a folder; `.hex` files are bytes written as text.
pub(crate) fn corpus(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let bytes = if path.extension().is_some_and(|extension| extension == "hex") {
                unhex(&bytes)
            } else {
                bytes
            };
            (path.file_name().unwrap().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}: no inputs", folder.display());
    inputs
}

fn unhex(text: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = text
        .iter()
        .filter_map(|byte| char::from(*byte).to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// One input with a few changes.
pub(crate) fn mutate(dice: &mut Dice, inputs: &[(String, Vec<u8>)], words: &[&str]) -> Vec<u8> {
    let mut bytes = inputs[dice.below(inputs.len())].1.clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let to = (at + dice.below(16)).min(bytes.len());
        match dice.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 0x7F, 0x80, 0xFF, b'\n', b' ', b'"', b'-'][dice.below(8)],
            2 => drop(bytes.drain(at..to)),
            3 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &inputs[dice.below(inputs.len())].1;
                let from = dice.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            6 if !words.is_empty() => {
                bytes.splice(at..to, words[dice.below(words.len())].bytes());
            }
            7 => bytes.insert(at, dice.next() as u8),
            // A digit more or less, and every number near an edge.
            _ => {
                let edges = [
                    "0",
                    "-1",
                    "255",
                    "65536",
                    "4294967296",
                    "9007199254740993",
                    "9223372036854775807",
                    "1e309",
                ];
                bytes.splice(at..to, edges[dice.below(edges.len())].bytes());
            }
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Changed inputs for each parser.
pub(crate) fn runs() -> usize {
    setting("TIEBAR_FUZZ_RUNS", 3_000) as usize
}

/// What the changes follow from.
pub(crate) fn seed() -> u64 {
    setting("TIEBAR_FUZZ_SEED", 1)
}

/// Gives a parser everything that is kept and `TIEBAR_FUZZ_RUNS` (default 3,000) changed inputs. It must not panic, must
/// be done soon, and must say something about what it refuses; a kept input's name tells what is expected of it.
pub(crate) fn shake(folder: &Path, words: &[&str], parse: impl Fn(&[u8]) -> Result<(), String>) {
    let (runs, seed) = (runs(), seed());
    let inputs = corpus(folder);
    let (mut taken, mut refused) = (0_u64, 0_u64);
    let mut feed = |what: &str, bytes: &[u8]| {
        let start = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parse(bytes)));
        let shown = String::from_utf8_lossy(bytes);
        let Ok(result) = result else {
            panic!("{what}: panics at {shown:?}, bytes {bytes:02x?}")
        };
        assert!(start.elapsed() < BOUND, "{what}: {:?} for {shown:?}", start.elapsed());
        match result {
            Ok(()) => taken += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.trim().is_empty(), "{what}: refused without a word: {shown:?}");
                assert!(!error.contains("hunter2"), "{what}: tells the password: {error}");
            }
        }
    };
    for (name, bytes) in &inputs {
        feed(name, bytes);
    }
    let mut dice = Dice::new(seed);
    for run in 0..runs {
        let bytes = mutate(&mut dice, &inputs, words);
        feed(&format!("run {run} of seed {seed}"), &bytes);
    }
    println!("{}: {taken} taken, {refused} refused", folder.display());
    assert!(
        taken > 0 && refused > 0,
        "{}: everything is alike to it",
        folder.display()
    );
}

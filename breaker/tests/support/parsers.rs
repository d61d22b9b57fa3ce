//! The parsers of this crate by name, as functions of bytes; shared by the test and the fuzz target.

use std::collections::HashMap;
use tiebar::duration;
use tiebar::id::ServiceId;
use tiebar::redis::{RedisSettings, RedisStore, codec};

/// What a parser says about bytes; text that is no UTF-8 is refused before it.
pub(crate) type Parser = fn(&[u8]) -> Result<(), String>;

/// All of them, by the name of their corpus.
pub(crate) const PARSERS: &[(&str, Parser)] = &[
    ("duration", parse_duration),
    ("id", parse_id),
    ("address", parse_address),
    ("announcement", parse_announcement),
    ("reply", parse_reply),
    ("core", parse_core),
    ("hot", parse_hot),
    ("record", parse_record),
    ("marker", parse_marker),
    ("config", parse_config),
    ("event", parse_event),
];

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

fn told(error: impl ToString) -> String {
    error.to_string()
}

fn parse_duration(bytes: &[u8]) -> Result<(), String> {
    let ms = duration::parse(text(bytes)?).map_err(told)?;
    // Five digits is what the specification allows; more hours than that can only be summed up.
    if ms < 100_000 * 3_600_000 {
        assert_eq!(duration::parse(&duration::format(ms)), Ok(ms));
    }
    Ok(())
}

fn parse_id(bytes: &[u8]) -> Result<(), String> {
    let id = ServiceId::parse(text(bytes)?).map_err(told)?;
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c);
    assert!(id.as_str().chars().all(harmless), "{id} could break out of a key");
    Ok(())
}

fn parse_address(bytes: &[u8]) -> Result<(), String> {
    RedisStore::new(RedisSettings::new(text(bytes)?))
        .map(drop)
        .map_err(told)
}

fn parse_announcement(bytes: &[u8]) -> Result<(), String> {
    codec::announcement(text(bytes)?)
        .map(drop)
        .ok_or_else(|| "no announcement".to_owned())
}

fn parse_reply(bytes: &[u8]) -> Result<(), String> {
    let value = redis::parse_redis_value(bytes).map_err(told)?;
    codec::reply(&value).map(drop).map_err(told)
}

/// The bytes as one field of a data hash, beside a sound core unless they are the core.
fn parse_data(field: &str, bytes: &[u8]) -> Result<(), String> {
    let sound = include_str!("../corpus/core/live-4.hex");
    let digits: Vec<u8> = sound
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    let core: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let hash = HashMap::from([("core".to_owned(), core), (field.to_owned(), bytes.to_vec())]);
    let data = codec::data(&hash).map_err(told)?.ok_or("a newer layout")?;
    // What people are shown is computed from it.
    let _ = data.snapshot(None, 1_795_643_720_757);
    Ok(())
}

fn parse_core(bytes: &[u8]) -> Result<(), String> {
    parse_data("core", bytes)
}

fn parse_hot(bytes: &[u8]) -> Result<(), String> {
    parse_data("hot", bytes)
}

fn parse_record(bytes: &[u8]) -> Result<(), String> {
    parse_data("i:local:8001", bytes)
}

fn parse_marker(bytes: &[u8]) -> Result<(), String> {
    parse_data("b:351a456486ca750b", bytes)
}

fn parse_config(bytes: &[u8]) -> Result<(), String> {
    let hash = HashMap::from([("p".to_owned(), bytes.to_vec())]);
    codec::config_row(&hash)
        .map_err(told)?
        .map(drop)
        .ok_or_else(|| "none".to_owned())
}

fn parse_event(bytes: &[u8]) -> Result<(), String> {
    let fields = text(bytes)?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    codec::event(&fields).map(drop).map_err(told)
}

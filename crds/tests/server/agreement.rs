//! The API server and the offline rules agree on every field and on random specs: each bound, one less, one more, and
//! what is none at all.

use super::{document, offline, online};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A field of `spec`: its path, and what its schema says.
type Leaf = (Vec<String>, Value);

fn leaves(schema: &Value, path: &[String], found: &mut Vec<Leaf>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(name)].concat();
        if property["type"] == "object" {
            // The object itself is a field too: what is none, and what is empty.
            found.push((path.clone(), json!({"type": "object"})));
            leaves(property, &path, found);
        } else {
            found.push((path, property.clone()));
        }
    }
}

fn spec_leaves() -> Vec<Leaf> {
    let crd: Value = serde_yaml::from_str(&crds::yaml()).unwrap();
    let mut found = Vec::new();
    leaves(
        &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
        &[],
        &mut found,
    );
    assert!(found.len() > 40, "{}", found.len());
    found
}

const DURATIONS: [&str; 30] = [
    "",
    "0",
    "0s",
    "0h0m0s0ms",
    "1ms",
    "9ms",
    "10ms",
    "99ms",
    "100ms",
    "999ms",
    "1s",
    "1000ms",
    "30s",
    "1m",
    "59m59s",
    "1h",
    "60m",
    "60m1ms",
    "61m",
    "23h",
    "24h",
    "24h1ms",
    "1440m",
    "25h",
    "99999h99999m99999s99999ms",
    "1s1m",
    "1.5s",
    "-1s",
    "1us",
    "30 s",
];
const TEXTS: [&str; 34] = [
    "",
    " ",
    "a",
    "A",
    "inventory",
    "a.b_c-d",
    "a-",
    "é",
    "a\u{a0}",
    "503",
    "500-599",
    "599-500",
    "99",
    "600",
    "5xx",
    "503 ",
    "UNAVAILABLE",
    "OK",
    "text/plain",
    "text/plain; charset=utf-8",
    "text",
    "a/b;\n",
    "http://a",
    "https://a:1/b?c",
    "http://u@a",
    "http://a b",
    "http://[::1]",
    "HTTP://a",
    "2026-12-01T22:00:00Z",
    "2026-12-01T22:00:00.5+02:00",
    "2026-13-01T22:00:00Z",
    "2026-12-01T22:00:60Z",
    "2026-12-01",
    "2026-12-01t22:00:00z",
];

/// What is worth trying in a field.
fn values(schema: &Value) -> Vec<Value> {
    let mut values = vec![
        Value::Null,
        json!(true),
        json!("text"),
        json!(7),
        json!([]),
        json!({}),
        json!(1.5),
    ];
    match schema["type"].as_str() {
        Some("integer") => {
            let (low, high) = (schema["minimum"].as_i64().unwrap(), schema["maximum"].as_i64().unwrap());
            values.extend([low - 1, low, low + 1, high - 1, high, high + 1, i64::from(i32::MAX) + 1].map(Value::from));
        }
        Some("array") => {
            let most = usize::try_from(schema["maxItems"].as_u64().unwrap()).unwrap();
            for item in texts(&schema["items"]) {
                values.push(json!([item]));
                values.push(json!(vec![item.clone(); most]));
                values.push(json!(vec![item; most + 1]));
            }
        }
        Some("string") => values.extend(texts(schema)),
        _ => {}
    }
    values
}

fn texts(schema: &Value) -> Vec<Value> {
    if let Some(names) = schema["enum"].as_array() {
        let wrong = names.iter().map(|name| json!(name.as_str().unwrap().to_lowercase()));
        return names.iter().cloned().chain(wrong).chain([json!("")]).collect();
    }
    let is_duration = schema["description"]
        .as_str()
        .is_some_and(|text| text.contains("A duration like"));
    let texts = if is_duration { &DURATIONS[..] } else { &TEXTS[..] };
    let mut texts: Vec<Value> = texts.iter().map(|text| json!(text)).collect();
    if let Some(longest) = schema["maxLength"].as_u64() {
        let longest = usize::try_from(longest).unwrap();
        // Counted in characters, not bytes; and of a kind that many patterns accept.
        for filler in ["a", "1", "é"] {
            texts.push(json!(filler.repeat(longest)));
            texts.push(json!(filler.repeat(longest + 1)));
        }
    }
    texts
}

fn set(spec: &mut Value, path: &[String], value: Value) {
    match path {
        [] => *spec = value,
        [first, rest @ ..] => {
            if !spec.is_object() {
                *spec = json!({});
            }
            set(&mut spec[first], rest, value);
        }
    }
}

fn check(specs: &[Value]) -> (usize, Vec<String>) {
    let documents: Vec<Value> = specs
        .iter()
        .enumerate()
        .map(|(number, spec)| document(&format!("agree-{number}"), spec))
        .collect();
    // kubectl holds itself to 50 requests a second; four of them are no stampede yet.
    let verdicts: BTreeMap<_, _> = std::thread::scope(|scope| {
        let ask = |part| scope.spawn(move || online(&["create", "--dry-run=server"], part));
        let asked: Vec<_> = documents.chunks(documents.len().div_ceil(4)).map(ask).collect();
        asked.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let mut parted = Vec::new();
    for document in &documents {
        let (online, offline) = (
            &verdicts[document["metadata"]["name"].as_str().unwrap()],
            offline(document),
        );
        if online.is_ok() != offline.is_ok() {
            let clip: String = document["spec"].to_string().chars().take(300).collect();
            parted.push(format!("{clip}\n   online {online:?}\n  offline {offline:?}"));
        }
    }
    (verdicts.values().filter(|verdict| verdict.is_ok()).count(), parted)
}

/// A valid spec in which every field is there, so that each can be wrong alone.
fn full() -> Value {
    serde_yaml::from_str(
        "{serviceName: inventory, mode: Enforce, storeFailurePolicy: LocalOnly,
          trip: {consecutiveFailures: 10, failureRateThreshold: 50, slowCallRateThreshold: 80,
                 slowCallDurationThreshold: 750ms, minimumNumberOfCalls: 20, minimumInstances: 2,
                 slidingWindow: {duration: 30s}},
          open: {duration: 1s, backoff: Exponential, maxDuration: 24h, jitterPercent: 0},
          halfOpen: {permittedCalls: 5, maxDuration: 30s}, recovery: {rampDuration: 0s, initialPercent: 10},
          call: {timeout: 2s, connectTimeout: 1s}, failureConditions: {httpStatusCodes: ['500-599']},
          rejection: {httpStatusCode: 503}, fallback: {static: {httpStatusCode: 200, body: later}},
          override: {state: ForcedOpen, reason: CHG-4711, expireTime: '2026-12-01T22:00:00Z'}}",
    )
    .unwrap()
}

#[test]
fn on_every_field_alone() {
    let mut specs = vec![full()];
    for (path, schema) in spec_leaves() {
        for value in values(&schema) {
            let mut spec = full();
            set(&mut spec, &path, value);
            specs.push(spec);
        }
    }
    // A window of the other kind, and the other answer.
    for (path, value) in [
        ("trip/slidingWindow", json!({"size": 5})),
        ("fallback", json!({"service": {"url": "http://a"}})),
    ] {
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        for (leaf, schema) in spec_leaves().into_iter().filter(|(leaf, _)| leaf.starts_with(&path)) {
            for tried in values(&schema) {
                let mut spec = full();
                set(&mut spec, &path, value.clone());
                set(&mut spec, &leaf, tried);
                specs.push(spec);
            }
        }
    }
    let (accepted, parted) = check(&specs);
    assert!(
        parted.is_empty(),
        "{} of {}:\n{}",
        parted.len(),
        specs.len(),
        parted.join("\n")
    );
    println!("{} specs, {accepted} accepted", specs.len());
    assert!(
        accepted > specs.len() / 20,
        "{accepted} of {}: hardly anything is accepted",
        specs.len()
    );
}

#[test]
fn on_random_specs() {
    let seed = std::env::var("TIEBAR_AGREEMENT_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    // With values that pass alone most of the time, so that what is judged is how they go together.
    let passes = |path: &[String], value: &Value| {
        let mut spec = full();
        set(&mut spec, path, value.clone());
        offline(&document("a", &spec)).is_ok()
    };
    let leaves: Vec<(Vec<String>, Vec<Value>, Vec<Value>)> = spec_leaves()
        .into_iter()
        .map(|(path, schema)| {
            let all = values(&schema);
            let good = all.iter().filter(|value| passes(&path, value)).cloned().collect();
            (path, all, good)
        })
        .collect();
    let spec = |random: &mut fastrand::Rng| {
        let mut spec = if random.bool() { json!({}) } else { full() };
        for _ in 0..random.usize(1..6) {
            let (path, all, good) = &leaves[random.usize(..leaves.len())];
            let from = if random.u8(..20) > 0 && !good.is_empty() {
                good
            } else {
                all
            };
            set(&mut spec, path, from[random.usize(..from.len())].clone());
        }
        spec
    };
    let specs: Vec<Value> = (0..400).map(|_| spec(&mut random)).collect();
    let (accepted, parted) = check(&specs);
    assert!(
        parted.is_empty(),
        "TIEBAR_AGREEMENT_SEED={seed}: {} of {}:\n{}",
        parted.len(),
        specs.len(),
        parted.join("\n")
    );
    println!("{} specs, {accepted} accepted", specs.len());
    assert!(
        accepted > specs.len() / 5 && accepted < specs.len(),
        "{accepted} of {}: too one-sided",
        specs.len()
    );
}

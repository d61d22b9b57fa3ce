//! What metrics tell of each breaker, from the leader only, so that an alert fires once.
//!
//! Written piece by piece as whoever asks reads: a registry of all of it takes a hundred megabytes for 5,000 breakers, most
//! of what the operator would ever need.

use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use tiebar::id::ServiceId;

/// Breakers to a piece.
const PIECE: usize = 200;

/// What a status tells, as far as metrics do.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    conditions: Vec<Condition<'a>>,
    #[serde(borrow)]
    instances: HashMap<&'a str, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

/// One breaker as it is.
struct Shown<'a> {
    id: &'a ServiceId,
    told: Told<'a>,
    /// The window's calls and failing ones.
    window: Option<(u64, u64)>,
}

struct Family {
    name: &'static str,
    help: &'static str,
    lines: fn(&mut String, &str, &Shown<'_>) -> std::fmt::Result,
}

static FAMILIES: [Family; 5] = [
    Family {
        name: "tiebar_breaker_state",
        help: "1 for the state the circuit is in",
        lines: states,
    },
    Family {
        name: "tiebar_breaker_condition",
        help: "1 for the status a condition has",
        lines: conditions,
    },
    Family {
        name: "tiebar_breaker_instances",
        help: "Instances that use the breaker",
        lines: instances,
    },
    Family {
        name: "tiebar_breaker_failure_ratio",
        help: "Failed calls of those in the window",
        lines: ratio,
    },
    Family {
        name: "tiebar_breaker_calls",
        help: "Calls in the window",
        lines: calls,
    },
];

/// As in a status, and as everywhere in metrics.
const STATES: [(&str, &str); 6] = [
    ("Closed", "closed"),
    ("Open", "open"),
    ("HalfOpen", "half_open"),
    ("ForcedOpen", "forced_open"),
    ("ForcedClosed", "forced_closed"),
    ("Unknown", "unknown"),
];

const CONDITIONS: [&str; 8] = [
    "Ready",
    "Accepted",
    "Programmed",
    "StoreReachable",
    "Attached",
    "Overridden",
    "Flapping",
    "Stalled",
];

fn states(text: &mut String, name: &str, shown: &Shown<'_>) -> std::fmt::Result {
    for (state, label) in STATES {
        let (id, holds) = (shown.id, u8::from(shown.told.state == state));
        writeln!(text, "{name}{{breaker=\"{id}\",state=\"{label}\"}} {holds}")?;
    }
    Ok(())
}

fn conditions(text: &mut String, name: &str, shown: &Shown<'_>) -> std::fmt::Result {
    for kind in CONDITIONS {
        let Some(condition) = shown.told.conditions.iter().find(|condition| condition.kind == kind) else {
            continue;
        };
        for status in ["True", "False", "Unknown"] {
            let (id, holds) = (shown.id, u8::from(condition.status == status));
            writeln!(
                text,
                "{name}{{breaker=\"{id}\",type=\"{kind}\",status=\"{status}\"}} {holds}"
            )?;
        }
    }
    Ok(())
}

fn instances(text: &mut String, name: &str, shown: &Shown<'_>) -> std::fmt::Result {
    for kind in ["live", "lost", "isolated", "outdated"] {
        let number = shown.told.instances.get(kind);
        let number = number.and_then(serde_json::Value::as_u64).unwrap_or(0);
        writeln!(text, "{name}{{breaker=\"{}\",kind=\"{kind}\"}} {number}", shown.id)?;
    }
    Ok(())
}

fn ratio(text: &mut String, name: &str, shown: &Shown<'_>) -> std::fmt::Result {
    let Some((all, failing)) = shown.window else {
        return Ok(());
    };
    let ratio = failing as f64 / all.max(1) as f64;
    writeln!(text, "{name}{{breaker=\"{}\"}} {ratio}", shown.id)
}

fn calls(text: &mut String, name: &str, shown: &Shown<'_>) -> std::fmt::Result {
    let Some((all, _)) = shown.window else {
        return Ok(());
    };
    writeln!(text, "{name}{{breaker=\"{}\"}} {all}", shown.id)
}

/// Is shown a breaker: its status as text, the window's calls and failing ones.
pub(crate) type Show<'a> = dyn FnMut(&ServiceId, &str, Option<(u64, u64)>) + 'a;

/// Where statuses are to be seen.
pub(crate) trait Statuses {
    /// Shows each of these that is still there.
    fn show(&self, ids: &[ServiceId], to: &mut Show<'_>);
}

/// The text about these, a piece at a time.
pub(crate) fn pieces(statuses: impl Statuses, ids: Vec<ServiceId>) -> impl Iterator<Item = String> {
    let families = if ids.is_empty() { 0 } else { FAMILIES.len() };
    let places = (0..families).flat_map({
        let count = ids.len();
        move |family| (0..count).step_by(PIECE).map(move |from| (family, from))
    });
    places.map(move |(family, from)| {
        let Family { name, help, lines } = &FAMILIES[family];
        let mut text = String::new();
        if from == 0 {
            text = format!("# HELP {name} {help}.\n# TYPE {name} gauge\n");
        }
        statuses.show(&ids[from..ids.len().min(from + PIECE)], &mut |id, status, window| {
            let told = serde_json::from_str(status).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = lines(&mut text, name, &Shown { id, told, window });
        });
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_state_and_one_status_of_each_condition_count() {
        let status = r#"{"state":"HalfOpen","conditions":[{"type":"Ready","status":"True","message":"a \"b\""},
            {"type":"\"odd\"","status":"True"}],"instances":{"live":3,"isolatedNames":["x"]}}"#;
        let id = ServiceId::parse("shop/a").unwrap();
        let shown = Shown {
            id: &id,
            told: serde_json::from_str(status).unwrap(),
            window: Some((4, 1)),
        };
        let mut text = String::new();
        for family in &FAMILIES {
            (family.lines)(&mut text, family.name, &shown).unwrap();
        }
        let ones: Vec<&str> = text.lines().filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(
            ones,
            [
                r#"tiebar_breaker_state{breaker="shop/a",state="half_open"} 1"#,
                r#"tiebar_breaker_condition{breaker="shop/a",type="Ready",status="True"} 1"#,
                r#"tiebar_breaker_instances{breaker="shop/a",kind="live"} 3"#,
                r#"tiebar_breaker_failure_ratio{breaker="shop/a"} 0.25"#,
                r#"tiebar_breaker_calls{breaker="shop/a"} 4"#,
            ]
        );
    }
}

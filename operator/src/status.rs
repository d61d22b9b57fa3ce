//! The status of a breaker, as the resource reports it.

use serde_json::{Value, json};
use tiebar::state::State;
use tiebar::store::{Beat, Snapshot, StoredConfig};

fn name(state: State) -> &'static str {
    match state {
        State::Closed => "Closed",
        State::Open => "Open",
        State::HalfOpen => "HalfOpen",
        State::ForcedOpen => "ForcedOpen",
        State::ForcedClosed => "ForcedClosed",
    }
}

fn time(ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    (ms > 0).then(|| at.to_string())
}

/// What was judged by at the last trip.
fn trip_snapshot(text: &str) -> Value {
    let Ok(evidence) = serde_json::from_str::<Value>(text) else {
        return Value::Null;
    };
    let number = |field: &str| evidence[field].as_u64().unwrap_or(0);
    let percent = |part: u64| (part * 100).checked_div(number("calls")).unwrap_or(0);
    let list = |field: &str| evidence[field].as_array().cloned().unwrap_or_default();
    json!({
        "failureRatePercent": percent(number("failures")),
        "slowCallRatePercent": percent(number("slow") + number("runningSlow")),
        "calls": number("calls"),
        "failures": number("failures"),
        "causes": list("causes").iter().map(|pair| json!({"kind": pair[0], "count": pair[1]})).collect::<Vec<_>>(),
        "topInstances": list("top").iter().map(|entry| entry[0].clone()).collect::<Vec<_>>(),
    })
}

/// Builds the status from what the store says.
pub(crate) fn status(id: &str, config: &StoredConfig, snapshot: Option<&Snapshot>, beats: &[Beat]) -> Value {
    let revision = config
        .programmed
        .as_ref()
        .map_or(0, |programmed| programmed.config.revision);
    let isolated: Vec<&str> = beats
        .iter()
        .filter(|beat| beat.isolated)
        .map(|beat| beat.instance.as_str())
        .take(10)
        .collect();
    let mut status = json!({
        "serviceId": id,
        "state": "Closed",
        "configRevision": revision,
        "instances": {
            "live": beats.len(),
            "isolated": isolated.len(),
            "outdated": beats.iter().filter(|beat| beat.revision != revision).count(),
            "isolatedNames": isolated,
        },
        "lastHandledReset": config.last_reset,
    });
    if let Some(snapshot) = snapshot {
        let view = &snapshot.view;
        status["state"] = json!(name(view.state));
        status["stateReason"] = json!(if view.ramp_age_ms.is_some() {
            "Ramping"
        } else {
            view.reason.as_str()
        });
        status["lastTransitionTime"] = json!(time(snapshot.since));
        status["previousState"] = json!(snapshot.previous.map(name));
        status["openUntilTime"] = json!(time(snapshot.open_until));
        status["rampUntilTime"] = json!(time(snapshot.ramp_until));
        status["round"] = json!(view.round);
        status["transitionCount"] = json!(snapshot.transitions);
        if !snapshot.last_trip.is_empty() {
            status["tripSnapshot"] = trip_snapshot(&snapshot.last_trip);
        }
    }
    status
}

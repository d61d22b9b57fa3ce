//! Events: what a person who describes a resource wants to have been told, once.
//!
//! One per reason and resource in half a minute; what was left out is said with the next. The queue is bounded: what does
//! not fit is in the log and in the store's own history.

use super::budget::Purpose;
use super::context::Context;
use super::watch::resource;
use super::world::{Declared, Key};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tiebar::state::Reason;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events waiting to be written.
const QUEUE: usize = 1_000;
/// Between two of one reason about one resource.
const GAP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    tone: Tone,
    reason: &'static str,
    action: &'static str,
    text: String,
}

impl Note {
    pub(crate) fn new(tone: Tone, reason: &'static str, action: &'static str, text: impl Into<String>) -> Self {
        Self {
            tone,
            reason,
            action,
            text: text.into(),
        }
    }
}

/// When a reason was last told about a resource, and how often it was left out since.
type Told = HashMap<(Key, &'static str), (Instant, u32)>;

pub(crate) struct Notes {
    sender: mpsc::Sender<(ObjectReference, Note)>,
    told: Mutex<Told>,
}

/// What waits to be told.
pub(crate) type Queue = mpsc::Receiver<(ObjectReference, Note)>;

impl Notes {
    pub(crate) fn new() -> (Self, Queue) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let told = Mutex::default();
        (Self { sender, told }, queue)
    }

    /// Tells, unless the same was told a moment ago.
    pub(crate) fn tell(&self, about: &Declared, mut note: Note) {
        let now = Instant::now();
        {
            let mut told = super::context::locked(&self.told);
            if told.len() > 10_000 {
                told.retain(|_, (at, _)| now - *at < GAP);
            }
            let entry = told.entry((about.key.clone(), note.reason)).or_insert((now, 0));
            if entry.0 != now && now - entry.0 < GAP {
                entry.1 += 1;
                return;
            }
            if entry.1 > 0 {
                note.text = format!("{} (and {} more like this)", note.text, entry.1);
            }
            *entry = (now, 0);
        }
        let kind = resource();
        let reference = ObjectReference {
            api_version: Some(kind.api_version),
            kind: Some(kind.kind),
            name: Some(about.key.name.clone()),
            namespace: Some(about.key.namespace.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        };
        if self.sender.try_send((reference, note)).is_err() {
            tracing::debug!(resource = %about.key, "an event was left out");
        }
    }
}

/// Writes what is told, until dropped.
pub(crate) async fn write(context: &Context, queue: &mut Queue, reporter: Reporter) {
    let recorder = Recorder::new(context.client.clone(), reporter);
    while let Some((about, note)) = queue.recv().await {
        context.budget.take(Purpose::Event).await;
        if context.leader().is_none() {
            continue;
        }
        // At most a thousand bytes, between characters.
        let mut text = note.text;
        while text.len() > 1_000 {
            text.pop();
        }
        let event = Event {
            type_: match note.tone {
                Tone::Normal => EventType::Normal,
                Tone::Warning => EventType::Warning,
            },
            reason: note.reason.to_owned(),
            note: Some(text),
            action: note.action.to_owned(),
            secondary: None,
        };
        let published = tokio::time::timeout(context.timing.write, recorder.publish(&event, &about)).await;
        if let Ok(Err(error)) = published {
            tracing::debug!(%error, "an event could not be written");
        }
    }
}

/// What to tell of a change of status.
pub(crate) fn notes(before: &Value, after: &Value) -> Vec<Note> {
    use Tone::{Normal, Warning};
    let mut notes = Vec::new();
    let condition = |status: &'_ Value, kind: &str| -> (String, String, String) {
        let list = status["conditions"].as_array();
        let found = list.and_then(|list| list.iter().find(|condition| condition["type"] == kind));
        let text = |field: &str| {
            found
                .and_then(|found| found[field].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        (text("status"), text("reason"), text("message"))
    };
    let known = before["state"].is_string() && before["state"] != "Unknown";
    let state = after["state"].as_str().unwrap_or_default();
    if known && before["state"] != after["state"] {
        let reason = after["stateReason"].as_str().unwrap_or_default();
        let from = before["state"].as_str().unwrap_or_default();
        let text = format!("{from} → {state}: {reason}");
        match state {
            "Open" => {
                let text = text + &judged_by(reason, &after["tripSnapshot"]);
                notes.push(Note::new(Warning, "CircuitOpened", "Transition", text));
            }
            "HalfOpen" => notes.push(Note::new(Normal, "CircuitHalfOpened", "Transition", text)),
            "Closed" => notes.push(Note::new(Normal, "CircuitClosed", "Transition", text)),
            _ => {}
        }
    }
    let (was, is) = (condition(before, "Overridden"), condition(after, "Overridden"));
    if was.1 != is.1 {
        match &*is.1 {
            "ForcedOpen" | "ForcedClosed" => {
                let text = format!("{}: {}", is.1, is.2);
                notes.push(Note::new(Warning, "OverrideApplied", "Override", text));
            }
            "Expired" => notes.push(Note::new(Normal, "OverrideExpired", "Override", is.2)),
            "NotOverridden" if was.0 == "True" => {
                notes.push(Note::new(
                    Normal,
                    "OverrideRemoved",
                    "Override",
                    "the override was removed",
                ));
            }
            _ => {}
        }
    }
    let (was, is) = (condition(before, "Accepted"), condition(after, "Accepted"));
    if is.0 == "False" && was.1 != is.1 {
        let reason = match &*is.1 {
            "Conflicted" => "Conflicted",
            "OwnedElsewhere" => "OwnedElsewhere",
            _ => "InvalidSpec",
        };
        notes.push(Note::new(Warning, reason, "Accept", is.2));
    }
    let (was, is) = (condition(before, "StoreReachable"), condition(after, "StoreReachable"));
    if is.0 == "False" && was.0 != "False" {
        let text = format!("{}: {}", is.1, is.2);
        notes.push(Note::new(Warning, "StoreUnreachable", "Report", text));
    } else if is.0 == "True" && was.0 == "False" {
        notes.push(Note::new(Normal, "StoreRecovered", "Report", "the store answers again"));
    }
    let (was, is) = (condition(before, "Flapping"), condition(after, "Flapping"));
    if is.0 == "True" && was.0 != "True" {
        notes.push(Note::new(Warning, "Flapping", "Transition", is.2));
    }
    if after["configRevision"].is_u64() && before["configRevision"] != after["configRevision"] {
        let text = format!("revision {}", after["configRevision"]);
        notes.push(Note::new(Normal, "ConfigProgrammed", "Program", text));
    }
    if after["lastHandledReset"].is_string() && before["lastHandledReset"] != after["lastHandledReset"] {
        let text = format!(
            "requested at {}",
            after["lastHandledReset"].as_str().unwrap_or_default()
        );
        notes.push(Note::new(Normal, "ResetHandled", "Reset", text));
    }
    notes
}

/// What a trip was judged by; nothing for circuits that opened for another reason, since the snapshot is the last trip's.
fn judged_by(reason: &str, trip: &Value) -> String {
    let number = |field: &str| trip[field].as_u64().unwrap_or(0);
    let calls = number("calls");
    match Reason::from_name(reason) {
        _ if calls == 0 => String::new(),
        Some(Reason::SlowCallRateExceeded) => format!("; {} % of {calls} calls slow", number("slowCallRatePercent")),
        Some(Reason::ConsecutiveFailures | Reason::FailureRateExceeded | Reason::InstancesIsolated) => {
            format!("; {} of {calls} calls failed", number("failures"))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reasons(before: &Value, after: &Value) -> Vec<&'static str> {
        notes(before, after).iter().map(|note| note.reason).collect()
    }

    #[test]
    fn transitions_are_told_and_the_first_report_is_none() {
        let closed = json!({"state": "Closed", "configRevision": 1});
        let trip = json!({"calls": 9, "failures": 5, "slowCallRatePercent": 88});
        let opened =
            |reason| json!({"state": "Open", "stateReason": reason, "configRevision": 1, "tripSnapshot": trip});
        let open = opened("FailureRateExceeded");
        assert_eq!(reasons(&Value::Null, &closed), ["ConfigProgrammed"]);
        assert_eq!(reasons(&closed, &open), ["CircuitOpened"]);
        let said = |reason| notes(&closed, &opened(reason)).remove(0).text;
        assert_eq!(
            said("FailureRateExceeded"),
            "Closed → Open: FailureRateExceeded; 5 of 9 calls failed"
        );
        assert!(said("SlowCallRateExceeded").ends_with("; 88 % of 9 calls slow"));
        // The snapshot is of the trip before.
        assert_eq!(said("ProbesFailed"), "Closed → Open: ProbesFailed");
        assert_eq!(
            reasons(&open, &json!({"state": "HalfOpen", "configRevision": 1})),
            ["CircuitHalfOpened"]
        );
        assert_eq!(reasons(&open, &open), [""; 0]);
    }

    #[test]
    fn losing_the_store_is_told_and_what_was_unknown_is_no_transition() {
        let condition = |status| json!([{"type": "StoreReachable", "status": status, "reason": "r", "message": "m"}]);
        let up = json!({"state": "Open", "conditions": condition("True")});
        let down = json!({"state": "Unknown", "conditions": condition("False")});
        assert_eq!(reasons(&up, &down), ["StoreUnreachable"]);
        assert_eq!(reasons(&down, &up), ["StoreRecovered"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_kind_in_half_a_minute_and_the_next_says_how_many_were_left_out() {
        let (told, mut queue) = Notes::new();
        let about = super::super::watch::declared(
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "shop"}})).unwrap(),
        )
        .unwrap();
        let note = || Note::new(Tone::Warning, "CircuitOpened", "Transition", "x");
        for _ in 0..5 {
            told.tell(&about, note());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        tokio::time::advance(GAP).await;
        told.tell(&about, note());
        assert_eq!(queue.try_recv().unwrap().1.text, "x");
        assert_eq!(queue.try_recv().unwrap().1.text, "x (and 4 more like this)");
        assert!(queue.try_recv().is_err());
    }
}

//! The status of a breaker, as the resource reports it. Pure: what is declared, what the store says, what was reported
//! before → what to report now. The same facts give the same text, so that equal means nothing to write.

use crate::conditions::{conditions, render, with_ready};
use crate::plan::requested_reset;
use crds::Document;
use crds::status::{MAX_CAUSES, MAX_ISOLATED_NAMES, MAX_TOP_INSTANCES};
use serde_json::{Map, Value, json};
use tiebar::id::ServiceId;
use tiebar::policy::Mode;
use tiebar::state::State;
use tiebar::store::{Beat, Snapshot, StoreError, StoredConfig};

/// An instance beats every 10 s; one silent for longer than this without goodbye is lost, milliseconds.
const LOST_MS: u64 = 25_000;
/// A beat tells nothing about a revision younger than this, milliseconds.
const REVISION_MS: u64 = 5_000;
/// Steps of the store's clock below this change no time that has been told, milliseconds.
const STEP_MS: u64 = 1_000;

/// What became of a document.
#[derive(Debug, Clone)]
pub(crate) enum Claimed<'a> {
    /// It stands for its id.
    Holds(&'a Document),
    /// An older one does. Files have no age: the first one read counts.
    #[cfg_attr(not(any(test, feature = "kubernetes")), expect(dead_code))]
    Conflicted(&'a Document, String),
    /// It is not valid. Files in that state are not breakers at all.
    #[cfg_attr(not(any(test, feature = "kubernetes")), expect(dead_code))]
    Invalid(String),
}

/// What the store says about an id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    pub(crate) config: Option<StoredConfig>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) beats: Vec<Beat>,
    /// When the [`FLAPPING`](crate::conditions::FLAPPING)th last transition happened; 0: there were not so many.
    pub(crate) flapping_since: u64,
    /// The store's clock.
    pub(crate) now: u64,
}

/// The store as the operator sees it.
#[derive(Debug, Clone)]
pub(crate) enum Seen<'a> {
    /// Not asked yet.
    NotYet,
    /// Silent or refusing for ten seconds.
    Lost(&'a StoreError),
    /// It answers.
    Answers(&'a Stored),
}

/// Everything a status is made from.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    /// None when the name cannot be one.
    pub(crate) id: Option<&'a ServiceId>,
    pub(crate) claimed: Claimed<'a>,
    pub(crate) seen: Seen<'a>,
    /// This operator's name.
    pub(crate) owner: &'a str,
    /// Why the last attempt to program failed.
    pub(crate) write_error: Option<&'a str>,
    /// The resource's generation; files have none.
    pub(crate) generation: Option<i64>,
    pub(crate) store_key: Option<String>,
    /// Whether what changes all the time may be brought up to date: at most twice a minute.
    pub(crate) refresh: bool,
    /// What was reported before, or null.
    pub(crate) previous: &'a Value,
    /// RFC 3339, whole seconds.
    pub(crate) now: &'a str,
}

/// The time for conditions: whole seconds.
pub(crate) fn wall_clock() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

pub(crate) fn state_name(state: State) -> &'static str {
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

/// The time of something that happened, or will, by the last transition. As long as there is no other, it stays as it was
/// written first: a store's clock that steps back by a millisecond moves all that was before it, which is no news.
fn steady(previous: &Value, name: &str, transitions: u64, at: u64) -> Option<String> {
    let now = time(at)?;
    let known = previous[name]
        .as_str()
        .filter(|_| previous["transitionCount"] == json!(transitions));
    let known_at = known.and_then(|known| known.parse::<jiff::Timestamp>().ok());
    let is_same = known_at.is_some_and(|known| known.as_millisecond().unsigned_abs().abs_diff(at) < STEP_MS);
    Some(known.filter(|_| is_same).map_or(now, ToOwned::to_owned))
}

/// What was judged by at the last trip.
fn trip_snapshot(text: &str) -> Option<Value> {
    let evidence = serde_json::from_str::<Value>(text).ok()?;
    let number = |field: &str| evidence[field].as_u64().unwrap_or(0);
    let percent = |part: u64| (part * 100).checked_div(number("calls")).unwrap_or(0).min(100);
    let list = |field: &str, most: usize| -> Vec<Value> {
        let list = evidence[field].as_array();
        list.map_or_else(Vec::new, |list| list.iter().take(most).cloned().collect())
    };
    let cause = |pair: &Value| json!({"kind": pair[0], "count": pair[1]});
    let causes: Vec<Value> = list("causes", MAX_CAUSES).iter().map(cause).collect();
    let top: Vec<Value> = list("top", MAX_TOP_INSTANCES)
        .iter()
        .map(|entry| entry[0].clone())
        .collect();
    Some(without_nothing(json!({
        "failureRatePercent": percent(number("failures")),
        "slowCallRatePercent": percent(number("slow") + number("runningSlow")),
        "calls": number("calls"),
        "failures": number("failures"),
        "causes": causes,
        "topInstances": top,
    })))
}

/// Who is there, by the heartbeats.
fn instances(stored: &Stored, revision: u64) -> Value {
    let is_live = |beat: &&Beat| stored.now.saturating_sub(beat.seen_at) < LOST_MS;
    let live: Vec<&Beat> = stored.beats.iter().filter(is_live).collect();
    let isolated: Vec<&str> = live
        .iter()
        .filter(|beat| beat.isolated)
        .map(|beat| beat.instance.as_str())
        .collect();
    // A revision is minted from the store's clock, so it tells its own age.
    let told = |beat: &&&Beat| beat.seen_at > revision.saturating_add(REVISION_MS);
    without_nothing(json!({
        "live": live.len(),
        "lost": stored.beats.len() - live.len(),
        "isolated": isolated.len(),
        "outdated": live.iter().filter(told).filter(|beat| beat.revision != revision).count(),
        "isolatedNames": isolated.iter().take(MAX_ISOLATED_NAMES).collect::<Vec<_>>(),
    }))
}

/// A short word for what is wrong with the store.
pub(crate) fn store_reason(error: &StoreError) -> &'static str {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error {
        _ if says(&["WRONGPASS", "NOAUTH", "AuthenticationFailed", "authentication failed"]) => "AuthFailed",
        _ if says(&["NOPERM"]) => "PermissionDenied",
        _ if says(&["READONLY", "ReadOnly", "read only"]) => "ReadOnly",
        _ if says(&["LOADING"]) => "Loading",
        _ if says(&["OOM"]) => "OutOfMemory",
        // Also while connecting: somebody is there, or it would be refused.
        _ if says(&["timed out"]) => "Timeout",
        StoreError::Unreachable(_) => "ConnectFailed",
        StoreError::TimedOut(_) => "Timeout",
        StoreError::Refused(_) => "Refused",
        StoreError::Protocol(_) => "UnexpectedReply",
    }
}

/// Builds the status.
pub(crate) fn status(facts: &Facts<'_>) -> Value {
    let mut status = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            status.insert(name.to_owned(), value);
        }
    };
    set(
        "observedGeneration",
        facts.generation.map(|generation| json!(generation)),
    );
    set("serviceId", facts.id.map(|id| json!(id.as_str())));
    set("storeKey", facts.store_key.clone().map(Value::String));
    let keep = |name: &str| facts.previous.get(name).cloned();
    match (&facts.claimed, &facts.seen) {
        (Claimed::Conflicted(..), _) => {}
        (_, Seen::Answers(stored)) => {
            for (name, value) in circuit(facts, stored) {
                set(name, value);
            }
        }
        (_, Seen::NotYet | Seen::Lost(_)) => {
            set("state", Some(json!("Unknown")));
            // What stays true without the store.
            for name in [
                "previousState",
                "lastTransitionTime",
                "round",
                "transitionCount",
                "tripSnapshot",
                "configRevision",
            ] {
                set(name, keep(name));
            }
        }
    }
    set("lastHandledReset", handled(facts).map(Value::String));
    let conditions = with_ready(conditions(facts, status.get("instances")));
    status.insert(
        "conditions".to_owned(),
        render(&conditions, facts.previous, facts.generation, facts.now),
    );
    Value::Object(status)
}

/// The last reset carried out. The status remembers the present request even when the store has lost it.
fn handled(facts: &Facts<'_>) -> Option<String> {
    let before = facts.previous["lastHandledReset"].as_str();
    let requested = match &facts.claimed {
        Claimed::Holds(document) => requested_reset(document),
        _ => None,
    };
    let in_store = match facts.seen {
        Seen::Answers(stored) => stored.config.as_ref().map(|config| config.last_reset.as_str()),
        _ => None,
    };
    if before.is_some() && before == requested {
        return before.map(str::to_owned);
    }
    in_store
        .filter(|text| !text.is_empty() && !matches!(facts.claimed, Claimed::Conflicted(..)))
        .or(before)
        .map(str::to_owned)
}

/// The store lost the state of a circuit that was not closed, and no instance has restored it yet.
const STATE_LOST: &str = "StateLost";

/// Whether the circuit was open when last heard of: that nothing is stored any more does not make it closed. The round
/// is 0 only while it is closed.
fn was_open(previous: &Value) -> bool {
    previous["round"].as_u64().is_some_and(|round| round > 0)
}

/// The fields that tell of the circuit.
fn circuit(facts: &Facts<'_>, stored: &Stored) -> Vec<(&'static str, Option<Value>)> {
    let programmed = stored.config.as_ref().and_then(|config| config.programmed.as_ref());
    let revision = programmed.map_or(0, |programmed| programmed.config.revision);
    let forced = programmed.and_then(|programmed| programmed.config.forced);
    let is_expired = |expires_at: u64| expires_at > 0 && expires_at <= stored.now;
    let mut fields = vec![("configRevision", programmed.map(|_| json!(revision)))];
    let held = facts.previous.get("instances").filter(|_| !facts.refresh).cloned();
    fields.push(("instances", Some(held.unwrap_or_else(|| instances(stored, revision)))));
    if let Some(forced) = forced {
        let state = if forced.open {
            State::ForcedOpen
        } else {
            State::ForcedClosed
        };
        let expired = is_expired(forced.expires_at);
        let told = json!({
            "state": (!expired).then(|| state_name(state)),
            "until": time(forced.expires_at),
            "expired": expired,
        });
        fields.push(("override", Some(without_nothing(told))));
    }
    let observes = programmed.is_some_and(|programmed| programmed.config.policy.mode == Mode::Observe);
    let Some(snapshot) = &stored.snapshot else {
        let state = match forced.filter(|forced| !is_expired(forced.expires_at)) {
            Some(forced) if forced.open => State::ForcedOpen,
            Some(_) => State::ForcedClosed,
            None if was_open(facts.previous) => {
                fields.push(("state", Some(json!("Unknown"))));
                fields.push(("stateReason", Some(json!(STATE_LOST))));
                fields.push(("round", facts.previous.get("round").cloned()));
                return fields;
            }
            None => State::Closed,
        };
        fields.push(("state", Some(json!(state_name(state)))));
        return fields;
    };
    let view = &snapshot.view;
    let trip = trip_snapshot(&snapshot.last_trip);
    fields.push(("transitionCount", Some(json!(snapshot.transitions))));
    fields.push(("tripSnapshot", trip));
    if observes && !view.state.is_forced() {
        // The machine is a shadow: it rejects nothing, so the circuit is closed.
        let held = facts.previous["shadow"].get("wouldHaveRejected");
        let rejected = held.filter(|_| !facts.refresh).cloned();
        let shadow = json!({
            "state": state_name(view.state),
            "trips": snapshot.shadow_trips,
            "lastTripTime": time(snapshot.shadow_last_trip),
            "wouldHaveRejected": rejected.unwrap_or_else(|| json!(snapshot.shadow_rejected)),
        });
        fields.push(("state", Some(json!("Closed"))));
        fields.push(("shadow", Some(without_nothing(shadow))));
        return fields;
    }
    let ramping = view.ramp_age_ms.is_some();
    let reason = if ramping { "Ramping" } else { view.reason.as_str() };
    let at = |name, at| steady(facts.previous, name, snapshot.transitions, at).map(Value::String);
    fields.extend([
        ("state", Some(json!(state_name(view.state)))),
        ("stateReason", Some(json!(reason))),
        ("lastTransitionTime", at("lastTransitionTime", snapshot.since)),
        ("previousState", snapshot.previous.map(|state| json!(state_name(state)))),
        ("openUntilTime", at("openUntilTime", snapshot.open_until)),
        ("rampUntilTime", at("rampUntilTime", snapshot.ramp_until)),
        ("round", Some(json!(view.round))),
    ]);
    fields
}

/// Without null and empty fields: to server-side apply those are claims too.
fn without_nothing(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null() && field.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiebar::memory::MemoryStore;
    use tiebar::state::Kind;
    use tiebar::store::{Batch, Exchange, Leader, Outcome, Programme, Store as _};

    fn document(spec: &str) -> Document {
        let text = format!(
            "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        );
        crds::parse_documents(&text).remove(0).unwrap()
    }

    fn facts<'a>(document: &'a Document, stored: &'a Stored, previous: &'a Value) -> Facts<'a> {
        Facts {
            id: Some(&document.id),
            claimed: Claimed::Holds(document),
            seen: Seen::Answers(stored),
            owner: "me",
            write_error: None,
            generation: Some(3),
            store_key: None,
            refresh: true,
            previous,
            now: "2026-01-01T00:00:00Z",
        }
    }

    /// A store in which the breaker was programmed and tripped.
    async fn tripped(document: &Document) -> Stored {
        let store = MemoryStore::new();
        let leader = Leader {
            owner: "me".to_owned(),
            ..Leader::default()
        };
        let resolved = document.resolved.clone();
        let programme = Programme {
            leader,
            spec: resolved.json,
            policy: resolved.policy,
            forced: resolved.forced,
        };
        store.configure(&document.id, &programme).await.unwrap();
        let mut request = Exchange {
            instance: "i".to_owned(),
            boot: "b".to_owned(),
            seed: true,
            ..Exchange::default()
        };
        let seeded = store.exchange(&document.id, &request).await.unwrap();
        let failure = Outcome {
            kind: Kind::Failure,
            cause: 0,
        };
        request.batch = Some(Batch {
            number: 1,
            generation: seeded.view.unwrap().generation,
            outcomes: vec![failure; 5],
            causes: vec!["503".to_owned()],
            ..Batch::default()
        });
        store.exchange(&document.id, &request).await.unwrap();
        crate::programmer::read(&store, &document.id).await.unwrap()
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str) {
        let list = status["conditions"].as_array().unwrap();
        let found = list.iter().find(|condition| condition["type"] == kind).unwrap();
        (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    }

    const TRIPS: &str = "{trip: {consecutiveFailures: 5, minimumInstances: 1}}";

    #[tokio::test]
    async fn an_open_circuit_is_ready_and_the_same_facts_give_the_same_status() {
        let document = document(TRIPS);
        let stored = tripped(&document).await;
        let first = status(&facts(&document, &stored, &Value::Null));
        assert_eq!(
            (&first["state"], &first["stateReason"]),
            (&json!("Open"), &json!("ConsecutiveFailures"))
        );
        assert_eq!(
            (&first["previousState"], &first["round"]),
            (&json!("Closed"), &json!(1))
        );
        assert_eq!(first["tripSnapshot"]["causes"], json!([{"kind": "503", "count": 5}]));
        assert!(first["openUntilTime"].is_string(), "{first}");
        for (kind, expected) in [
            ("Ready", ("True", "Ready")),
            ("Attached", ("False", "NoInstances")),
            ("Flapping", ("False", "Steady")),
            ("Overridden", ("False", "NotOverridden")),
            ("Stalled", ("False", "Progressing")),
        ] {
            assert_eq!(condition(&first, kind), expected, "{kind}");
        }
        let typed: crds::CircuitBreakerStatus = serde_json::from_value(first.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&typed).unwrap(),
            first,
            "the resource has all of these fields"
        );
        let mut again = facts(&document, &stored, &first);
        again.now = "2026-01-02T00:00:00Z";
        assert_eq!(status(&again), first);
    }

    #[tokio::test]
    async fn observe_shows_a_closed_circuit_and_its_shadow() {
        let document = document("{mode: Observe, trip: {consecutiveFailures: 5, minimumInstances: 1}}");
        let stored = tripped(&document).await;
        let status = status(&facts(&document, &stored, &Value::Null));
        assert_eq!(
            (&status["state"], &status["shadow"]["state"]),
            (&json!("Closed"), &json!("Open"))
        );
        assert_eq!(status["shadow"]["trips"], 1);
        assert!(status["openUntilTime"].is_null());
    }

    #[tokio::test]
    async fn what_was_open_and_is_lost_is_not_called_closed() {
        let document = document(TRIPS);
        let stored = tripped(&document).await;
        let open = status(&facts(&document, &stored, &Value::Null));
        let lost = Stored {
            snapshot: None,
            ..stored
        };
        let told = status(&facts(&document, &lost, &open));
        assert_eq!(
            (&told["state"], &told["stateReason"]),
            (&json!("Unknown"), &json!("StateLost"))
        );
        let error = StoreError::Unreachable("refused".to_owned());
        let mut silent = facts(&document, &lost, &told);
        silent.seen = Seen::Lost(&error);
        let after = status(&facts(&document, &lost, &status(&silent)));
        assert_eq!(after["stateReason"], "StateLost", "nor after an outage: {after}");
        let fresh = status(&facts(&document, &lost, &Value::Null));
        assert_eq!(fresh["state"], "Closed", "what nobody called yet is closed");
    }

    #[tokio::test]
    async fn without_the_store_the_state_is_unknown_and_what_stays_true_stays() {
        let document = document(TRIPS);
        let stored = tripped(&document).await;
        let before = status(&facts(&document, &stored, &Value::Null));
        let error = StoreError::Unreachable("refused".to_owned());
        let mut lost = facts(&document, &stored, &before);
        lost.seen = Seen::Lost(&error);
        let after = status(&lost);
        assert_eq!(
            (&after["state"], &after["tripSnapshot"]),
            (&json!("Unknown"), &before["tripSnapshot"])
        );
        assert!(after["openUntilTime"].is_null() && after["instances"].is_null());
        assert_eq!(condition(&after, "Ready"), ("False", "ConnectFailed"));
        assert_eq!(condition(&after, "StoreReachable"), ("False", "ConnectFailed"));
        assert_eq!(condition(&after, "Programmed"), ("Unknown", "StoreUnreachable"));
        assert_eq!(condition(&after, "Accepted"), ("True", "Accepted"));
    }

    #[tokio::test]
    async fn whoever_may_not_program_is_stalled_and_says_why() {
        let document = document(TRIPS);
        let stored = tripped(&document).await;
        let mut loser = facts(&document, &stored, &Value::Null);
        loser.claimed = Claimed::Conflicted(&document, "shop/older".to_owned());
        let told = status(&loser);
        assert_eq!(condition(&told, "Stalled"), ("True", "Conflicted"));
        assert!(told["state"].is_null());
        let mut invalid = facts(&document, &stored, &Value::Null);
        invalid.claimed = Claimed::Invalid("spec.trip: bad".to_owned());
        let told = status(&invalid);
        assert_eq!(condition(&told, "Accepted"), ("False", "Invalid"));
        assert_eq!(told["state"], "Open", "the last good revision is in force");
        let mut foreign = facts(&document, &stored, &Value::Null);
        foreign.owner = "another";
        let told = status(&foreign);
        assert_eq!(condition(&told, "Ready"), ("False", "OwnedElsewhere"));
        assert_eq!(condition(&told, "Stalled"), ("True", "OwnedElsewhere"));
    }

    #[tokio::test]
    async fn what_changes_all_the_time_is_held_until_it_may_be_refreshed() {
        let document = document(TRIPS);
        let mut stored = tripped(&document).await;
        let before = status(&facts(&document, &stored, &Value::Null));
        let revision = before["configRevision"].as_u64().unwrap();
        let beat = |instance: &str, revision, seen_at| Beat {
            instance: instance.to_owned(),
            revision,
            seen_at,
            ..Beat::default()
        };
        stored.now = revision + 60_000;
        stored.beats = vec![
            beat("fine", revision, stored.now),
            beat("old", 1, stored.now),
            beat("not asked yet", 1, revision),
        ];
        let mut held = facts(&document, &stored, &before);
        held.refresh = false;
        assert_eq!(status(&held), before);
        let now = status(&facts(&document, &stored, &before));
        assert_eq!(
            now["instances"],
            json!({"live": 2, "lost": 1, "isolated": 0, "outdated": 1})
        );
        assert_eq!(condition(&now, "Attached"), ("False", "RevisionLag"));
    }

    #[tokio::test]
    async fn a_reset_stays_remembered_when_the_store_forgot_it() {
        let mut document = document(TRIPS);
        let request = crate::plan::RESET.to_owned();
        document.annotations.insert(request, "r2".to_owned());
        let mut stored = tripped(&document).await;
        let remembered = json!({"lastHandledReset": "r2"});
        assert_eq!(
            status(&facts(&document, &stored, &remembered))["lastHandledReset"],
            "r2"
        );
        stored.config.as_mut().unwrap().last_reset = "r1".to_owned();
        assert_eq!(
            status(&facts(&document, &stored, &remembered))["lastHandledReset"],
            "r2"
        );
        stored.config.as_mut().unwrap().last_reset = "r2".to_owned();
        let older = json!({"lastHandledReset": "r1"});
        assert_eq!(status(&facts(&document, &stored, &older))["lastHandledReset"], "r2");
    }

    #[tokio::test]
    async fn flapping_begins_and_ends_late() {
        let document = document(TRIPS);
        let mut stored = tripped(&document).await;
        stored.flapping_since = stored.now - 59_000;
        let flaps = status(&facts(&document, &stored, &Value::Null));
        assert_eq!(condition(&flaps, "Flapping").0, "True");
        stored.now += 30_000;
        assert_eq!(
            condition(&status(&facts(&document, &stored, &Value::Null)), "Flapping").0,
            "False"
        );
        assert_eq!(
            condition(&status(&facts(&document, &stored, &flaps)), "Flapping").0,
            "True"
        );
    }

    #[tokio::test]
    async fn a_step_of_the_store_s_clock_is_no_news_and_a_transition_is() {
        let document = document("{}");
        let mut stored = tripped(&document).await;
        let snapshot = stored.snapshot.as_mut().unwrap();
        snapshot.open_until = snapshot.since + 10_000;
        let first = status(&facts(&document, &stored, &Value::Null));
        let times = |status: &Value| [status["lastTransitionTime"].clone(), status["openUntilTime"].clone()];
        let snapshot = stored.snapshot.as_mut().unwrap();
        (snapshot.since, snapshot.open_until) = (snapshot.since - 1, snapshot.open_until - 1);
        let stepped = status(&facts(&document, &stored, &first));
        assert_eq!(times(&stepped), times(&first));
        assert!(times(&first).iter().all(Value::is_string), "{first}");
        // Another transition, as soon after the first.
        stored.snapshot.as_mut().unwrap().transitions += 1;
        let moved = status(&facts(&document, &stored, &first));
        assert_ne!(times(&moved), times(&first));
        // A step that is seen.
        let snapshot = stored.snapshot.as_mut().unwrap();
        snapshot.transitions -= 1;
        snapshot.since -= STEP_MS;
        let stepped = status(&facts(&document, &stored, &first));
        assert_ne!(stepped["lastTransitionTime"], first["lastTransitionTime"]);
    }

    #[test]
    fn what_is_wrong_with_the_store_has_a_word() {
        for (text, word) in [
            ("WRONGPASS invalid username-password pair", "AuthFailed"),
            ("NOPERM this user has no permissions", "PermissionDenied"),
            ("READONLY You can't write against a read only replica.", "ReadOnly"),
            ("something else", "Refused"),
        ] {
            assert_eq!(store_reason(&StoreError::Refused(text.to_owned())), word);
        }
        let slow = StoreError::Unreachable("timed out".to_owned());
        assert_eq!(store_reason(&slow), store_reason(&StoreError::TimedOut(200)));
    }
}

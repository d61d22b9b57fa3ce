//! What to write into the store, from what is declared and what is stored. Pure, and the one rule for files and for
//! Kubernetes alike; whoever calls it applies the actions and tells their outcome.

use crds::{Document, Notes, Stored};
use tiebar::id::ServiceId;
use tiebar::store::{Leader, Programme, Programmed, StoredConfig};

/// The annotation that resets a breaker, once per value.
pub(crate) const RESET: &str = "tiebar.dev/reset-requested-at";
/// The annotation that pauses reconciliation when its value is `disabled`.
const RECONCILE: &str = "tiebar.dev/reconcile";
/// A reset request is remembered in the store, so its length has a bound, in characters.
const MAX_REQUEST: usize = 128;
/// The owner's heartbeat, milliseconds; it is written again once it is older. A tenth of the silence after which another
/// owner takes over.
const HEARTBEAT_MS: u64 = 60_000;
/// A foreign owner silent for so long, milliseconds, is replaced; the store's script decides by the same number.
pub(crate) const OWNER_SILENCE_MS: u64 = 600_000;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Program(Box<Programme>),
    Reset(String),
    Bury,
}

/// One declared breaker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) document: &'a Document,
    /// The last reset carried out, as remembered beside the store.
    pub(crate) handled: Option<&'a str>,
    /// What another resource left in the store passes to this one: it stood by when the other went.
    pub(crate) inherits: bool,
    /// Writes the heartbeat, due or not: to see whether the store takes writes.
    pub(crate) beat: bool,
}

/// Whether somebody asked to leave the breaker alone.
pub(crate) fn is_paused(document: &Document) -> bool {
    document
        .annotations
        .get(RECONCILE)
        .is_some_and(|value| value == "disabled")
}

/// The reset asked for, if any.
pub(crate) fn requested_reset(document: &Document) -> Option<&str> {
    let text = document.annotations.get(RESET)?.as_str();
    let end = text.char_indices().nth(MAX_REQUEST).map_or(text.len(), |(at, _)| at);
    (!text.is_empty()).then(|| &text[..end])
}

/// Whether the store holds what the document says.
pub(crate) fn matches(document: &Document, programmed: &Programmed) -> bool {
    let resolved = &document.resolved;
    programmed.config.policy == resolved.policy
        && programmed.config.forced == resolved.forced
        && programmed.spec == text(document)
}

/// The live foreign owner, if there is one.
pub(crate) fn foreign_owner<'a>(stored: &'a StoredConfig, owner: &str, now: u64) -> Option<&'a str> {
    let live = stored.programmed.is_some() && now.saturating_sub(stored.owner_seen_at) < OWNER_SILENCE_MS;
    (live && stored.leader.owner != owner).then_some(stored.leader.owner.as_str())
}

/// What the store keeps of a document's words.
fn text(document: &Document) -> String {
    let notes = Notes::of(&document.annotations);
    Stored::write(&document.resolved.json, &notes, document.uid.as_deref())
}

/// Whether another resource of the same cluster was programmed: this one was made anew, and nobody saw the other go.
fn is_anothers(document: &Document, stored: &StoredConfig, leader: &Leader) -> bool {
    let (Some(programmed), Some(uid)) = (&stored.programmed, &document.uid) else {
        return false;
    };
    // Equal texts have equal uids; the rest is read.
    !matches(document, programmed)
        && stored.leader.owner == leader.owner
        && Stored::read(&programmed.spec)
            .and_then(|stored| stored.uid)
            .is_some_and(|stored| stored != *uid)
}

/// The programme a document stands for.
fn programme(document: &Document, leader: &Leader) -> Programme {
    Programme {
        leader: leader.clone(),
        spec: text(document),
        policy: document.resolved.policy.clone(),
        forced: document.resolved.forced,
    }
}

/// Whether nothing may be written for what is declared: somebody asked for that, or another owner lives.
pub(crate) fn is_left_alone(document: &Document, stored: Option<&StoredConfig>, leader: &Leader, now: u64) -> bool {
    is_paused(document) || stored.is_some_and(|stored| foreign_owner(stored, &leader.owner, now).is_some())
}

/// What to write for one id. `now` is the store's clock. No claim: nobody declares it any more.
pub(crate) fn plan(claim: Option<Claim<'_>>, stored: Option<&StoredConfig>, leader: &Leader, now: u64) -> Vec<Action> {
    let Some(Claim {
        document,
        handled,
        inherits,
        beat,
    }) = claim
    else {
        let mine = stored.is_some_and(|stored| stored.programmed.is_some() && stored.leader.owner == leader.owner);
        return if mine { vec![Action::Bury] } else { Vec::new() };
    };
    if is_left_alone(document, stored, leader, now) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    // As if it had been deleted, and then made: no state, no window, no reset of the former one is left.
    let stored = if !inherits && stored.is_some_and(|stored| is_anothers(document, stored, leader)) {
        actions.push(Action::Bury);
        None
    } else {
        stored
    };
    if beat || !stored.is_some_and(|stored| settled(document, stored, leader, now)) {
        actions.push(Action::Program(Box::new(programme(document, leader))));
    }
    if let Some(request) = requested_reset(document)
        && handled != Some(request)
        && stored.is_none_or(|stored| stored.last_reset != request)
    {
        actions.push(Action::Reset(request.to_owned()));
    }
    actions
}

/// Nothing to program: the same content under this very leader, the heartbeat fresh, and no override that ended since
/// (programming again lets the store judge it, which otherwise waits for an instance to speak).
fn settled(document: &Document, stored: &StoredConfig, leader: &Leader, now: u64) -> bool {
    let Some(programmed) = &stored.programmed else {
        return false;
    };
    let ends = programmed.config.forced.map_or(0, |forced| forced.expires_at);
    matches(document, programmed)
        && stored.leader == *leader
        && now.saturating_sub(stored.owner_seen_at) < HEARTBEAT_MS
        && !(stored.owner_seen_at < ends && ends <= now)
}

/// The ids that are stored under this owner and declared by nobody. Only after a complete reading.
pub(crate) fn orphans<'a>(
    stored: impl IntoIterator<Item = (&'a ServiceId, &'a StoredConfig)>,
    is_declared: impl Fn(&ServiceId) -> bool,
    owner: &str,
) -> Vec<ServiceId> {
    stored
        .into_iter()
        .filter(|(id, stored)| stored.programmed.is_some() && stored.leader.owner == owner && !is_declared(id))
        .map(|(id, _)| id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_000_000_000;

    fn document(metadata: &str, spec: &str) -> Document {
        let text = format!(
            "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {{name: a{metadata}}}\nspec: {spec}\n"
        );
        crds::parse_documents(&text).remove(0).unwrap()
    }

    fn leader(owner: &str) -> Leader {
        Leader {
            owner: owner.to_owned(),
            ..Leader::default()
        }
    }

    fn stored(document: &Document, owner: &str) -> StoredConfig {
        let mut config = tiebar::policy::Config::local(document.resolved.policy.clone());
        config.forced = document.resolved.forced;
        StoredConfig {
            programmed: Some(Programmed {
                config,
                spec: text(document),
            }),
            leader: leader(owner),
            owner_seen_at: NOW,
            last_reset: String::new(),
            floor: 0,
        }
    }

    fn planned(document: &Document, stored: &StoredConfig, now: u64) -> Vec<&'static str> {
        let claim = Claim {
            document,
            handled: None,
            inherits: false,
            beat: false,
        };
        let name = |action: &Action| match action {
            Action::Program(_) => "program",
            Action::Reset(_) => "reset",
            Action::Bury => "bury",
        };
        plan(Some(claim), Some(stored), &leader("me"), now)
            .iter()
            .map(name)
            .collect()
    }

    #[test]
    fn nothing_is_written_when_nothing_changed_but_a_heartbeat_in_time() {
        let document = document("", "{}");
        let mine = stored(&document, "me");
        assert_eq!(planned(&document, &mine, NOW + HEARTBEAT_MS - 1), [""; 0]);
        assert_eq!(planned(&document, &mine, NOW + HEARTBEAT_MS), ["program"]);
    }

    #[test]
    fn a_changed_spec_a_drifted_row_a_tombstone_and_a_new_term_are_programmed() {
        let wanted = document("", "{}");
        let other = document("", "{open: {duration: 5s}}");
        assert_eq!(planned(&wanted, &stored(&other, "me"), NOW), ["program"]);
        let mut buried = stored(&wanted, "me");
        buried.programmed = None;
        assert_eq!(planned(&wanted, &buried, NOW), ["program"]);
        let mut older = stored(&wanted, "me");
        older.leader.transitions = 7;
        assert_eq!(planned(&wanted, &older, NOW), ["program"]);
        let claim = Claim {
            document: &wanted,
            handled: None,
            inherits: false,
            beat: false,
        };
        assert_eq!(plan(Some(claim), None, &leader("me"), NOW).len(), 1);
    }

    #[test]
    fn a_resource_made_anew_while_nobody_looked_starts_anew_and_one_that_stood_by_inherits() {
        let of = |uid: &str, spec| Document {
            uid: Some(uid.to_owned()),
            ..document("", spec)
        };
        let (former, edited) = (of("1", "{}"), of("1", "{open: {duration: 5s}}"));
        let mine = stored(&former, "me");
        assert_eq!(planned(&edited, &mine, NOW), ["program"]);
        for anew in [of("2", "{}"), of("2", "{open: {duration: 5s}}")] {
            assert_eq!(planned(&anew, &mine, NOW), ["bury", "program"]);
            let claim = Claim {
                document: &anew,
                handled: None,
                inherits: true,
                beat: false,
            };
            let actions = plan(Some(claim), Some(&mine), &leader("me"), NOW);
            assert!(matches!(*actions, [Action::Program(_)]), "{actions:?}");
        }
        // From a file, from before uids were stored, or left by another cluster: an edit.
        let anew = of("2", "{}");
        assert_eq!(planned(&document("", "{}"), &mine, NOW), ["program"]);
        assert_eq!(planned(&anew, &stored(&document("", "{}"), "me"), NOW), ["program"]);
        let theirs = stored(&former, "them");
        assert_eq!(planned(&anew, &theirs, NOW + OWNER_SILENCE_MS), ["program"]);
    }

    #[test]
    fn an_override_that_ended_is_programmed_once_more_so_that_it_lapses_without_any_instance() {
        let ends = jiff::Timestamp::from_millisecond(NOW as i64 + 5_000).unwrap();
        let spec = format!("{{override: {{state: ForcedOpen, reason: x, expireTime: '{ends}'}}}}");
        let document = document("", &spec);
        let mut mine = stored(&document, "me");
        assert_eq!(planned(&document, &mine, NOW + 4_999), [""; 0]);
        assert_eq!(planned(&document, &mine, NOW + 5_000), ["program"]);
        mine.owner_seen_at = NOW + 5_000;
        assert_eq!(planned(&document, &mine, NOW + 5_001), [""; 0]);
    }

    #[test]
    fn a_live_foreign_owner_is_left_alone_and_a_silent_one_replaced() {
        let document = document("", "{}");
        let theirs = stored(&document, "them");
        assert_eq!(planned(&document, &theirs, NOW + OWNER_SILENCE_MS - 1), [""; 0]);
        assert_eq!(planned(&document, &theirs, NOW + OWNER_SILENCE_MS), ["program"]);
    }

    #[test]
    fn a_heartbeat_that_is_to_prove_something_is_not_waited_for_but_nobody_else_s_is_written() {
        let plain = document("", "{}");
        let claim = |document| Claim {
            document,
            handled: None,
            inherits: false,
            beat: true,
        };
        let planned = |document, owner| {
            plan(
                Some(claim(document)),
                Some(&stored(document, owner)),
                &leader("me"),
                NOW,
            )
        };
        assert!(matches!(*planned(&plain, "me"), [Action::Program(_)]));
        assert_eq!(planned(&plain, "them"), []);
        let paused = document(", annotations: {tiebar.dev/reconcile: disabled}", "{}");
        assert_eq!(planned(&paused, "me"), []);
    }

    #[test]
    fn what_is_gone_is_buried_unless_it_is_somebody_else_s() {
        let document = document("", "{}");
        let (mine, theirs) = (stored(&document, "me"), stored(&document, "them"));
        assert_eq!(plan(None, Some(&mine), &leader("me"), NOW), [Action::Bury]);
        assert_eq!(plan(None, Some(&theirs), &leader("me"), NOW), []);
        assert_eq!(plan(None, None, &leader("me"), NOW), []);
        let (a, b) = (ServiceId::parse("a").unwrap(), ServiceId::parse("b").unwrap());
        let rows = [(&a, &mine), (&b, &theirs)];
        assert_eq!(orphans(rows, |_| false, "me"), std::slice::from_ref(&a));
        assert_eq!(orphans(rows, |id| *id == a, "me"), []);
    }

    #[test]
    fn a_reset_is_asked_for_once_whoever_remembers_it_and_a_paused_breaker_is_left_alone() {
        let reset = document(", annotations: {tiebar.dev/reset-requested-at: now}", "{}");
        let mut mine = stored(&reset, "me");
        assert_eq!(planned(&reset, &mine, NOW), ["reset"]);
        let claim = Claim {
            document: &reset,
            handled: Some("now"),
            inherits: false,
            beat: false,
        };
        assert_eq!(plan(Some(claim), Some(&mine), &leader("me"), NOW), []);
        mine.last_reset = "now".to_owned();
        assert_eq!(planned(&reset, &mine, NOW), [""; 0]);
        let paused = document(", annotations: {tiebar.dev/reconcile: disabled}", "{}");
        let other = document("", "{open: {duration: 5s}}");
        assert_eq!(planned(&paused, &stored(&other, "me"), NOW), [""; 0]);
    }

    #[test]
    fn a_reset_request_is_cut_between_characters() {
        let long = "ä".repeat(300);
        let document = document(
            &format!(", annotations: {{tiebar.dev/reset-requested-at: {long}}}"),
            "{}",
        );
        assert_eq!(
            requested_reset(&document).map(|text| text.chars().count()),
            Some(MAX_REQUEST)
        );
    }
}

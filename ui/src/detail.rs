//! One breaker's page: what is open, since when, why, who sees it, when will it try again.

use crate::answers::answers;
use crate::evidence::Evidence;
use crate::model::{Breaker, Model};
use crate::observed::Observed;
use crate::settings_table::{Setting, settings};
use crate::view::{Kind, Row};
use crate::{chart, words};
use tiebar::policy::{Policy, Window};
use tiebar::state::Reason;
use tiebar::store::{Event, Snapshot};

/// Of so many failures the store remembers the causes.
const CAUSES_KEPT: u64 = 256;

/// Everything the page shows.
#[derive(Debug, Clone)]
pub(crate) struct Detail {
    pub(crate) row: Row,
    /// Questions and their answers.
    pub(crate) answers: Vec<(&'static str, String)>,
    pub(crate) rates: String,
    pub(crate) traffic: String,
    /// What the chart shows, in words.
    pub(crate) rates_caption: String,
    pub(crate) traffic_caption: String,
    /// Kind, count, share in percent.
    pub(crate) causes: Vec<(String, u64, u64)>,
    /// What the causes are of.
    pub(crate) causes_of: &'static str,
    pub(crate) moments: Vec<Moment>,
    pub(crate) instances: Vec<Member>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) revision: u64,
    pub(crate) owner: Option<Note>,
    pub(crate) runbook: Option<Note>,
    /// What each does, and the command.
    pub(crate) commands: Vec<(&'static str, String)>,
    pub(crate) incident: String,
}

/// A note: linked only when it is an address a browser may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) text: String,
    pub(crate) href: Option<String>,
}

impl Note {
    pub(crate) fn new(text: &str) -> Self {
        let web = text.starts_with("https://") || text.starts_with("http://");
        Self {
            href: (web && !text.contains(char::is_whitespace)).then(|| text.to_owned()),
            text: text.to_owned(),
        }
    }
}

/// One transition.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) iso: String,
    pub(crate) clock: String,
    pub(crate) at: u64,
    pub(crate) ago: String,
    pub(crate) to: &'static str,
    pub(crate) class: &'static str,
    pub(crate) shape: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) reason_name: &'static str,
    /// From which state, and by whose report.
    pub(crate) story: String,
    pub(crate) evidence: String,
}

/// One instance.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) behind: bool,
    pub(crate) revision: String,
    pub(crate) outdated: bool,
    pub(crate) link: &'static str,
    pub(crate) troubled: bool,
    pub(crate) in_flight: u64,
    pub(crate) calls: String,
    pub(crate) rejected: String,
    pub(crate) share: String,
    pub(crate) heard_at: u64,
    pub(crate) heard: String,
    pub(crate) heard_iso: String,
}

impl Moment {
    /// `observed`: only a shadow machine made it.
    pub(crate) fn new(event: &Event, observed: bool, now: u64) -> Self {
        let (kind, to) = if observed {
            shadow(event.to)
        } else {
            (state_kind(event.to), words::state(event.to))
        };
        Self {
            iso: words::instant(event.at),
            clock: words::clock(event.at, now),
            at: event.at,
            ago: words::span(now.saturating_sub(event.at)),
            story: story(event),
            to,
            class: kind.class(),
            shape: chart::shape(kind),
            reason: words::reason(event.reason),
            reason_name: event.reason.as_str(),
            evidence: Evidence::read(&event.snapshot).map_or_else(String::new, |evidence| evidence.words()),
        }
    }
}

/// How a bare state is drawn.
pub(crate) fn state_kind(state: tiebar::state::State) -> Kind {
    use tiebar::state::State;
    match state {
        State::Closed => Kind::Closed,
        State::Open => Kind::Open,
        State::HalfOpen => Kind::HalfOpen,
        State::ForcedOpen => Kind::ForcedOpen,
        State::ForcedClosed => Kind::ForcedClosed,
    }
}

/// `from closed, by checkout-1`. What is declared takes effect with whatever report comes next: naming that instance
/// would read as if it had done it.
fn story(event: &Event) -> String {
    let declared = matches!(
        event.reason,
        Reason::Override | Reason::OverrideLapsed | Reason::Reset | Reason::ModeChanged
    );
    let from = event
        .from
        .map(|from| format!("from {}", words::state(from).to_lowercase()));
    let by = (!declared && !event.instance.is_empty()).then(|| format!("by {}", event.instance));
    let parts: Vec<String> = from.into_iter().chain(by).collect();
    parts.join(", ")
}

/// How a state that rejected nothing is drawn and called.
fn shadow(state: tiebar::state::State) -> (Kind, &'static str) {
    use tiebar::state::State;
    match state {
        State::Open => (Kind::ShadowOpen, "Would be open"),
        State::HalfOpen => (Kind::ShadowOpen, "Would probe"),
        State::Closed => (Kind::Shadow, "Would be closed"),
        forced => (state_kind(forced), words::state(forced)),
    }
}

impl Detail {
    pub(crate) fn new(breaker: &Breaker, model: &Model, key_prefix: Option<&str>, here: u64) -> Self {
        let now = model.store_time(here);
        let row = Row::new(breaker, model, here);
        let policy = breaker.policy();
        let (causes, causes_of) = ranked_causes(breaker, row.kind);
        let all: u64 = causes.iter().map(|(_, count)| count).sum();
        let (calls, rejected) = (row.calls_text(), row.rejected_text());
        let notes = &breaker.stored.notes;
        let mut observed = Observed::new(model);
        let mut moment = |event: &Event| Moment::new(event, observed.next(&breaker.id, event), now);
        Self {
            answers: answers(breaker, &row, &policy, now),
            rates: chart::rates(&breaker.series, &policy),
            traffic: chart::traffic(&breaker.series),
            rates_caption: rates_caption(row.kind, breaker.snapshot.as_ref(), &policy),
            traffic_caption: format!("Calls a second: {calls} admitted, {rejected} rejected now"),
            causes: causes
                .into_iter()
                .map(|(kind, count)| (kind, count, (count * 100).checked_div(all).unwrap_or(0)))
                .collect(),
            causes_of,
            moments: breaker.events.iter().map(&mut moment).collect(),
            instances: members(breaker, now),
            settings: settings(&policy, &breaker.stored),
            revision: breaker.revision(),
            owner: notes.owner.as_deref().map(Note::new),
            runbook: notes.runbook.as_deref().map(Note::new),
            commands: commands(&row, key_prefix),
            incident: format!(
                "/api/v1/namespaces/{}/breakers/{}/events?download=1",
                row.namespace.as_deref().unwrap_or("-"),
                row.name
            ),
            row,
        }
    }
}

/// The window's causes while it is judged by them, else those of the last trip.
fn ranked_causes(breaker: &Breaker, kind: Kind) -> (Vec<(String, u64)>, &'static str) {
    let Some(snapshot) = &breaker.snapshot else {
        return (Vec::new(), "");
    };
    let trip = || Evidence::read(&snapshot.last_trip).map_or_else(Vec::new, |evidence| evidence.causes);
    match kind {
        Kind::HalfOpen if !snapshot.causes.is_empty() => (snapshot.causes.clone(), "of this round's probes"),
        Kind::Open | Kind::HalfOpen | Kind::ShadowOpen => (trip(), "of the trip"),
        _ if snapshot.failing > CAUSES_KEPT => (snapshot.causes.clone(), "of the last 256 failures in the window"),
        _ if !snapshot.causes.is_empty() => (snapshot.causes.clone(), "in the window"),
        _ => (trip(), "of the last trip"),
    }
}

fn rates_caption(kind: Kind, snapshot: Option<&Snapshot>, policy: &Policy) -> String {
    let window = words::window(policy);
    match kind {
        Kind::Open => return "While it is open nothing is counted".to_owned(),
        Kind::ShadowOpen => return "While it would be open nothing is counted".to_owned(),
        Kind::HalfOpen => return "While it is half-open only probes count".to_owned(),
        Kind::ForcedOpen | Kind::ForcedClosed => return "While it is forced no rate decides anything".to_owned(),
        Kind::Disabled => return "While it is disabled nothing is counted".to_owned(),
        _ => {}
    }
    let Some(snapshot) = snapshot else {
        return format!("Share of failing calls in {window}: nothing yet");
    };
    let (calls, failing, slow) = (snapshot.calls, snapshot.failing, snapshot.slow);
    let minimum = match policy.window {
        Window::Count(size) => policy.minimum_calls.min(size),
        Window::Time(_) => policy.minimum_calls,
    };
    let rule = policy.failure_rate_bp + policy.slow_rate_bp > 0;
    let enough = if rule && calls < minimum {
        format!(". Not enough calls yet ({calls} of {minimum}): no rate is judged")
    } else {
        String::new()
    };
    format!(
        "In {window}: {}, {failing} failed, {slow} slow{enough}",
        words::count(calls, "call")
    )
}

fn members(breaker: &Breaker, now: u64) -> Vec<Member> {
    let (revision, generation) = (
        breaker.revision(),
        breaker.snapshot.as_ref().map_or(0, |snapshot| snapshot.view.generation),
    );
    let member = |instance: &crate::model::Instance| {
        let (link, troubled) = match (instance.lost, instance.degraded, instance.isolated) {
            (true, _, _) => ("lost: silent without a goodbye", true),
            (_, true, _) => ("alone: cannot reach the store", true),
            (_, _, true) => ("isolated: open by own evidence", true),
            _ => ("connected", false),
        };
        let (calls, failing, slow) = instance.share;
        Member {
            name: instance.name.clone(),
            state: instance.state.replace('_', "-"),
            behind: instance.generation < generation,
            revision: if instance.revision == revision {
                "current".to_owned()
            } else {
                format!("r{}", instance.revision)
            },
            outdated: instance.revision != revision,
            link,
            troubled,
            in_flight: instance.in_flight,
            calls: words::rate(instance.calls_rate),
            rejected: words::rate(instance.rejected_rate),
            share: if calls == 0 {
                "–".to_owned()
            } else {
                format!("{calls} / {failing} / {slow}")
            },
            heard_at: instance.seen_at,
            heard: words::span(now.saturating_sub(instance.seen_at)),
            heard_iso: words::instant(instance.seen_at),
        }
    };
    breaker.instances.iter().map(member).collect()
}

fn commands(row: &Row, key_prefix: Option<&str>) -> Vec<(&'static str, String)> {
    let mut commands = Vec::new();
    if let Some(namespace) = &row.namespace {
        let resource = format!("kubectl -n {namespace}");
        let name = &row.name;
        commands.push(("The resource", format!("{resource} describe circuitbreaker {name}")));
        commands.push((
            "Force open for an hour",
            format!(
                "{resource} patch circuitbreaker {name} --type merge -p \"{{\\\"spec\\\":{{\\\"override\\\":{{\\\"state\\\":\\\"ForcedOpen\\\",\
                 \\\"reason\\\":\\\"CHANGE ME\\\",\\\"expireTime\\\":\\\"$(date -u -d '+1 hour' +%FT%TZ)\\\"}}}}}}\""
            ),
        ));
        commands.push((
            "Clear the override",
            format!("{resource} patch circuitbreaker {name} --type merge -p '{{\"spec\":{{\"override\":null}}}}'"),
        ));
        commands.push((
            "Reset to closed",
            format!("{resource} annotate circuitbreaker {name} --overwrite tiebar.dev/reset-requested-at=\"$(date -u +%FT%TZ)\""),
        ));
    }
    if let Some(prefix) = key_prefix {
        commands.push((
            "Why it did or did not trip",
            format!("tiebar-operator explain {}", row.id),
        ));
        commands.push(("The state as stored", format!("redis-cli GET {prefix}{}:state", row.id)));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_a_browser_may_follow_become_links() {
        assert!(Note::new("https://wiki.example/a?b=c").href.is_some());
        for text in [
            "javascript:alert(1)",
            "data:text/html,x",
            "team checkout",
            "https://a b",
            "//evil.example",
        ] {
            assert_eq!(Note::new(text).href, None, "{text}");
        }
    }
}

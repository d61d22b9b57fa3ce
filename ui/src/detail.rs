//! One breaker's page: what is open, since when, why, who sees it, when will it try again.

use crate::evidence::{Evidence, causes};
use crate::model::{Breaker, Model};
use crate::settings_table::{Setting, settings};
use crate::view::{Kind, Row};
use crate::{chart, words};
use tiebar::policy::{Policy, Window};
use tiebar::state::Reason;
use tiebar::store::{Event, Snapshot};

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
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) class: &'static str,
    pub(crate) shape: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) reason_name: &'static str,
    pub(crate) by: String,
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
    pub(crate) fn new(event: &Event, now: u64) -> Self {
        let kind = state_kind(event.to);
        Self {
            iso: words::instant(event.at),
            clock: words::clock(event.at, now),
            at: event.at,
            ago: words::span(now.saturating_sub(event.at)),
            from: event.from.map_or("nothing", words::state),
            to: words::state(event.to),
            class: kind.class(),
            shape: chart::shape(kind),
            reason: words::reason(event.reason),
            reason_name: event.reason.as_str(),
            by: if event.instance.is_empty() {
                "the operator".to_owned()
            } else {
                event.instance.clone()
            },
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

impl Detail {
    pub(crate) fn new(breaker: &Breaker, model: &Model, key_prefix: Option<&str>, here: u64) -> Self {
        let now = model.store_time(here);
        let row = Row::new(breaker, model, here);
        let policy = breaker.policy();
        let (causes, causes_of) = ranked_causes(breaker, row.kind);
        let all: u64 = causes.iter().map(|(_, count)| count).sum();
        let (calls, rejected) = (row.calls_text(), row.rejected_text());
        let notes = &breaker.stored.notes;
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
            moments: breaker.events.iter().map(|event| Moment::new(event, now)).collect(),
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
        _ if !snapshot.causes.is_empty() => (snapshot.causes.clone(), "in the window"),
        _ => (trip(), "of the last trip"),
    }
}

fn rates_caption(kind: Kind, snapshot: Option<&Snapshot>, policy: &Policy) -> String {
    let window = words::window(policy);
    match kind {
        Kind::Open | Kind::ShadowOpen => return "While it is open nothing is counted".to_owned(),
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

fn answers(breaker: &Breaker, row: &Row, policy: &Policy, now: u64) -> Vec<(&'static str, String)> {
    let mut answers = vec![("What", what(breaker, row, now))];
    let Some(snapshot) = &breaker.snapshot else {
        return answers;
    };
    let round = match snapshot.view.round {
        0 => String::new(),
        1 => ", first round".to_owned(),
        round => format!(", round {round}"),
    };
    let lasted = words::span(now.saturating_sub(snapshot.since));
    answers.push((
        "Since",
        format!("{} ({lasted}){round}", words::clock(snapshot.since, now)),
    ));
    answers.push(("Why", why(breaker, row, policy, snapshot)));
    answers.push(("Who sees it", who(breaker, snapshot)));
    answers.push(("Next", next(row, snapshot, policy, now)));
    if let Some(probe) = last_probe(breaker, now) {
        answers.push(("Last probes", probe));
    }
    if snapshot.shadow_trips > 0 {
        let last = words::clock(snapshot.shadow_last_trip, now);
        let (trips, rejected) = (snapshot.shadow_trips, snapshot.shadow_rejected);
        answers.push((
            "Had it been enforced",
            format!(
                "{} (last at {last}), {} rejected",
                words::count(trips, "trip"),
                words::count(rejected, "call")
            ),
        ));
    }
    answers
}

fn what(breaker: &Breaker, row: &Row, now: u64) -> String {
    let text = match row.kind {
        Kind::Open => "Every call is rejected at once",
        Kind::HalfOpen => "A few probes pass, every other call is rejected",
        Kind::Unknown => "Nobody knows: what is stored cannot be read now",
        Kind::ForcedOpen => "Every call is rejected, because somebody said so",
        Kind::ForcedClosed => "Every call passes whatever happens, because somebody said so",
        Kind::ShadowOpen => "Calls pass; enforced, they would be rejected",
        Kind::Ramping => "A growing share of calls passes",
        Kind::Closed => "Calls pass and are counted",
        Kind::Shadow => "Calls pass and are counted, and will pass whatever the count",
        Kind::Disabled => "Calls pass and are not counted",
        Kind::Idle => "No instance has reported a call yet",
    };
    let note = if row.kind == Kind::Unknown {
        format!(" ({})", row.note)
    } else {
        String::new()
    };
    let ramp = breaker.snapshot.as_ref().filter(|_| row.kind == Kind::Ramping);
    let share = ramp.map_or_else(String::new, |snapshot| {
        let policy = breaker.policy();
        let age = policy.ramp_ms.saturating_sub(snapshot.ramp_until.saturating_sub(now));
        let gained = (100 - policy.ramp_initial_percent) * age / policy.ramp_ms.max(1);
        format!(": {} % now", policy.ramp_initial_percent + gained)
    });
    format!("{text}{share}{note}.")
}

fn why(breaker: &Breaker, row: &Row, policy: &Policy, snapshot: &Snapshot) -> String {
    if let Some(forced) = row
        .forced
        .as_ref()
        .filter(|_| matches!(row.kind, Kind::ForcedOpen | Kind::ForcedClosed))
    {
        return format!("“{}” – {}.", forced.reason, forced.until_text(&row.now));
    }
    let reason = words::reason(snapshot.view.reason);
    let evidence = match row.kind {
        Kind::Open | Kind::HalfOpen | Kind::ShadowOpen => Evidence::read(&snapshot.last_trip),
        _ => breaker.events.first().and_then(|event| Evidence::read(&event.snapshot)),
    };
    let mut text = match evidence {
        Some(evidence) if row.kind == Kind::HalfOpen => {
            format!("{reason}. It had tripped: {}", evidence.words())
        }
        Some(evidence) => {
            let rate = |bad: u64, calls: u64| (bad * 10_000).checked_div(calls).map(words::percent);
            let running = evidence.running_slow;
            let rate = match snapshot.view.reason {
                Reason::FailureRateExceeded => rate(evidence.failures, evidence.calls),
                Reason::SlowCallRateExceeded => rate(evidence.slow + running, evidence.calls + running),
                _ => None,
            };
            let rate = rate.map_or_else(String::new, |rate| format!(" ({rate})"));
            format!("{reason}{rate}: {}", evidence.words())
        }
        None => reason.to_owned(),
    };
    if row.kind == Kind::Closed && snapshot.calls > 0 && snapshot.calls < policy.minimum_calls {
        let minimum = policy.minimum_calls;
        if policy.failure_rate_bp + policy.slow_rate_bp > 0 {
            text = format!(
                "{text}. Not enough calls yet to judge a rate ({} of {minimum})",
                snapshot.calls
            );
        }
    }
    if row.kind == Kind::Closed && !snapshot.causes.is_empty() {
        text = format!("{text}. Failing now: {}", causes(&snapshot.causes));
    }
    let mut letters = text.chars();
    let first = letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().to_string());
    format!("{first}{}.", letters.as_str())
}

fn who(breaker: &Breaker, snapshot: &Snapshot) -> String {
    let counts = breaker.counts();
    let current = breaker.instances.iter().filter(|instance| !instance.lost);
    let behind = current
        .filter(|instance| instance.generation < snapshot.view.generation)
        .count();
    let mut text = match counts.live {
        0 => "no instance has been heard of lately".to_owned(),
        live => words::count(live as u64, "instance"),
    };
    let others = [
        (behind, "had not reported this state at the last heartbeat"),
        (counts.isolated, "open alone, by own evidence"),
        (counts.degraded, "without the store, on its own"),
        (counts.outdated, "with another configuration"),
        (counts.lost, "gone without a goodbye"),
    ];
    for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
        text = format!("{text}; {count} {what}");
    }
    format!("{text}.")
}

fn next(row: &Row, snapshot: &Snapshot, policy: &Policy, now: u64) -> String {
    let probes = words::count(policy.permitted_calls, "probe");
    match row.kind {
        Kind::Open if snapshot.open_until > now => {
            let left = words::wait(snapshot.open_until - now);
            format!(
                "In {left}, at {}, up to {probes} may pass.",
                words::clock(snapshot.open_until, now)
            )
        }
        Kind::Open => format!(
            "It has waited long enough: the next calls become probes, up to {}.",
            policy.permitted_calls
        ),
        Kind::HalfOpen => {
            let back = format!(
                "{} of {} back, {} out",
                snapshot.finished,
                snapshot.permitted.max(1),
                snapshot.leases
            );
            let verdict = if snapshot.round_until > now {
                format!(
                    "; a verdict by {} at the latest",
                    words::clock(snapshot.round_until, now)
                )
            } else {
                String::new()
            };
            format!("Probing: {back}{verdict}.")
        }
        Kind::ForcedOpen if row.forced.is_some() => {
            "When the override ends it is open and due: the next calls become probes.".to_owned()
        }
        Kind::ForcedClosed if row.forced.is_some() => {
            "When the override ends it is closed, with an empty window.".to_owned()
        }
        Kind::Ramping => format!("All calls pass from {} on.", words::clock(snapshot.ramp_until, now)),
        Kind::Unknown => "When the store answers again.".to_owned(),
        Kind::Disabled => "Nothing, until its mode changes.".to_owned(),
        _ => trip_rule(policy),
    }
}

/// What would open it.
fn trip_rule(policy: &Policy) -> String {
    let mut rules = Vec::new();
    if policy.consecutive_failures > 0 {
        rules.push(format!("{} failures in a row", policy.consecutive_failures));
    }
    if policy.failure_rate_bp > 0 {
        rules.push(format!("{} failing", words::percent(policy.failure_rate_bp)));
    }
    if policy.slow_rate_bp > 0 {
        let slow = tiebar::duration::format(policy.slow_call_ms);
        rules.push(format!("{} slower than {slow}", words::percent(policy.slow_rate_bp)));
    }
    format!("It opens at {} in {}.", rules.join(" or "), words::window(policy))
}

fn last_probe(breaker: &Breaker, now: u64) -> Option<String> {
    let verdicts = [
        Reason::ProbesSucceeded,
        Reason::ProbesFailed,
        Reason::ProbesTimedOut,
        Reason::ProbesLost,
    ];
    let event = breaker.events.iter().find(|event| verdicts.contains(&event.reason))?;
    let evidence =
        Evidence::read(&event.snapshot).map_or_else(String::new, |evidence| format!(": {}", evidence.words()));
    let ago = words::span(now.saturating_sub(event.at));
    Some(format!("{ago} ago, {}{evidence}.", words::reason(event.reason)))
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

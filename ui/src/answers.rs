//! The answers an engineer on call needs, in words: what, since when, why, who sees it, what comes next.

use crate::evidence::{Evidence, causes};
use crate::model::Breaker;
use crate::view::{Kind, Row};
use crate::words;
use tiebar::policy::Policy;
use tiebar::state::Reason;
use tiebar::store::Snapshot;

/// The questions with their answers.
pub(crate) fn answers(breaker: &Breaker, row: &Row, policy: &Policy, now: u64) -> Vec<(&'static str, String)> {
    let mut answers = vec![("What", what(breaker, row, now))];
    let Some(snapshot) = &breaker.snapshot else {
        answers.extend(why_forced(row).map(|why| ("Why", why)));
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

fn why_forced(row: &Row) -> Option<String> {
    let forced = row.forced.as_ref().filter(|_| row.is_forced())?;
    Some(format!("“{}” – {}.", forced.reason, forced.until_text(&row.now)))
}

fn why(breaker: &Breaker, row: &Row, policy: &Policy, snapshot: &Snapshot) -> String {
    if let Some(why) = why_forced(row) {
        return why;
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
        Kind::ShadowOpen if snapshot.open_until > now => format!(
            "In {} it would probe; calls pass all the while.",
            words::wait(snapshot.open_until - now)
        ),
        Kind::ShadowOpen => "The next calls count as its probes.".to_owned(),
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

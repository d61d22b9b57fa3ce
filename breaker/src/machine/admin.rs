//! The operator's writes: programming, burying, resetting.

use super::{ConfigRow, Effects, Row, Turn, finish, no_evidence};
use crate::id::ServiceId;
use crate::policy::Config;
use crate::state::{Reason, State};
use crate::store::{Leader, Programme, Written};

/// A foreign owner silent for so long, milliseconds, may be replaced.
pub(super) const OWNER_SILENCE_MS: u64 = 600_000;

/// Whether `leader` may write over what is there.
fn refusal(row: &Row, leader: &Leader, now: u64) -> Option<Written> {
    let stored = row.config.as_ref()?;
    if stored.leader.owner == leader.owner {
        let older = (leader.created, leader.transitions) < (stored.leader.created, stored.leader.transitions);
        return older.then_some(Written::Superseded);
    }
    let live = stored.config.is_some() && now.saturating_sub(stored.seen_at) < OWNER_SILENCE_MS;
    live.then(|| Written::OwnedElsewhere(stored.leader.owner.clone()))
}

/// Lets a changed configuration act on the stored state at once, so that an override holds without any instance.
fn settle(row: &mut Row, id: &ServiceId, now: u64) -> Effects {
    let Some(config) = row.config.as_ref().and_then(|stored| stored.config.clone()) else {
        return Effects::default();
    };
    let mut turn = Turn::new(id, now, row, &config, "");
    let Some(data) = row.data.as_mut() else {
        return Effects::default();
    };
    turn.respect_newer(&data.core);
    data.core.tick(now);
    data.core.seq += 1;
    turn.settle(&mut data.core);
    finish(row, turn)
}

/// Programs a configuration.
pub fn configure(row: &mut Row, id: &ServiceId, programme: &Programme, now: u64) -> (Written, Effects) {
    if let Some(refused) = refusal(row, &programme.leader, now) {
        return (refused, Effects::default());
    }
    let floor = row.config.as_ref().map_or(0, |stored| stored.floor);
    let last_reset = row
        .config
        .as_ref()
        .map_or_else(String::new, |stored| stored.last_reset.clone());
    let stored = row
        .config
        .as_ref()
        .and_then(|stored| stored.config.as_ref().map(|config| (config, &stored.spec)));
    let before = stored.map_or(0, |(config, _)| config.revision);
    // The configuration may have been lost, and the clock set back, since the state was last judged by one: below that
    // one's revision nothing new would be obeyed.
    let judged = row.data.as_ref().map_or(0, |data| data.core.revision);
    let unchanged = stored.is_some_and(|(config, spec)| {
        config.policy == programme.policy && config.forced == programme.forced && *spec == programme.spec
    }) && before >= judged;
    let revision = if unchanged {
        before
    } else {
        (before.max(judged) + 1).max(now).max(floor + 1)
    };
    row.config = Some(ConfigRow {
        config: Some(Config {
            revision,
            policy: programme.policy.clone(),
            forced: programme.forced,
        }),
        spec: programme.spec.clone(),
        leader: programme.leader.clone(),
        seen_at: now,
        last_reset,
        floor,
    });
    let effects = settle(row, id, now);
    (
        if unchanged {
            Written::Unchanged(revision)
        } else {
            Written::Changed(revision)
        },
        effects,
    )
}

/// Buries an id.
pub fn tombstone(row: &mut Row, leader: &Leader, now: u64) -> Written {
    if let Some(refused) = refusal(row, leader, now) {
        return refused;
    }
    let stored = row.config.as_ref();
    let floor = stored.map_or(0, |stored| stored.floor);
    if stored.is_some_and(|stored| stored.config.is_none()) {
        return Written::Unchanged(floor);
    }
    let revision = stored
        .and_then(|stored| stored.config.as_ref())
        .map_or(0, |config| config.revision);
    let state = row
        .data
        .as_ref()
        .map_or(0, |data| data.core.generation.max(data.core.revision));
    let floor = floor.max(revision).max(state);
    *row = Row {
        config: Some(ConfigRow {
            config: None,
            spec: String::new(),
            leader: leader.clone(),
            seen_at: now,
            last_reset: String::new(),
            floor,
        }),
        ..Row::default()
    };
    Written::Changed(floor)
}

/// Resets to closed, once per request.
pub fn reset(row: &mut Row, id: &ServiceId, leader: &Leader, request: &str, now: u64) -> (Written, Effects) {
    if let Some(refused) = refusal(row, leader, now) {
        return (refused, Effects::default());
    }
    let Some(config) = row.config.as_ref().and_then(|stored| stored.config.clone()) else {
        return (Written::Unchanged(0), Effects::default());
    };
    if let Some(stored) = row.config.as_mut() {
        if stored.last_reset == request {
            return (Written::Unchanged(config.revision), Effects::default());
        }
        stored.last_reset = request.to_owned();
        stored.leader = leader.clone();
        stored.seen_at = now;
    }
    let mut turn = Turn::new(id, now, row, &config, "");
    if let Some(data) = row.data.as_mut() {
        turn.respect_newer(&data.core);
        data.core.tick(now);
        data.core.seq += 1;
        turn.settle(&mut data.core);
        if matches!(data.core.state, State::Closed | State::Open | State::HalfOpen) {
            data.core.streak = 0;
            turn.change(&mut data.core, State::Closed, Reason::Reset, no_evidence());
        }
    }
    (Written::Changed(config.revision), finish(row, turn))
}

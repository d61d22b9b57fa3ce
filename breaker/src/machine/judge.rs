//! Does the evidence suffice? The trip conditions, the worst-instance rule, the verdict on probes, the headroom.

use super::data::{Core, Data};
use super::window::{Sums, until_next_bucket};
use crate::policy::{FULL_BP, Policy, Window};
use crate::state::Reason;

/// One instance's evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// The instance.
    pub(super) instance: String,
    /// Its outcomes.
    pub(super) sums: Sums,
    /// Its running slow calls.
    pub(super) gauge: u64,
}

/// Silence after which a running-slow gauge is forgotten, milliseconds.
pub(super) const GAUGE_SILENCE_MS: u64 = 5_000;

/// The evidence by instance: those with calls in the window or running slow ones.
#[must_use]
pub(super) fn shares(data: &Data) -> Vec<Share> {
    data.instances
        .iter()
        .map(|(name, record)| {
            let live = record.gauge_generation == data.core.generation
                && data.core.clock.saturating_sub(record.seen) < GAUGE_SILENCE_MS;
            Share {
                instance: name.clone(),
                sums: data.share(record),
                gauge: if live { record.gauge } else { 0 },
            }
        })
        .filter(|share| share.sums.calls + share.gauge > 0)
        .collect()
}

/// One of the two rates: what counts as bad, out of how many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rate {
    Failing,
    Slow,
}

impl Rate {
    fn bad_of(self, sums: Sums, gauge: u64) -> (u64, u64) {
        match self {
            Self::Failing => (sums.failing, sums.calls),
            Self::Slow => (sums.slow + gauge, sums.calls + gauge),
        }
    }
}

fn holds(bad: u64, calls: u64, threshold_bp: u64) -> bool {
    calls > 0 && bad * FULL_BP >= threshold_bp * calls
}

/// The minimum, at most the size of a count window.
fn minimum(policy: &Policy) -> u64 {
    match policy.window {
        Window::Count(size) => policy.minimum_calls.min(size),
        Window::Time(_) => policy.minimum_calls,
    }
}

/// Shares with calls by this rate, worst first: most bad, then fewest calls, then by name.
fn worst_first(shares: &[Share], rate: Rate) -> Vec<(u64, u64, &str)> {
    let mut ranked: Vec<(u64, u64, &str)> = shares
        .iter()
        .map(|share| {
            let (bad, calls) = rate.bad_of(share.sums, share.gauge);
            (bad, calls, share.instance.as_str())
        })
        .filter(|(_, calls, _)| *calls > 0)
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(b.2)));
    ranked
}

fn rate_trips(data: &Data, policy: &Policy, rate: Rate, threshold_bp: u64) -> bool {
    if threshold_bp == 0 {
        return false;
    }
    let (bad, calls) = rate.bad_of(data.core.sums(), data.core.gauge);
    if calls < minimum(policy) || !holds(bad, calls, threshold_bp) {
        return false;
    }
    if policy.minimum_instances == 1 && rate == Rate::Failing {
        return true;
    }
    // The stored gauge may count instances that fell silent; the shares do not.
    let shares = shares(data);
    let gauge: u64 = shares.iter().map(|share| share.gauge).sum();
    let (bad, calls) = rate.bad_of(data.core.sums(), gauge);
    if calls < minimum(policy) || !holds(bad, calls, threshold_bp) {
        return false;
    }
    let ranked = worst_first(&shares, rate);
    let agreeing = policy.minimum_instances.min(ranked.len() as u64).max(1);
    let left_out = ranked.iter().take(agreeing as usize - 1);
    let (left_bad, left_calls) = left_out.fold((0, 0), |(b, c), (bad, calls, _)| (b + bad, c + calls));
    agreeing == 1 || holds(bad - left_bad, calls - left_calls, threshold_bp)
}

fn run_trips(data: &Data, policy: &Policy) -> bool {
    if policy.consecutive_failures == 0 || data.core.run < policy.consecutive_failures {
        return false;
    }
    let seen = data.core.run_instances.len() as u64;
    seen >= policy.minimum_instances || {
        let callers = shares(data).iter().filter(|share| share.sums.calls > 0).count() as u64;
        seen >= policy.minimum_instances.min(callers).max(1)
    }
}

/// Why the closed circuit trips now, if it does.
#[must_use]
pub(super) fn trips(data: &Data, policy: &Policy) -> Option<Reason> {
    if run_trips(data, policy) {
        Some(Reason::ConsecutiveFailures)
    } else if rate_trips(data, policy, Rate::Failing, policy.failure_rate_bp) {
        Some(Reason::FailureRateExceeded)
    } else if rate_trips(data, policy, Rate::Slow, policy.slow_rate_bp) {
        Some(Reason::SlowCallRateExceeded)
    } else {
        None
    }
}

/// Whether more than half of the instances with calls or rejections in the window opened alone.
#[must_use]
pub(super) fn mostly_isolated(data: &Data, policy: &Policy) -> bool {
    if policy.minimum_instances < 2 {
        return false;
    }
    let (mut active, mut isolated) = (0, 0);
    for record in data.instances.values() {
        let rejected = record.window_id == data.core.window_id
            && record.rejected_at > 0
            && data.core.clock - record.rejected_at < data.core.window.silence_ms();
        let is_isolated = data.is_isolated(record) && data.core.clock.saturating_sub(record.seen) < GAUGE_SILENCE_MS;
        if is_isolated || rejected || data.share(record).calls > 0 {
            active += 1;
            isolated += u64::from(is_isolated);
        }
    }
    isolated * 2 > active
}

/// What the probes say, with `of` as their number: reopen, or not yet a reason to.
#[must_use]
pub(super) fn probes_fail(core: &Core, policy: &Policy, of: u64) -> bool {
    let failed = if policy.failure_rate_bp == 0 {
        core.failed > 0
    } else {
        core.failed > 0 && core.failed * FULL_BP >= policy.failure_rate_bp * of
    };
    failed || (policy.slow_rate_bp > 0 && core.slow > 0 && core.slow * FULL_BP >= policy.slow_rate_bp * of)
}

/// How many failing and slow outcomes of `instance`, now, do not trip (none: any number), and for how long that holds.
///
/// A lower bound: it supposes that everybody else agrees, except where the worst-instance rule is seen to hold a trip
/// back already.
#[must_use]
pub(super) fn headroom(data: &Data, policy: &Policy, instance: &str) -> (Option<u64>, u64) {
    let valid_ms = match policy.window {
        Window::Time(ms) => until_next_bucket(data.core.clock, ms),
        Window::Count(_) => policy.window.silence_ms(),
    };
    let mut least: Option<u64> = None;
    let mut limit = |room: Option<u64>| {
        if let Some(room) = room {
            least = Some(least.map_or(room, |other| other.min(room)));
        }
    };
    if policy.consecutive_failures > 0 {
        limit(run_room(data, policy, instance));
    }
    for (rate, threshold) in [
        (Rate::Failing, policy.failure_rate_bp),
        (Rate::Slow, policy.slow_rate_bp),
    ] {
        if threshold > 0 {
            limit(rate_room(data, policy, instance, rate, threshold));
        }
    }
    (least, valid_ms)
}

fn run_room(data: &Data, policy: &Policy, instance: &str) -> Option<u64> {
    let core = &data.core;
    if core.run < policy.consecutive_failures {
        return Some(policy.consecutive_failures - core.run - 1);
    }
    // The run is long enough and only waits for another instance: this one may be part of it already.
    if core.run_instances.iter().any(|member| member == instance) {
        None
    } else {
        Some(0)
    }
}

fn rate_room(data: &Data, policy: &Policy, instance: &str, rate: Rate, threshold_bp: u64) -> Option<u64> {
    let (bad, calls) = rate.bad_of(data.core.sums(), data.core.gauge);
    if calls >= minimum(policy) && holds(bad, calls, threshold_bp) {
        return held_back_room(data, policy, instance, rate, threshold_bp);
    }
    let to_minimum = minimum(policy).saturating_sub(calls);
    let to_rate = outcomes_to_rate(bad, calls, threshold_bp);
    let to_rate = match policy.window {
        // A full count window drops an outcome for each one added: at worst a good one.
        Window::Count(size) => {
            let in_full = (threshold_bp * size).div_ceil(FULL_BP).saturating_sub(bad);
            Some(to_rate.map_or(in_full, |room| room.min(in_full)))
        }
        Window::Time(_) => to_rate,
    };
    to_rate.map(|needed| needed.max(to_minimum).saturating_sub(1))
}

/// The least k with bad + k out of calls + k at the threshold; none when no k is (a threshold of 100 %, once missed).
fn outcomes_to_rate(bad: u64, calls: u64, threshold_bp: u64) -> Option<u64> {
    let missing = (threshold_bp * calls).saturating_sub(bad * FULL_BP);
    if missing == 0 {
        Some(0)
    } else if threshold_bp == FULL_BP {
        None
    } else {
        Some(missing.div_ceil(FULL_BP - threshold_bp))
    }
}

/// The room while the total is over the threshold and only the worst-instance rule holds the trip back.
fn held_back_room(data: &Data, policy: &Policy, instance: &str, rate: Rate, threshold_bp: u64) -> Option<u64> {
    if matches!(policy.window, Window::Count(_)) {
        // Each outcome pushes out another instance's, which may be all that holds the trip back.
        return Some(0);
    }
    let shares = shares(data);
    let ranked = worst_first(&shares, rate);
    let agreeing = policy.minimum_instances.min(ranked.len() as u64).max(1) as usize;
    let left_out = &ranked[..(agreeing - 1).min(ranked.len())];
    if left_out.iter().any(|(_, _, name)| *name == instance) {
        return None;
    }
    let Some((least_left_out, _, _)) = left_out.last() else {
        return Some(0);
    };
    let own = ranked
        .iter()
        .find(|(_, _, name)| *name == instance)
        .map_or(0, |(bad, _, _)| *bad);
    // A newcomer raises the number of instances that must agree, which only makes the rule harder to meet.
    let until_left_out = least_left_out.saturating_sub(own).saturating_sub(1);
    let (rest_bad, rest_calls) = ranked[agreeing - 1..]
        .iter()
        .fold((0, 0), |(b, c), (bad, calls, _)| (b + bad, c + calls));
    let until_rate = outcomes_to_rate(rest_bad, rest_calls, threshold_bp).map(|needed| needed.saturating_sub(1));
    Some(until_rate.map_or(until_left_out, |room| room.min(until_left_out)))
}

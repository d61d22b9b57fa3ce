//! Why a breaker did or did not trip, in words.

use crate::evidence::words;
use std::fmt::Write as _;
use tiebar::id::ServiceId;
use tiebar::policy::{Policy, Window};
use tiebar::store::{Snapshot, Store, StoreResult};

/// Explains the state of one breaker.
///
/// # Errors
/// When the store does not answer.
pub async fn explain(store: &dyn Store, id: &ServiceId) -> StoreResult<String> {
    let config = store.config(id).await?;
    let snapshot = store.snapshot(id).await?;
    let events = store.events(id, 5).await?;
    let mut text = String::new();
    let programmed = config.as_ref().and_then(|stored| stored.programmed.as_ref());
    let policy = match (&config, programmed) {
        (_, Some(programmed)) => {
            let _ = writeln!(text, "{id}: revision {}.", programmed.config.revision);
            programmed.config.policy.clone()
        }
        (Some(_), None) => return Ok(format!("{id} was deleted: its instances admit everything.\n")),
        (None, None) => {
            let _ = writeln!(
                text,
                "{id}: nobody has programmed it; its instances judge by rules of their own."
            );
            Policy::default()
        }
    };
    let Some(snapshot) = snapshot else {
        let _ = writeln!(text, "No instance has reported a call yet, so there is no state.");
        return Ok(text);
    };
    evidence(&mut text, &policy, &snapshot);
    for event in events {
        let from = event.from.map_or("nothing", |state| state.as_str());
        let by = if event.instance.is_empty() {
            "the operator"
        } else {
            &event.instance
        };
        let ago = snapshot.now.saturating_sub(event.at) / 1_000;
        let _ = writeln!(
            text,
            "{ago} s ago: {from} → {} {} by {by}{}",
            event.to,
            event.reason,
            words(&event.snapshot)
        );
    }
    Ok(text)
}

fn evidence(text: &mut String, policy: &Policy, snapshot: &Snapshot) {
    let view = &snapshot.view;
    let _ = writeln!(
        text,
        "It is {} since {} s ({}).",
        view.state,
        view.age_ms / 1_000,
        view.reason
    );
    if view.state != tiebar::state::State::Closed {
        if snapshot.open_until > snapshot.now {
            let _ = writeln!(
                text,
                "Probes may pass in {} s.",
                (snapshot.open_until - snapshot.now).div_ceil(1_000)
            );
        }
        return;
    }
    let window = match policy.window {
        Window::Time(ms) => format!("the last {}", tiebar::duration::format(ms)),
        Window::Count(size) => format!("the last {size} calls"),
    };
    let (calls, failing, slow) = (snapshot.calls, snapshot.failing, snapshot.slow);
    let _ = writeln!(text, "In {window}: {calls} calls, {failing} failed, {slow} slow.");
    if calls < policy.minimum_calls && policy.failure_rate_bp + policy.slow_rate_bp > 0 {
        let _ = writeln!(text, "No rate is judged below {} calls.", policy.minimum_calls);
    }
    for (what, bad, threshold) in [
        ("failure", failing, policy.failure_rate_bp),
        ("slow call", slow, policy.slow_rate_bp),
    ] {
        if threshold == 0 || calls == 0 {
            continue;
        }
        let rate = bad * 10_000 / calls;
        let relation = if rate >= threshold { "at or above" } else { "below" };
        let _ = writeln!(
            text,
            "The {what} rate is {} %, {relation} the threshold of {} %.",
            rate / 100,
            threshold / 100
        );
        if rate >= threshold && policy.minimum_instances > 1 {
            let needed = policy.minimum_instances;
            let _ = writeln!(
                text,
                "It must also hold without the {} worst of the instances:",
                needed - 1
            );
        }
    }
    if policy.consecutive_failures > 0 {
        let _ = writeln!(
            text,
            "It also trips at {} failures in a row.",
            policy.consecutive_failures
        );
    }
    for share in &snapshot.instances {
        let alone = if share.isolated { ", open alone" } else { "" };
        let _ = writeln!(
            text,
            "  {}: {} calls, {} failed, {} slow{alone}",
            share.instance, share.calls, share.failing, share.slow
        );
    }
}

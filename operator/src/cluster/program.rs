//! Resources into the store: one id at a time.

use super::context::{Context, backoff, locked};
use super::notes::{Note, Tone};
use crate::plan::{Action, Claim, is_left_alone, matches, plan};
use crate::programmer;
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::store::{Leader, StoreError, StoreResult, Written};
use tokio::time::Instant;

/// Brings an id up to date. While the store fails nothing is tried: once it is back, everything is.
pub(crate) async fn program(context: &Context, id: &ServiceId) {
    let Some(leader) = context.leader() else {
        return;
    };
    if locked(&context.health).since.is_some() {
        return;
    }
    let begun = Instant::now();
    let result = attempt(context, id, &leader, Why::Due).await;
    context.metrics.reconciled(result.is_ok(), begun.elapsed());
    match result {
        Ok(()) => {
            let mut programmed = locked(&context.programmed);
            if let Some(programmed) = programmed.get_mut(id) {
                (programmed.error, programmed.failures) = (None, 0);
            }
        }
        Err(error) => {
            let failures = {
                let mut programmed = locked(&context.programmed);
                let programmed = programmed.entry(id.clone()).or_default();
                programmed.error = Some(error.to_string());
                programmed.failures += 1;
                programmed.failures
            };
            tracing::debug!(breaker = %id, %error, "not programmed");
            context
                .programs
                .push(id.clone(), Instant::now() + backoff(failures - 1), false);
        }
    }
    context.report(id);
}

/// Why an id is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Something may have changed.
    Due,
    /// To see whether the store takes writes: writes the heartbeat, due or not.
    Proof,
}

/// Compares and writes.
pub(crate) async fn attempt(context: &Context, id: &ServiceId, leader: &Leader, why: Why) -> StoreResult<()> {
    let (winner, vacated, complete) = {
        let world = context.world();
        (world.winner(id).cloned(), world.is_vacated(id), world.is_complete())
    };
    let store = &*context.store;
    if vacated && complete {
        let stored = store.config(id).await?;
        for action in plan(None, stored.as_ref(), leader, 0) {
            write(context, id, &action, leader).await?;
        }
        context.world().reburied(id);
    }
    let stored = store.config(id).await?;
    let Some(winner) = winner else {
        locked(&context.programmed).remove(id);
        if complete {
            for action in plan(None, stored.as_ref(), leader, 0) {
                write(context, id, &action, leader).await?;
            }
        }
        return Ok(());
    };
    // What is not valid leaves the last good revision in force.
    let Ok(document) = &winner.document else {
        if let Some(programmed) = locked(&context.programmed).get_mut(id) {
            programmed.proves = false;
        }
        return Ok(());
    };
    let now = store.now().await?;
    let told = winner.status.read();
    let known = locked(&context.programmed).get(id).and_then(|known| known.of.clone());
    let claim = Claim {
        document,
        handled: told["lastHandledReset"].as_str(),
        // Seen to hold another's under this very lease, and never seen without any.
        inherits: known.as_ref().is_some_and(|(uid, _)| *uid != winner.uid),
        beat: why == Why::Proof,
    };
    let held = stored.as_ref().and_then(|stored| stored.programmed.as_ref());
    let drifted = !held.is_some_and(|held| matches(document, held));
    let this = (winner.uid.clone(), winner.generation);
    for action in plan(Some(claim), stored.as_ref(), leader, now) {
        let written = write(context, id, &action, leader).await?;
        if matches!((&action, &written), (Action::Program(_), Written::Changed(_)))
            && drifted
            && known.as_ref() == Some(&this)
        {
            context.metrics.drift_corrections.inc();
            let text = "the store held something else; restored";
            context.notes.tell(
                &winner,
                Note::new(Tone::Warning, "ConfigDriftCorrected", "Program", text),
            );
        }
    }
    {
        let mut programmed = locked(&context.programmed);
        let programmed = programmed.entry(id.clone()).or_default();
        programmed.of = Some(this);
        programmed.proves = !is_left_alone(document, stored.as_ref(), leader, now);
    }
    // An override ends by the store's clock, which judges when somebody speaks to it.
    let ends = document.resolved.forced.map_or(0, |forced| forced.expires_at);
    if ends > now {
        let left = Duration::from_millis(ends - now + 10).min(Duration::from_secs(86_400));
        context.programs.push(id.clone(), Instant::now() + left, false);
    }
    Ok(())
}

/// Writes, if this replica still leads.
async fn write(context: &Context, id: &ServiceId, action: &Action, leader: &Leader) -> StoreResult<Written> {
    if context.leader().as_ref() != Some(leader) {
        return Err(StoreError::Refused("no longer the leader".to_owned()));
    }
    let written = programmer::apply(&*context.store, id, action, leader).await?;
    if written == Written::Superseded {
        return Err(StoreError::Refused(
            "a newer operator of the same owner is at work".to_owned(),
        ));
    }
    Ok(written)
}

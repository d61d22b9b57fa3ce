//! The store as seen from here: whether it answers and takes writes, and what it announces.

use super::context::{Context, locked};
use crate::plan::{Claim, plan};
use crate::status::store_reason;
use tiebar::store::{Announcement, StoreError, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

/// Looks after the store, until dropped.
pub(crate) async fn probe(context: &Context) {
    let mut write_at = Instant::now();
    loop {
        let mut result = context.store.now().await.map(|_| ());
        if result.is_ok() && write_at <= Instant::now() {
            result = prove_writing(context).await;
            write_at = Instant::now() + context.periods.write_probe;
        }
        if result.is_err() {
            // Until it takes writes again, every look is one at that.
            write_at = Instant::now();
        }
        judge(context, result);
        sleep(context.periods.probe).await;
    }
}

/// Programs one of the breakers again, as it is: a replica answers, and yet nothing can be decided there. Nothing to
/// program, nothing to prove.
async fn prove_writing(context: &Context) -> StoreResult<()> {
    let Some(leader) = context.leader() else {
        return Ok(());
    };
    let (id, document) = {
        let world = context.world();
        let valid = world.ids().into_iter().find_map(|id| {
            let document = world.winner(&id)?.document.clone().ok()?;
            Some((id, document))
        });
        match valid {
            Some(found) => found,
            None => return Ok(()),
        }
    };
    let now = context.store.now().await?;
    let mut stored = context.store.config(&id).await?;
    if let Some(stored) = &mut stored {
        // As if the heartbeat were due.
        stored.owner_seen_at = stored.owner_seen_at.min(now.saturating_sub(crate::plan::HEARTBEAT_MS));
    }
    let claim = Claim {
        document: &document,
        handled: crate::plan::requested_reset(&document),
    };
    for action in plan(Some(claim), stored.as_ref(), &leader, now) {
        crate::programmer::apply(&*context.store, &id, &action, &leader).await?;
    }
    Ok(())
}

fn judge(context: &Context, result: StoreResult<()>) {
    let mut health = locked(&context.health);
    match result {
        Ok(()) => {
            let first = !std::mem::replace(&mut health.met, true);
            let was_failing = health.since.take().is_some();
            if health.lost.take().is_some() || first {
                tracing::info!("the store answers");
            }
            drop(health);
            context.metrics.store_up.set(1);
            if was_failing || first {
                // It may have come back empty, or somebody may have been missed.
                context.resync();
            }
        }
        Err(error) => {
            let since = *health.since.get_or_insert_with(Instant::now);
            context.metrics.store_up.set(0);
            let known = health.lost.as_ref().map(store_reason);
            if since.elapsed() >= context.periods.patience && known != Some(store_reason(&error)) {
                tracing::warn!(%error, "the store does not answer; states are unknown");
                health.lost = Some(error);
                drop(health);
                context.report_all();
            }
        }
    }
}

/// Acts on what the store announces, until dropped.
pub(crate) async fn listen(context: &Context) {
    let mut announcements = context.store.subscribe();
    let mut gap_at: Option<Instant> = None;
    let mut last_gap = Instant::now();
    loop {
        let heard = tokio::select! {
            heard = announcements.recv() => heard,
            () = sleep_until(gap_at.unwrap_or_else(Instant::now)), if gap_at.is_some() => {
                gap_at = None;
                last_gap = Instant::now();
                context.resync();
                continue;
            }
        };
        match heard {
            Ok(Announcement::Transition(id, _)) => context.report(&id, true),
            Ok(Announcement::Revision(id)) => context.programs.now(id, false),
            // A store that comes and goes must not keep everything busy.
            Ok(Announcement::Gap) | Err(RecvError::Lagged(_)) => {
                gap_at.get_or_insert((last_gap + context.periods.gap).max(Instant::now()));
            }
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Compares everything, again and again, and buries what nobody declares any more, until dropped.
pub(crate) async fn tick(context: &Context) {
    loop {
        context.resync();
        if let Err(error) = orphans(context).await {
            tracing::debug!(%error, "what is stored could not be listed");
        }
        sleep(context.periods.resync).await;
    }
}

/// Has every stored id that nobody declares looked at; only a complete list of resources tells.
async fn orphans(context: &Context) -> Result<(), StoreError> {
    if !context.world().is_complete() || locked(&context.health).since.is_some() {
        return Ok(());
    }
    for id in context.store.ids().await? {
        if context.world().winner(&id).is_none() {
            context.programs.now(id, false);
        }
    }
    Ok(())
}

//! The store as seen from here: whether it answers and takes writes, and what it announces.

use super::context::{Context, locked};
use super::program::{Why, attempt};
use crate::health::{self, Turn};
use tiebar::id::ServiceId;
use tiebar::store::{Announcement, StoreError, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

/// Looks after the store, until dropped.
pub(crate) async fn probe(context: &Context) {
    loop {
        let look = look(context).await;
        let turn = locked(&context.health).judge(&look, Instant::now());
        health::tell(turn, &look, &context.metrics);
        match turn {
            Turn::Met | Turn::Back => context.resync(),
            Turn::Lost => context.report_all(),
            Turn::Same | Turn::Failing => {}
        }
        sleep(context.periods.probe).await;
    }
}

/// The leader programs one of the breakers again, as it is. Nothing to program, nothing to prove: then it only reads, as
/// the other replicas do.
async fn look(context: &Context) -> StoreResult<()> {
    if let Some(leader) = context.leader()
        && let Some(id) = provable(context)
    {
        let result = attempt(context, &id, &leader, Why::Proof).await;
        // Who stopped leading meanwhile was kept from writing by that.
        if result.is_ok() || context.leader() == Some(leader) {
            return result;
        }
    }
    context.store.now().await.map(|_| ())
}

fn provable(context: &Context) -> Option<ServiceId> {
    let programmed = locked(&context.programmed);
    let mut provable = programmed.iter().filter(|(_, known)| known.proves);
    provable.next().map(|(id, _)| id.clone())
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
            Ok(Announcement::Transition(id, _)) => context.report_transition(&id),
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

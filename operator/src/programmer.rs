//! Reading an id from the store, and carrying out what was planned for it.

use crate::conditions::{CALM_MS, FLAPPING};
use crate::plan::Action;
use crate::status::Stored;
use tiebar::id::ServiceId;
use tiebar::store::{Leader, Store, StoreError, StoreResult, Survey, Written};

/// Everything the store knows of an id.
pub(crate) async fn read(store: &dyn Store, id: &ServiceId) -> StoreResult<Stored> {
    // Together: a slow store costs its delay once.
    let (now, surveys) = tokio::try_join!(store.now(), store.survey(std::slice::from_ref(id)))?;
    let survey = surveys.into_iter().next();
    let Survey {
        config,
        snapshot,
        beats,
    } = survey.unwrap_or_else(|| Err(StoreError::Protocol("no answer to a survey".to_owned())))?;
    let may_flap = snapshot.as_ref().is_some_and(|snapshot| {
        snapshot.transitions >= FLAPPING && snapshot.now.saturating_sub(snapshot.since) < CALM_MS
    });
    let flapping_since = if may_flap {
        let events = store.events(id, FLAPPING as usize).await?;
        let last = events.get(FLAPPING as usize - 1);
        last.map_or(0, |event| event.at)
    } else {
        0
    };
    Ok(Stored {
        config,
        snapshot,
        beats,
        flapping_since,
        now,
    })
}

/// Carries out one action and logs what became of it.
pub(crate) async fn apply(store: &dyn Store, id: &ServiceId, action: &Action, leader: &Leader) -> StoreResult<Written> {
    let (what, written) = match action {
        Action::Program(programme) => ("programmed", store.configure(id, programme).await?),
        Action::Reset(request) => ("reset", store.reset(id, leader, request).await?),
        Action::Bury => ("deleted", store.tombstone(id, leader).await?),
    };
    match &written {
        Written::Changed(revision) => tracing::info!(breaker = %id, revision, "{what}"),
        Written::Unchanged(_) => {}
        Written::OwnedElsewhere(owner) => tracing::warn!(breaker = %id, owner, "owned elsewhere; left alone"),
        Written::Superseded => tracing::warn!(breaker = %id, "a newer operator of the same owner is at work"),
    }
    Ok(written)
}

//! Whether the store serves: it answers, and takes writes. Judged alike over files and in a cluster.
//!
//! Pure, but for [`tell`]. A look is a read, or the plan's heartbeat with [`Claim::beat`](crate::plan::Claim): a full store
//! and a replica answer every read, and yet nothing can be decided there.

use crate::metrics::Metrics;
use crate::status::store_reason;
use std::time::Duration;
use tiebar::store::{StoreError, StoreResult};
use tokio::time::Instant;

/// So long may the store fail before the states it keeps are called unknown.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the store.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Since when it fails.
    pub(crate) since: Option<Instant>,
    /// What it said, once it failed for long.
    pub(crate) lost: Option<StoreError>,
    /// It answered at least once.
    pub(crate) met: bool,
}

/// What a look changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    Same,
    /// It serves, for the first time.
    Met,
    /// It serves again: it may have come back empty, and somebody may have been missed.
    Back,
    /// It fails, as of now.
    Failing,
    /// It failed for long, or has another reason since: states are unknown.
    Lost,
}

impl Health {
    /// Takes in what a look came to.
    pub(crate) fn judge(&mut self, look: &StoreResult<()>, now: Instant) -> Turn {
        let Err(error) = look else {
            let first = !std::mem::replace(&mut self.met, true);
            self.lost = None;
            let failed = self.since.take().is_some();
            return match (first, failed) {
                (true, _) => Turn::Met,
                (false, true) => Turn::Back,
                (false, false) => Turn::Same,
            };
        };
        let begins = self.since.is_none();
        let since = *self.since.get_or_insert(now);
        let known = self.lost.as_ref().map(store_reason);
        if now.duration_since(since) >= PATIENCE && known != Some(store_reason(error)) {
            self.lost = Some(error.clone());
            Turn::Lost
        } else if begins {
            Turn::Failing
        } else {
            Turn::Same
        }
    }
}

/// Says in the log and the metrics what a look came to.
pub(crate) fn tell(turn: Turn, look: &StoreResult<()>, metrics: &Metrics) {
    metrics.store_up.set(i64::from(look.is_ok()));
    let Err(error) = look else {
        match turn {
            Turn::Met => tracing::info!("the store answers"),
            Turn::Back => tracing::info!("the store is back"),
            Turn::Same | Turn::Failing | Turn::Lost => {}
        }
        return;
    };
    let what = match error {
        StoreError::Refused(_) => "the store refuses to serve",
        _ => "the store does not answer",
    };
    match turn {
        Turn::Failing => tracing::warn!(%error, "{what}; trying on"),
        Turn::Lost => tracing::warn!(%error, "{what}; states are unknown"),
        Turn::Same | Turn::Met | Turn::Back => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: &str) -> StoreResult<()> {
        Err(StoreError::Refused(why.to_owned()))
    }

    #[test]
    fn a_failure_shows_at_once_is_a_loss_after_ten_seconds_and_each_change_is_told_once() {
        let (mut health, start) = (Health::default(), Instant::now());
        let mut look = |seconds: u64, look: &StoreResult<()>| health.judge(look, start + Duration::from_secs(seconds));
        assert_eq!(look(0, &Ok(())), Turn::Met);
        assert_eq!(look(1, &Ok(())), Turn::Same);
        assert_eq!(look(2, &refused("OOM")), Turn::Failing);
        assert_eq!(look(11, &refused("OOM")), Turn::Same);
        assert_eq!(look(12, &refused("OOM")), Turn::Lost);
        assert_eq!(look(13, &refused("OOM, still")), Turn::Same);
        assert_eq!(look(14, &refused("READONLY")), Turn::Lost);
        assert_eq!(look(15, &Ok(())), Turn::Back);
        assert_eq!(look(16, &refused("OOM")), Turn::Failing);
        assert_eq!(look(17, &Ok(())), Turn::Back);
    }

    #[test]
    fn a_store_that_never_answered_is_met_when_it_does() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.judge(&refused("LOADING"), now), Turn::Failing);
        assert!(!health.met);
        assert_eq!(health.judge(&Ok(()), now + PATIENCE), Turn::Met);
        assert!(health.since.is_none());
    }
}

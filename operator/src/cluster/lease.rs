//! Who leads: a Lease, taken and renewed with the resource version it was read under, so that two replicas that see it
//! expire cannot both take it.
//!
//! Expiry is judged by how long the Lease stayed unchanged under this replica's own clock; clocks are not compared. A
//! leader acts only until [`Timing::deadline`] after it *began* its last renewal that succeeded, and no write of its
//! own takes longer than [`Timing::write`]; the two together are shorter than the Lease, so it has stopped when another
//! may begin. Rejected: the published crates (none for this version of kube; the most used one patches without a
//! resource version), and exiting the process on loss (a restart loop while the API server is away).

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The Lease's name, in the operator's own namespace.
pub(crate) const NAME: &str = "tiebar-operator";

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// The Lease.
    pub(crate) lease: Duration,
    /// Between looks at it.
    pub(crate) retry: Duration,
    /// A leader stops so long after its last renewal.
    pub(crate) deadline: Duration,
    /// The longest write.
    pub(crate) write: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(12),
            retry: Duration::from_secs(2),
            deadline: Duration::from_secs(8),
            write: Duration::from_secs(3),
        }
    }
}

/// The right to act, while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    /// The Lease's creation, Unix milliseconds.
    pub(crate) created: u64,
    /// Its `leaseTransitions`.
    pub(crate) transitions: u64,
    /// Not beyond.
    pub(crate) until: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// It is ours: renew.
    Renew,
    /// It is nobody's any more: take.
    Take,
    /// It is another's.
    Leave,
}

/// Decides. `unchanged`: for how long the Lease has looked like this.
fn judge(spec: &LeaseSpec, me: &str, unchanged: Duration) -> Move {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0).unsigned_abs();
    if holder == me {
        Move::Renew
    } else if holder.is_empty() || unchanged >= Duration::from_secs(u64::from(seconds)) {
        Move::Take
    } else {
        Move::Leave
    }
}

/// The Lease after a move.
fn moved(spec: &LeaseSpec, me: &str, taken: bool, timing: &Timing, now: Timestamp) -> LeaseSpec {
    let now = MicroTime(now);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(timing.lease.as_secs()).unwrap_or(i32::MAX)),
        renew_time: Some(now.clone()),
        acquire_time: if taken { Some(now) } else { spec.acquire_time.clone() },
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(taken)),
        ..spec.clone()
    }
}

/// One replica's part in it.
pub(crate) struct Campaign {
    leases: Api<Lease>,
    me: String,
    timing: Timing,
    /// The last look's resource version, and since when.
    seen: Option<(String, Instant)>,
    term: watch::Sender<Option<Term>>,
    told: Option<String>,
}

impl Campaign {
    pub(crate) fn new(leases: Api<Lease>, me: String, timing: Timing) -> Self {
        Self {
            leases,
            me,
            timing,
            seen: None,
            term: watch::Sender::new(None),
            told: None,
        }
    }

    pub(crate) fn term(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    /// Campaigns until dropped. `alive` is called at every turn.
    pub(crate) async fn run(&mut self, alive: impl Fn()) {
        loop {
            alive();
            let begun = Instant::now();
            let patience = self.timing.write;
            let round = tokio::time::timeout(patience, self.round(begun)).await;
            let error = match round {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {patience:?}")),
            };
            if let Some(error) = &error
                && self.told.is_none()
            {
                tracing::warn!(error, "the lease cannot be read or renewed; trying on");
            }
            if error.is_none() && self.told.is_some() {
                tracing::info!("the lease can be read again");
            }
            self.told = error;
            let term = *self.term.borrow();
            if let Some(term) = term
                && term.until <= Instant::now()
            {
                self.resign("it could not be renewed in time");
            }
            // Wakes for the deadline too, so that nobody believes in a term that is over.
            let wake = begun + self.timing.retry;
            let until = term.map_or(wake, |term| wake.min(term.until.max(Instant::now())));
            tokio::time::sleep_until(until.max(Instant::now() + Duration::from_millis(50))).await;
        }
    }

    fn resign(&mut self, why: &str) {
        if self.term.send_replace(None).is_some() {
            tracing::warn!("no longer the leader: {why}");
        }
    }

    async fn round(&mut self, begun: Instant) -> kube::Result<()> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            return self.create(begun).await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => begun,
        };
        self.seen = Some((version, since));
        let taken = match judge(&spec, &self.me, begun - since) {
            Move::Renew => false,
            Move::Take => true,
            Move::Leave => {
                self.resign("another replica holds the lease");
                return Ok(());
            }
        };
        let next = Lease {
            metadata: lease.metadata.clone(),
            spec: Some(moved(&spec, &self.me, taken, &self.timing, Timestamp::now())),
        };
        match self.leases.replace(NAME, &PostParams::default(), &next).await {
            Ok(lease) => self.hold(&lease, begun),
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn create(&mut self, begun: Instant) -> kube::Result<()> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_transitions: Some(0),
                ..moved(&LeaseSpec::default(), &self.me, true, &self.timing, Timestamp::now())
            }),
        };
        match self.leases.create(&PostParams::default(), &lease).await {
            Ok(lease) => self.hold(&lease, begun),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn hold(&mut self, lease: &Lease, begun: Instant) {
        self.seen = Some((lease.metadata.resource_version.clone().unwrap_or_default(), begun));
        let created = lease.metadata.creation_timestamp.as_ref();
        let created = created.map_or(0, |time| u64::try_from(time.0.as_millisecond()).unwrap_or(0));
        let spec = lease.spec.clone().unwrap_or_default();
        let term = Term {
            created,
            transitions: u64::from(spec.lease_transitions.unwrap_or(0).unsigned_abs()),
            until: begun + self.timing.deadline,
        };
        if self.term.send_replace(Some(term)).is_none() {
            tracing::info!(identity = %self.me, transitions = term.transitions, "leading");
        }
    }

    /// Gives the Lease back, so that another replica need not wait. Only once nothing acts under it any more.
    pub(crate) async fn release(&mut self) -> kube::Result<()> {
        if self.term.send_replace(None).is_none() {
            return Ok(());
        }
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            return Ok(());
        };
        let mut spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&*self.me) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        lease.spec = Some(spec);
        self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        tracing::info!("the lease is given back");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        let timing = Timing::default();
        LeaseSpec {
            holder_identity: (!holder.is_empty()).then(|| holder.to_owned()),
            ..moved(&LeaseSpec::default(), holder, true, &timing, Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_was_given_back_or_stood_still_for_its_whole_length() {
        let (short, long) = (Duration::from_secs(11), Duration::from_secs(12));
        assert_eq!(judge(&held_by("me"), "me", long), Move::Renew);
        assert_eq!(judge(&held_by("other"), "me", short), Move::Leave);
        assert_eq!(judge(&held_by("other"), "me", long), Move::Take);
        assert_eq!(judge(&held_by(""), "me", Duration::ZERO), Move::Take);
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let timing = Timing::default();
        let later = Timestamp::from_second(7).unwrap();
        let taken = moved(&held_by("other"), "me", true, &timing, later);
        assert_eq!(
            (taken.lease_transitions, taken.acquire_time),
            (Some(2), Some(MicroTime(later)))
        );
        let renewed = moved(&held_by("me"), "me", false, &timing, later);
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
    }

    #[test]
    fn a_leader_has_stopped_before_another_may_begin() {
        let timing = Timing::default();
        assert!(timing.deadline + timing.write < timing.lease);
        assert!(timing.retry * 2 < timing.deadline, "one lost renewal is no loss");
    }
}

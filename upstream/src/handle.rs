//! The way to a running upstream from within its process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::faults::{Fate, FaultProfile, InvalidProfile};
use crate::stats::{Recorder, Stats, Underway};

/// Sets faults and reads statistics of one [`crate::Upstream`]; clones share it, and outlive it harmlessly.
#[derive(Debug, Clone)]
pub struct Handle {
    active: Arc<RwLock<Active>>,
    recorder: Arc<Recorder>,
}

/// A profile together with how many requests it has decided, so that setting a profile starts its sequence anew.
#[derive(Debug)]
struct Active {
    profile: FaultProfile,
    next: AtomicU64,
}

/// One request's number under its profile, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Sentence {
    pub(crate) number: u64,
    pub(crate) fate: Fate,
    pub(crate) delay: Duration,
    pub(crate) error_status: u16,
}

impl Handle {
    pub(crate) fn new(profile: FaultProfile) -> Result<Self, InvalidProfile> {
        profile.validate()?;
        let active = Active {
            profile,
            next: AtomicU64::new(0),
        };
        Ok(Self {
            active: Arc::new(RwLock::new(active)),
            recorder: Arc::default(),
        })
    }

    /// Replaces the profile for requests that arrive from now on and starts its seed's sequence anew. Requests under
    /// way keep the fate they have.
    ///
    /// # Errors
    /// When a field is out of range; nothing changed then.
    pub fn set_faults(&self, profile: FaultProfile) -> Result<(), InvalidProfile> {
        self.change_faults(|_| Ok(profile)).map(drop)
    }

    /// Replaces the profile by what `change` makes of the current one, with no other change in between.
    pub(crate) fn change_faults(
        &self,
        change: impl FnOnce(&FaultProfile) -> Result<FaultProfile, InvalidProfile>,
    ) -> Result<FaultProfile, InvalidProfile> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let profile = change(&active.profile)?;
        profile.validate()?;
        let FaultProfile {
            error_percent,
            error_status,
            latency_ms,
            jitter_ms,
            hang_percent,
            reset_percent,
            seed,
        } = profile;
        tracing::info!(
            error_percent,
            error_status,
            latency_ms,
            jitter_ms,
            hang_percent,
            reset_percent,
            seed,
            "faults changed"
        );
        *active = Active {
            profile: profile.clone(),
            next: AtomicU64::new(0),
        };
        Ok(profile)
    }

    /// The current profile.
    #[must_use]
    pub fn faults(&self) -> FaultProfile {
        self.active
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .profile
            .clone()
    }

    /// What was answered since start or the last [`Handle::reset_stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.recorder.snapshot()
    }

    /// Starts counting anew; requests under way stay counted as such.
    pub fn reset_stats(&self) {
        self.recorder.reset();
    }

    pub(crate) fn arrived(&self) -> Underway {
        self.recorder.arrived()
    }

    pub(crate) fn next_sentence(&self) -> Sentence {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let number = active.next.fetch_add(1, Ordering::Relaxed);
        let (fate, delay) = active.profile.fate(number);
        Sentence {
            number,
            fate,
            delay,
            error_status: active.profile.error_status,
        }
    }
}

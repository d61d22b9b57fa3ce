//! Who decides about admission: the store, the local machine while the store is gone, or the local machine of an instance
//! that opened alone.

use super::{Heard, Recorder};
use crate::guard::RejectReason;
use crate::guard::local::Local;
use crate::policy::{Config, Mode, StoreFailurePolicy};
use crate::state::State;
use crate::store::View;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Who decides about admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Governor {
    Shared,
    /// The store is gone.
    Fallback,
    /// Open alone, until a shared generation other than this.
    Isolated(u64),
}

impl Recorder {
    /// The rules of the local machine.
    pub(super) fn local_config(&self) -> Option<Config> {
        let config = self.config.as_ref()?;
        let live = self.inner.live.load(Ordering::Relaxed);
        Some(Config {
            policy: Local::rules(&config.policy, live),
            ..config.clone()
        })
    }

    pub(super) fn hear_locally(&mut self, view: Option<View>) {
        if let Some(view) = view {
            self.local_view = Some(Heard {
                view,
                at: Instant::now(),
            });
        }
    }

    /// Decides who governs: the store, or the local machine.
    pub(super) fn govern(&mut self, now: Instant) {
        match self.governor {
            Governor::Shared => {
                let patience = self.settings.store_patience;
                if self
                    .failing_since
                    .is_some_and(|since| now.duration_since(since) >= patience)
                {
                    self.enter_fallback(now);
                } else {
                    self.consider_isolation(now);
                }
            }
            Governor::Fallback => {}
            Governor::Isolated(generation) => {
                let moved_on = self
                    .heard
                    .as_ref()
                    .is_none_or(|heard| heard.view.generation != generation);
                if moved_on || self.local.state() == Some(State::Closed) {
                    tracing::info!(breaker = %self.inner.id, "no longer isolated");
                    self.govern_shared();
                }
            }
        }
    }

    pub(super) fn govern_shared(&mut self) {
        self.governor = Governor::Shared;
        self.local.clear();
        self.local_view = None;
        self.alone_since = None;
    }

    pub(super) fn enter_fallback(&mut self, now: Instant) {
        let policy = self
            .policy()
            .map_or_else(StoreFailurePolicy::default, |policy| policy.store_failure);
        let error = std::mem::take(&mut self.last_error);
        if self.reached {
            tracing::warn!(breaker = %self.inner.id, ?policy, error, "the store is gone; going on without it");
        } else {
            tracing::warn!(breaker = %self.inner.id, ?policy, error,
                "the store cannot be reached; going on without it; wanted a Redis or Valkey that answers there");
        }
        self.governor = Governor::Fallback;
        if let Some(config) = self.local_config() {
            let memory = self.heard.as_ref().map(|heard| heard.memory(now));
            let view = self.local.take_over(&config, memory);
            self.hear_locally(view);
        }
    }

    pub(super) fn leave_fallback(&mut self) {
        let shared_is_closed = self
            .heard
            .as_ref()
            .is_some_and(|heard| heard.view.state == State::Closed);
        let open_alone = matches!(self.local.state(), Some(State::Open | State::HalfOpen));
        tracing::info!(breaker = %self.inner.id, open_alone, "the store is back");
        match &self.heard {
            Some(heard) if shared_is_closed && open_alone && heard.view.mode == Mode::Enforce => {
                self.governor = Governor::Isolated(heard.view.generation);
            }
            _ => self.govern_shared(),
        }
    }

    /// An instance whose own window meets the rule for a resync interval, without a shared trip, opens alone.
    pub(super) fn consider_isolation(&mut self, now: Instant) {
        let Some(config) = self.local_config() else {
            self.alone_since = None;
            return;
        };
        let shared_closed = self
            .heard
            .as_ref()
            .is_some_and(|heard| heard.view.state == State::Closed && heard.view.mode == Mode::Enforce);
        let many = self.policy().is_some_and(|policy| policy.minimum_instances > 1);
        let rules = crate::policy::Policy {
            minimum_calls: self.policy().map_or(1, |p| p.minimum_calls),
            ..config.policy.clone()
        };
        if !(shared_closed && many && self.local.would_trip(&rules)) {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(now);
        if now.duration_since(since) >= self.settings.resync
            && let Some(heard) = &self.heard
        {
            tracing::warn!(breaker = %self.inner.id, "own calls fail while others' succeed: open alone");
            self.governor = Governor::Isolated(heard.view.generation);
            let view = self.local.open(&config);
            self.hear_locally(view);
            self.next_routine = now;
        }
    }

    pub(super) fn is_local(&self) -> bool {
        match self.governor {
            Governor::Shared => false,
            Governor::Isolated(_) => true,
            Governor::Fallback => self
                .policy()
                .is_some_and(|policy| policy.store_failure == StoreFailurePolicy::LocalOnly),
        }
    }

    /// The state that governs now.
    pub(super) fn governing(&self) -> Option<&Heard> {
        if self.is_local() {
            self.local_view.as_ref()
        } else {
            self.heard.as_ref()
        }
    }

    /// Answers waiting calls from the local machine.
    pub(super) fn serve_locally(&mut self) {
        if self.governor == Governor::Shared {
            return;
        }
        if !self.is_local() {
            self.reject_waiters(RejectReason::Store);
            return;
        }
        let Some(config) = self.local_config() else { return };
        if self.waiters.is_empty() {
            let view = self.local.look(&config);
            self.hear_locally(view);
            return;
        }
        let reply = self.local.acquire(&config, self.waiters.len() as u64);
        self.hear_locally(reply.view.clone());
        self.answer_waiters(&reply, true);
    }
}

//! What comes back from the store, as a reply, as a failure or as news: what of it is believed.

use super::govern::Governor;
use super::{Heard, IDLE, Recorder};
use crate::guard::inner::{Answer, Told, lock};
use crate::guard::{Effective, RejectReason};
use crate::store::{Announcement, Exchange, MAX_INSTANCES, Reply, Status, StoreError, View};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// An unanswered batch is sent again for so long, then given up.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// The least pause before a batch that cannot trip the circuit. An exchange costs as much CPU as several proxied calls: a
/// busy instance makes fifty a second, not as many as the store can answer.
const ROUTINE: Duration = Duration::from_millis(20);
/// After news the fleet asks for what an announcement does not say: one instance in so long on average, or its questions
/// would queue in front of whatever happens next.
const SPREAD: Duration = Duration::from_millis(4);
/// A transition is often followed by another; so long at least before asking.
const SETTLE: Duration = Duration::from_millis(25);
/// Pauses between attempts while the store fails: from, to.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Recorder {
    pub(super) fn fail(&mut self, error: &StoreError) {
        let now = Instant::now();
        tracing::debug!(breaker = %self.inner.id, %error, "no answer from the store");
        self.last_error = error.to_string();
        self.store_up.store(false, Ordering::Relaxed);
        self.failing_since.get_or_insert(self.asked_at);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.ask_at = now + self.jitter(self.backoff);
        if self.governor == Governor::Shared {
            self.reject_waiters(RejectReason::Store);
        }
        if self
            .unanswered
            .as_ref()
            .is_some_and(|unanswered| now.duration_since(unanswered.since) >= RETRY_FOR)
        {
            self.give_up();
        }
    }

    /// An exchange that has lasted longer than patience does is a failure before it ends.
    pub(super) fn miss_the_answer(&mut self) {
        if self.failing_since.is_none() {
            self.failing_since = Some(self.asked_at);
            self.last_error = format!("no answer within {} ms", self.settings.store_patience.as_millis());
            self.store_up.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn give_up(&mut self) {
        if let Some(lost) = self.unanswered.take() {
            self.inner.unanswered.fetch_sub(lost.harmful, Ordering::AcqRel);
            let count = lost.batch.outcomes.len() + lost.batch.probes.len();
            self.inner.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Half to all of a pause, so that a fleet does not come back at once.
    pub(super) fn jitter(&mut self, pause: Duration) -> Duration {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        pause.mul_f64(0.5 + (self.rng % 1_000) as f64 / 2_000.0)
    }

    /// This instance's moment among the fleet's, within a resync interval.
    pub(super) fn spread(&mut self) -> Duration {
        let live = self.inner.live.load(Ordering::Relaxed).min(u64::from(u16::MAX)) as u32;
        let all = (SPREAD * live).min(self.settings.resync);
        2 * self.jitter(all).saturating_sub(all / 2)
    }

    /// Believes a reply.
    pub(super) fn take(&mut self, reply: Reply, request: &Exchange) {
        let now = Instant::now();
        let refusal = match reply.status {
            Status::Newer => Some("its data is of a newer version; upgrade this instance".to_owned()),
            Status::Full => Some(format!("it knows {MAX_INSTANCES} instances of this breaker already")),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.fail(&StoreError::Refused(refusal));
            return;
        }
        self.store_up.store(true, Ordering::Relaxed);
        self.failing_since = None;
        let first = !std::mem::replace(&mut self.reached, true);
        self.stateless = reply.status == Status::Missing;
        self.backoff = BACKOFF.0;
        self.learn_config(&reply);
        let mut pause = self.settings.resync.max(Duration::from_millis(reply.interval_ms));
        if first {
            // Those that start together would ask together for ever.
            pause = self.jitter(pause);
        }
        self.ask_at = now + pause;
        self.next_routine = now + ROUTINE.max(Duration::from_millis(reply.interval_ms));
        match reply.status {
            Status::Ok => {
                self.last_reply = now;
                self.count_transitions(&reply);
                self.acknowledge(&reply);
                if let Some(view) = reply.view.clone() {
                    self.adopt(view, now);
                }
                *lock(&self.inner.told) = Told {
                    generation: self.heard.as_ref().map_or(0, |heard| heard.view.generation),
                    calls: reply.calls,
                    failing: reply.failing,
                    slow: reply.slow,
                };
                self.headroom = reply.headroom.unwrap_or(u64::MAX);
                self.headroom_until = now
                    + if reply.headroom.is_none() && reply.headroom_ms == 0 {
                        // Nothing is judged; the next generation ends that.
                        IDLE
                    } else {
                        Duration::from_millis(reply.headroom_ms)
                    };
                if self.governor == Governor::Fallback {
                    self.leave_fallback();
                }
                if request.acquire.is_some() && self.governor == Governor::Shared {
                    self.wish = None;
                    // First the word: who is told to look again would else see the old one and ask again.
                    self.publish();
                    self.answer_waiters(&reply, false);
                }
            }
            Status::Missing => {
                // What was sent is kept: it is applied once somebody has seeded the state.
                self.ask_at = now + Duration::from_millis(200).min(pause);
                self.next_routine = self.ask_at;
                self.forget_void(reply.floor);
                self.refuse_for_now();
            }
            _ => {
                self.last_reply = now;
                self.unanswered = None;
                self.pending.clear();
                self.inner.unanswered.store(0, Ordering::Release);
                self.heard = None;
                if self.governor != Governor::Shared {
                    self.govern_shared();
                }
                self.refuse_for_now();
            }
        }
        self.forget_void(reply.floor);
    }

    /// Memory from before a tombstone says nothing about what was created after it.
    pub(super) fn forget_void(&mut self, floor: u64) {
        if self
            .heard
            .as_ref()
            .is_some_and(|heard| floor > 0 && heard.view.generation <= floor)
        {
            self.heard = None;
        }
    }

    /// Calls that wait while there is no state look again: without one they are admitted.
    pub(super) fn refuse_for_now(&mut self) {
        if self.governor == Governor::Fallback {
            self.leave_fallback();
        }
        self.publish();
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(Answer::LookAgain);
        }
    }

    pub(super) fn acknowledge(&mut self, reply: &Reply) {
        self.inner.late.fetch_add(reply.late, Ordering::Relaxed);
        if let Some(answered) = self.unanswered.take() {
            self.inner.unanswered.fetch_sub(answered.harmful, Ordering::AcqRel);
        }
    }

    pub(super) fn count_transitions(&self, reply: &Reply) {
        let mut transitions = lock(&self.inner.transitions);
        for transition in &reply.caused {
            *transitions.entry(*transition).or_default() += 1;
        }
    }

    pub(super) fn learn_config(&mut self, reply: &Reply) {
        if reply.status == Status::Unconfigured {
            if !self.warned {
                self.warned = true;
                tracing::warn!(breaker = %self.inner.id, "no CircuitBreaker is programmed for this service: every call is admitted");
            }
            self.unconfigured_by_store = true;
            self.config = self.fallback_config.clone();
            *self
                .inner
                .effective
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = None;
            return;
        }
        self.unconfigured_by_store = false;
        if let Some(programmed) = &reply.config {
            tracing::info!(breaker = %self.inner.id, revision = programmed.config.revision, "new configuration");
            self.config = Some(programmed.config.clone());
            self.set_effective(Some(programmed.spec.as_str().into()));
        } else if self
            .inner
            .effective
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .is_none()
        {
            self.set_effective(None);
        }
    }

    pub(super) fn set_effective(&self, spec: Option<Arc<str>>) {
        let effective = self.config.clone().map(|config| Arc::new(Effective { config, spec }));
        *self
            .inner
            .effective
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = effective;
    }

    pub(super) fn hear(&mut self, news: Result<Announcement, broadcast::error::RecvError>) {
        let now = Instant::now();
        match news {
            Ok(Announcement::Transition(id, view)) if id == self.inner.id => {
                let newer_revision = view.revision != self.config.as_ref().map_or(0, |config| config.revision);
                if self.adopt(view, now) || newer_revision {
                    // The reply to come brings the headroom and configuration of the new state. Outcomes that may trip
                    // it do not wait for that.
                    self.ask_at = self.ask_at.min(now + SETTLE + self.spread());
                }
            }
            Ok(Announcement::Revision(id)) if id == self.inner.id => {
                self.ask_at = self.ask_at.min(now + self.spread());
            }
            Ok(Announcement::Transition(..) | Announcement::Revision(_)) => {}
            Ok(Announcement::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => {
                let pause = self.jitter(Duration::from_millis(100));
                self.ask_at = self.ask_at.min(now + pause);
            }
            // A store that announces nothing; the periodic resync goes on. Listening on would return at once, for ever.
            Err(broadcast::error::RecvError::Closed) => self.deaf = true,
        }
    }

    /// Believes a view unless a later one is known; true when it began a new generation.
    pub(super) fn adopt(&mut self, view: View, now: Instant) -> bool {
        self.stateless = false;
        let Some(known) = &self.heard else {
            self.heard = Some(Heard { view, at: now });
            return true;
        };
        let order = |view: &View| (view.generation, view.state.openness());
        let news = order(&view) > order(&known.view);
        if !news && (view.generation != known.view.generation || view.seq < known.view.seq) {
            return false;
        }
        if news {
            self.left = Some(known.view.state);
            self.inner.headroom.store(0, Ordering::Release);
            self.headroom_until = now;
            if self.governor == Governor::Shared {
                self.local.clear();
                self.alone_since = None;
            }
            lock(&self.inner.details).refused_until = now;
        }
        self.heard = Some(Heard { view, at: now });
        news
    }
}

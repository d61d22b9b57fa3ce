//! What is sent to the store: the next batch, and what goes with it.

use super::govern::Governor;
use super::{Recorder, Unanswered};
use crate::guard::inner::Route;
use crate::store::{Acquire, Batch, Exchange, MAX_BATCH, MAX_CAUSES, Outcome, ProbeResult};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which an instance without memory may seed the first state.
const SEED_AFTER: Duration = Duration::from_secs(2);

impl Recorder {
    pub(super) fn request(&mut self) -> Exchange {
        let now = Instant::now();
        self.fill_batch(now);
        if self.governor == Governor::Shared && !self.waiters.is_empty() {
            // A wish that got no answer keeps its token: the leases it may have got are still its own.
            let token = self.wish.map_or_else(|| self.next_number(), |wish| wish.token);
            self.wish = Some(Acquire {
                token,
                want: self.waiters.len() as u64,
            });
        } else {
            self.wish = None;
        }
        self.gauge_sent = self.gauge();
        Exchange {
            instance: self.settings.instance.clone(),
            boot: self.settings.boot.clone(),
            memory: self.heard.as_ref().map(|heard| heard.memory(now)),
            carried: self.config.clone(),
            seed: now.duration_since(self.last_reply) >= SEED_AFTER,
            batch: self.unanswered.as_ref().map(|unanswered| unanswered.batch.clone()),
            gauge: self.gauge_sent,
            gauge_generation: self.heard.as_ref().map_or(0, |heard| heard.view.generation),
            isolated: matches!(self.governor, Governor::Isolated(_)),
            acquire: self.wish,
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes the next batch of what is pending, unless one is still unanswered.
    pub(super) fn fill_batch(&mut self, now: Instant) {
        if self.unanswered.is_some() {
            return;
        }
        let current = self.heard.as_ref().map_or(0, |heard| heard.view.generation);
        let mut batch = Batch {
            generation: current,
            ..Batch::default()
        };
        let mut harmful = 0;
        while batch.outcomes.len() + batch.probes.len() < MAX_BATCH {
            let Some(done) = self.pending.pop_front() else { break };
            if done.generation != current {
                // The store would say the same: it only moves forward.
                self.forget(&done);
                self.inner.late.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let cause = if done.kind.is_failing() {
                index_of(&mut batch.causes, done.cause.to_string())
            } else {
                0
            };
            harmful += u64::from(done.is_harmful());
            match done.route {
                Route::Probe(lease) => batch.probes.push(ProbeResult {
                    lease,
                    kind: done.kind,
                    cause,
                }),
                _ => batch.outcomes.push(Outcome { kind: done.kind, cause }),
            }
        }
        let rejected = self.inner.shadow_rejected.swap(0, Ordering::Relaxed) + self.isolated_rejections();
        if batch.outcomes.is_empty() && batch.probes.is_empty() && rejected == 0 {
            return;
        }
        batch.number = self.next_number();
        batch.rejected = rejected;
        self.unanswered = Some(Unanswered {
            batch,
            harmful,
            since: now,
        });
    }

    /// An isolated instance has rejections and no calls; saying so keeps it among the active ones.
    pub(super) fn isolated_rejections(&self) -> u64 {
        u64::from(matches!(self.governor, Governor::Isolated(_)))
    }
}

/// The place of a cause in a batch's list; the last place is everything that does not fit.
fn index_of(causes: &mut Vec<String>, cause: String) -> u8 {
    let known = causes.iter().position(|known| *known == cause);
    let position = known.unwrap_or_else(|| {
        if causes.len() < MAX_CAUSES - 1 {
            causes.push(cause);
        } else if causes.len() < MAX_CAUSES {
            causes.push("other".to_owned());
        }
        causes.len() - 1
    });
    position as u8
}

//! The one task per guard that speaks to the store: sends what calls left, believes what it hears, decides who governs.
//!
//! At most one exchange is in flight. What arrives meanwhile goes with the next, so batches form by themselves: small
//! when the store is fast, large when it is not. Rejected: a timer that collects, which delays trips and idles Redis no less.

use super::inner::{AWAKE, Answer, DEEPLY, Details, Done, Inner, LIGHTLY, RAMP_ONE, Route, Told, WAITERS, lock};
use super::local::{Local, bare};
use super::word::{Gate, HESITATE, Word};
use super::{Effective, Presented, RejectReason, Rejected, Settings};
use crate::policy::{Config, Mode, StoreFailurePolicy};
use crate::state::State;
use crate::store::{
    Acquire, Announcement, Batch, Exchange, MAX_BATCH, MAX_CAUSES, MAX_INSTANCES, Memory, Outcome, ProbeResult, Reply,
    Status, Store, StoreError, View,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

/// An unanswered batch is sent again for so long, then given up.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Silence after which an instance without memory may seed the first state.
const SEED_AFTER: Duration = Duration::from_secs(2);
/// Outcomes kept while the store is silent.
const PENDING: usize = 65_536;
/// The least pause before a batch that cannot trip the circuit. An exchange costs as much CPU as several proxied calls: a
/// busy instance makes fifty a second, not as many as the store can answer.
const ROUTINE: Duration = Duration::from_millis(20);
/// After news the fleet asks for what an announcement does not say: one instance in so long on average, or its questions
/// would queue in front of whatever happens next.
const SPREAD: Duration = Duration::from_millis(4);
/// A transition is often followed by another; so long at least before asking.
const SETTLE: Duration = Duration::from_millis(25);
/// The running-slow gauge is looked at this often.
const GAUGE_EVERY: Duration = Duration::from_millis(250);
/// Pauses between attempts while the store fails: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The longest the recorder sleeps.
const IDLE: Duration = Duration::from_secs(60);

/// The shared state as last heard, and when.
#[derive(Debug, Clone)]
struct Heard {
    view: View,
    at: Instant,
}

impl Heard {
    fn left(&self, ms: u64, now: Instant) -> u64 {
        ms.saturating_sub(now.saturating_duration_since(self.at).as_millis() as u64)
    }

    fn memory(&self, now: Instant) -> Memory {
        let memory = self.view.memory();
        Memory {
            remaining_ms: self.left(memory.remaining_ms, now),
            lease_remaining_ms: self.left(memory.lease_remaining_ms, now),
            ..memory
        }
    }
}

/// A batch on its way.
struct Unanswered {
    batch: Batch,
    harmful: u64,
    since: Instant,
}

/// Who decides about admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Governor {
    Shared,
    /// The store is gone.
    Fallback,
    /// Open alone, until a shared generation other than this.
    Isolated(u64),
}

pub(super) struct Recorder {
    inner: Arc<Inner>,
    store: Arc<dyn Store>,
    settings: Settings,
    waiters_in: mpsc::Receiver<oneshot::Sender<Answer>>,
    waiters: VecDeque<oneshot::Sender<Answer>>,
    news: broadcast::Receiver<Announcement>,
    /// There will be no more news.
    deaf: bool,
    store_up: Arc<AtomicBool>,
    attempted: watch::Sender<bool>,
    /// Rules until the store has some.
    fallback_config: Option<Config>,
    config: Option<Config>,
    unconfigured_by_store: bool,
    warned: bool,
    heard: Option<Heard>,
    /// What a transition left, until the word and then the log have said so.
    left: Option<State>,
    pending: VecDeque<Done>,
    unanswered: Option<Unanswered>,
    /// The last number of a batch or wish, in this process. Below 2^53, the script's exact integers.
    numbers: Arc<AtomicU64>,
    wish: Option<Acquire>,
    ask_at: Instant,
    next_routine: Instant,
    last_reply: Instant,
    /// When the first question was asked that has no answer.
    failing_since: Option<Instant>,
    asked_at: Instant,
    /// It has answered at least once.
    reached: bool,
    /// The store has no state, so nothing can be urgent: whatever is sent now is not applied.
    stateless: bool,
    backoff: Duration,
    /// Failing and slow outcomes that do no harm, as last told, and until when.
    headroom: u64,
    headroom_until: Instant,
    gauge_sent: u64,
    gauge_at: Instant,
    governor: Governor,
    local: Local,
    local_view: Option<Heard>,
    /// Why the store last failed, for the one line that says so.
    last_error: String,
    alone_since: Option<Instant>,
    rng: u64,
}

impl Recorder {
    #[allow(clippy::too_many_arguments, reason = "called once, by the guard's constructor")]
    pub(super) fn new(
        inner: Arc<Inner>,
        store: Arc<dyn Store>,
        settings: Settings,
        numbers: Arc<AtomicU64>,
        waiters_in: mpsc::Receiver<oneshot::Sender<Answer>>,
        store_up: Arc<AtomicBool>,
        attempted: watch::Sender<bool>,
        fallback_config: Option<Config>,
    ) -> Self {
        let now = Instant::now();
        let rng = settings
            .boot
            .bytes()
            .fold(7, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)))
            | 1;
        Self {
            local: Local::new(inner.id.clone()),
            news: store.subscribe(),
            deaf: false,
            inner,
            store,
            settings,
            waiters_in,
            waiters: VecDeque::new(),
            store_up,
            attempted,
            config: fallback_config.clone(),
            fallback_config,
            unconfigured_by_store: false,
            warned: false,
            heard: None,
            left: None,
            pending: VecDeque::new(),
            unanswered: None,
            numbers,
            wish: None,
            ask_at: now,
            next_routine: now,
            last_reply: now,
            failing_since: None,
            asked_at: now,
            reached: false,
            stateless: false,
            backoff: BACKOFF.0,
            headroom: 0,
            headroom_until: now,
            gauge_sent: 0,
            gauge_at: now,
            governor: Governor::Shared,
            local_view: None,
            last_error: String::new(),
            alone_since: None,
            rng,
        }
    }

    /// Runs until the guard closes and everything is answered or given up.
    pub(super) async fn run(mut self) {
        self.publish();
        loop {
            self.collect();
            self.govern(Instant::now());
            self.serve_locally();
            self.publish();
            let now = Instant::now();
            if self.inner.closing.load(Ordering::Acquire)
                && self.inner.queue.is_empty()
                && ((self.pending.is_empty() && self.unanswered.is_none()) || self.governor == Governor::Fallback)
            {
                return;
            }
            if self.wants_to_speak(now) {
                self.speak().await;
            } else {
                self.sleep(now).await;
            }
        }
    }

    /// Takes over what calls left in the queue.
    fn collect(&mut self) {
        while let Ok(waiter) = self.waiters_in.try_recv() {
            self.wait(waiter);
        }
        let mut own = Vec::new();
        let (mut local, mut probes) = (Vec::new(), Vec::new());
        let local_generation = self.local_view.as_ref().map_or(0, |heard| heard.view.generation);
        while let Some(done) = self.inner.queue.pop() {
            match done.route {
                Route::Local if done.generation == local_generation => local.push(bare(done.kind)),
                Route::LocalProbe(lease) if done.generation == local_generation => {
                    probes.push(ProbeResult {
                        lease,
                        kind: done.kind,
                        cause: 0,
                    });
                }
                Route::Local | Route::LocalProbe(_) | Route::Nowhere => {
                    self.inner.late.fetch_add(1, Ordering::Relaxed);
                }
                Route::Shared | Route::Probe(_) => {
                    if done.route == Route::Shared {
                        own.push(bare(done.kind));
                    }
                    self.pending.push_back(done);
                    if self.pending.len() > PENDING
                        && let Some(lost) = self.pending.pop_front()
                    {
                        self.forget(&lost);
                        self.inner.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        if (!local.is_empty() || !probes.is_empty())
            && let Some(config) = self.local_config()
        {
            let view = self.local.batch(&config, local, probes);
            self.hear_locally(view);
        }
        if !own.is_empty()
            && self.governor == Governor::Shared
            && let Some(config) = self.local_config()
        {
            for part in own.chunks(MAX_BATCH) {
                self.local.keep_warm(&config, part.to_vec());
            }
        }
    }

    /// A harmful outcome that will never be answered no longer holds calls back.
    fn forget(&self, done: &Done) {
        if done.is_harmful() {
            self.inner.unanswered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn wait(&mut self, waiter: oneshot::Sender<Answer>) {
        self.waiters.retain(|waiter| !waiter.is_closed());
        if self.waiters.len() < WAITERS {
            self.waiters.push_back(waiter);
        }
    }

    fn policy(&self) -> Option<&crate::policy::Policy> {
        self.config.as_ref().map(|config| &config.policy)
    }

    /// The rules of the local machine.
    fn local_config(&self) -> Option<Config> {
        let config = self.config.as_ref()?;
        let live = self.inner.live.load(Ordering::Relaxed);
        Some(Config {
            policy: Local::rules(&config.policy, live),
            ..config.clone()
        })
    }

    fn hear_locally(&mut self, view: Option<View>) {
        if let Some(view) = view {
            self.local_view = Some(Heard {
                view,
                at: Instant::now(),
            });
        }
    }

    /// Decides who governs: the store, or the local machine.
    fn govern(&mut self, now: Instant) {
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

    fn govern_shared(&mut self) {
        self.governor = Governor::Shared;
        self.local.clear();
        self.local_view = None;
        self.alone_since = None;
    }

    fn enter_fallback(&mut self, now: Instant) {
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

    fn leave_fallback(&mut self) {
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
    fn consider_isolation(&mut self, now: Instant) {
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

    fn is_local(&self) -> bool {
        match self.governor {
            Governor::Shared => false,
            Governor::Isolated(_) => true,
            Governor::Fallback => self
                .policy()
                .is_some_and(|policy| policy.store_failure == StoreFailurePolicy::LocalOnly),
        }
    }

    /// The state that governs now.
    fn governing(&self) -> Option<&Heard> {
        if self.is_local() {
            self.local_view.as_ref()
        } else {
            self.heard.as_ref()
        }
    }

    /// Answers waiting calls from the local machine.
    fn serve_locally(&mut self) {
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

    fn reject_waiters(&mut self, reason: RejectReason) {
        let state = self.governing().map_or(State::HalfOpen, |heard| heard.view.state);
        let state = if state == State::Closed { State::HalfOpen } else { state };
        for waiter in self.waiters.drain(..) {
            let rejected = Rejected {
                state: Presented::State(state),
                reason,
                retry_after_ms: Some(1_000),
            };
            let _ = waiter.send(Answer::Rejected(rejected));
        }
    }

    /// Hands granted leases to waiting calls; the rest are refused at once.
    fn answer_waiters(&mut self, reply: &Reply, local: bool) {
        let Some(view) = &reply.view else { return };
        let isolated = matches!(self.governor, Governor::Isolated(_));
        let (first, count) = reply.granted;
        let mut leases = first..first + count;
        let presented = Presented::State(if isolated { State::Open } else { State::HalfOpen });
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            if let Some(lease) = leases.next() {
                let route = if local {
                    Route::LocalProbe(lease)
                } else {
                    Route::Probe(lease)
                };
                let permit = self
                    .inner
                    .make_permit(route, Presented::State(State::HalfOpen), view.generation, false);
                // A caller that is gone drops the permit, which cancels the probe.
                let _ = waiter.send(Answer::Probe(permit));
            } else if matches!(view.state, State::Closed | State::ForcedClosed) {
                let _ = waiter.send(Answer::LookAgain);
            } else {
                let reason = match view.state {
                    _ if isolated => RejectReason::Isolated,
                    State::Open => RejectReason::Open,
                    State::ForcedOpen => RejectReason::Forced,
                    _ => RejectReason::ProbeLimit,
                };
                let state = if view.state == State::HalfOpen {
                    presented
                } else {
                    Presented::State(view.state)
                };
                let retry = if view.state == State::Open {
                    view.remaining_ms
                } else {
                    1_000
                };
                let rejected = Rejected {
                    state,
                    reason,
                    retry_after_ms: Some(retry),
                };
                let _ = waiter.send(Answer::Rejected(rejected));
            }
        }
        // Leases without a caller go back.
        for lease in leases {
            let route = if local {
                Route::LocalProbe(lease)
            } else {
                Route::Probe(lease)
            };
            drop(self.inner.make_permit(route, presented, view.generation, false));
        }
        if reply.retry_ms > 0 {
            lock(&self.inner.details).refused_until = Instant::now() + Duration::from_millis(reply.retry_ms);
        }
    }

    fn harmful_pending(&self) -> bool {
        self.inner.unanswered.load(Ordering::Acquire) > 0 && !self.pending.is_empty()
    }

    /// Whether what is pending may trip the circuit, and therefore does not wait.
    fn may_trip(&self, now: Instant) -> bool {
        self.harmful_pending() && self.inner.unanswered.load(Ordering::Acquire) > self.headroom(now)
    }

    fn headroom(&self, now: Instant) -> u64 {
        if now >= self.headroom_until { 0 } else { self.headroom }
    }

    /// Speaking before `ask_at` would change nothing.
    fn must_wait(&self) -> bool {
        self.failing_since.is_some() || self.stateless
    }

    fn wants_to_speak(&self, now: Instant) -> bool {
        if self.must_wait() {
            return now >= self.ask_at;
        }
        let wants_probes = self.governor == Governor::Shared && !self.waiters.is_empty();
        let probe_done = self.pending.iter().any(|done| matches!(done.route, Route::Probe(_)));
        wants_probes
            || now >= self.ask_at
            || probe_done
            || self.may_trip(now)
            || (!self.pending.is_empty() && now >= self.next_routine)
            // A full batch goes at once: if it waited, an instance busier than the advised pause allows would drop calls.
            || (self.pending.len() >= MAX_BATCH && self.unanswered.is_none())
            || (now >= self.gauge_at && self.gauge() != self.gauge_sent)
    }

    fn gauge(&self) -> u64 {
        let watched = Word::unpack(self.inner.word.load(Ordering::Acquire)).gauge;
        if watched {
            self.inner
                .running_slow(self.heard.as_ref().map_or(0, |heard| heard.view.generation))
        } else {
            0
        }
    }

    /// Sleeps until something happens or falls due.
    async fn sleep(&mut self, now: Instant) {
        let mut until = self.ask_at.min(now + IDLE);
        if !self.must_wait() {
            if !self.pending.is_empty() {
                until = until.min(self.next_routine);
            }
            if Word::unpack(self.inner.word.load(Ordering::Acquire)).gauge && self.inner.stripes.in_flight() > 0 {
                until = until.min(self.gauge_at.max(now + Duration::from_millis(1)));
            }
        }
        if self.is_losing_patience() {
            until = until.min(self.patience_ends());
        }
        if let Some(since) = self.alone_since
            && self.governor == Governor::Shared
        {
            until = until.min(since + self.settings.resync);
        }
        if self.governor != Governor::Shared || self.ramping() {
            until = until.min(now + Duration::from_millis(100));
        }
        if self.headroom_until > now {
            until = until.min(self.headroom_until);
        }
        // What is pending goes soon, and what comes meanwhile goes with it.
        let depth = if self.pending.is_empty() { LIGHTLY } else { DEEPLY };
        self.inner.sleep.store(depth, Ordering::SeqCst);
        if self.inner.queue.is_empty() {
            tokio::select! {
                biased;
                () = self.inner.wake.notified() => {}
                news = self.news.recv(), if !self.deaf => self.hear(news),
                waiter = self.waiters_in.recv() => if let Some(waiter) = waiter { self.wait(waiter) },
                () = tokio::time::sleep_until(until) => {}
            }
        }
        self.inner.sleep.store(AWAKE, Ordering::SeqCst);
        if self.gauge_at <= now {
            self.gauge_at = now + GAUGE_EVERY;
        }
    }

    fn ramping(&self) -> bool {
        self.heard
            .as_ref()
            .is_some_and(|heard| heard.view.ramp_age_ms.is_some())
    }

    /// One exchange, listening meanwhile.
    async fn speak(&mut self) {
        self.asked_at = Instant::now();
        let request = self.request();
        let store = Arc::clone(&self.store);
        let id = self.inner.id.clone();
        let exchange = async { store.exchange(&id, &request).await };
        tokio::pin!(exchange);
        let result = loop {
            let (losing_patience, patience_ends) = (self.is_losing_patience(), self.patience_ends());
            tokio::select! {
                biased;
                result = &mut exchange => break result,
                news = self.news.recv(), if !self.deaf => { self.hear(news); self.publish(); }
                waiter = self.waiters_in.recv() => if let Some(waiter) = waiter { self.wait(waiter) },
                // A connection that hangs while it is made must not hold up the fallback.
                () = tokio::time::sleep_until(patience_ends), if losing_patience => {
                    self.govern(Instant::now());
                    self.serve_locally();
                    self.publish();
                }
            }
        };
        let _ = self.attempted.send_replace(true);
        match result {
            Ok(reply) => self.take(reply, &request),
            Err(error) => self.fail(&error),
        }
        self.inner.answered.notify_waiters();
    }

    /// The store failed, and the instance does not yet go on without it.
    fn is_losing_patience(&self) -> bool {
        self.governor == Governor::Shared && self.failing_since.is_some()
    }

    fn patience_ends(&self) -> Instant {
        self.failing_since.unwrap_or_else(Instant::now) + self.settings.store_patience
    }

    fn request(&mut self) -> Exchange {
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

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes the next batch of what is pending, unless one is still unanswered.
    fn fill_batch(&mut self, now: Instant) {
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
    fn isolated_rejections(&self) -> u64 {
        u64::from(matches!(self.governor, Governor::Isolated(_)))
    }

    fn fail(&mut self, error: &StoreError) {
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

    fn give_up(&mut self) {
        if let Some(lost) = self.unanswered.take() {
            self.inner.unanswered.fetch_sub(lost.harmful, Ordering::AcqRel);
            let count = lost.batch.outcomes.len() + lost.batch.probes.len();
            self.inner.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Half to all of a pause, so that a fleet does not come back at once.
    fn jitter(&mut self, pause: Duration) -> Duration {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        pause.mul_f64(0.5 + (self.rng % 1_000) as f64 / 2_000.0)
    }

    /// This instance's moment among the fleet's, within a resync interval.
    fn spread(&mut self) -> Duration {
        let live = self.inner.live.load(Ordering::Relaxed).min(u64::from(u16::MAX)) as u32;
        let all = (SPREAD * live).min(self.settings.resync);
        2 * self.jitter(all).saturating_sub(all / 2)
    }

    /// Believes a reply.
    fn take(&mut self, reply: Reply, request: &Exchange) {
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
        self.reached = true;
        self.stateless = reply.status == Status::Missing;
        self.backoff = BACKOFF.0;
        self.learn_config(&reply);
        let pause = self.settings.resync.max(Duration::from_millis(reply.interval_ms));
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
    fn forget_void(&mut self, floor: u64) {
        if self
            .heard
            .as_ref()
            .is_some_and(|heard| floor > 0 && heard.view.generation <= floor)
        {
            self.heard = None;
        }
    }

    /// Calls that wait while there is no state look again: without one they are admitted.
    fn refuse_for_now(&mut self) {
        if self.governor == Governor::Fallback {
            self.leave_fallback();
        }
        self.publish();
        for waiter in self.waiters.drain(..) {
            let _ = waiter.send(Answer::LookAgain);
        }
    }

    fn acknowledge(&mut self, reply: &Reply) {
        self.inner.late.fetch_add(reply.late, Ordering::Relaxed);
        if let Some(answered) = self.unanswered.take() {
            self.inner.unanswered.fetch_sub(answered.harmful, Ordering::AcqRel);
        }
    }

    fn count_transitions(&self, reply: &Reply) {
        let mut transitions = lock(&self.inner.transitions);
        for transition in &reply.caused {
            *transitions.entry(*transition).or_default() += 1;
        }
    }

    fn learn_config(&mut self, reply: &Reply) {
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

    fn set_effective(&self, spec: Option<Arc<str>>) {
        let effective = self.config.clone().map(|config| Arc::new(Effective { config, spec }));
        *self
            .inner
            .effective
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = effective;
    }

    fn hear(&mut self, news: Result<Announcement, broadcast::error::RecvError>) {
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
    fn adopt(&mut self, view: View, now: Instant) -> bool {
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

    /// Makes the word say what governs now, then the log, which calls need not wait for.
    fn publish(&mut self) {
        let now = Instant::now();
        let local = self.is_local();
        let fallback = self.governor == Governor::Fallback;
        let isolated = matches!(self.governor, Governor::Isolated(_));
        self.inner.degraded.store(fallback, Ordering::Relaxed);
        self.inner.isolated.store(isolated, Ordering::Relaxed);
        if let Some(policy) = self.policy() {
            self.inner.slow_ms.store(policy.slow_call_ms, Ordering::Relaxed);
            self.inner.timeout_ms.store(policy.call_timeout_ms, Ordering::Relaxed);
        }
        let mut word = Word {
            gate: Gate::Pass,
            hesitate: false,
            local,
            gauge: self.policy().is_some_and(|policy| policy.slow_rate_bp > 0),
            presented: Presented::State(State::Closed),
            generation: self.governing().map_or(0, |heard| heard.view.generation),
        };
        let denied = fallback
            && self
                .policy()
                .is_some_and(|policy| policy.store_failure == StoreFailurePolicy::Deny);
        if self.config.is_none() || self.unconfigured_by_store {
            word.gate = Gate::Free;
            word.presented = Presented::Unconfigured;
        } else if let Some(heard) = self.governing().cloned() {
            self.gate(&heard, &mut word, now, denied, isolated);
        }
        if denied {
            word.gate = Gate::Ask;
            lock(&self.inner.details).denied = true;
        }
        let guarded = matches!(word.gate, Gate::Pass | Gate::Ramp) && !local && !fallback;
        let headroom = if guarded { self.headroom(now) } else { u64::MAX };
        self.inner.headroom.store(headroom, Ordering::Release);
        let may_trip = || guarded && self.inner.unanswered.load(Ordering::Acquire) > headroom;
        word.hesitate = may_trip();
        // A call that ended since may have set the bit, which is lost now: the swap sees its count, so look again.
        self.inner.word.swap(word.pack(), Ordering::AcqRel);
        if !word.hesitate && may_trip() {
            self.inner.word.fetch_or(HESITATE, Ordering::AcqRel);
        }
        self.inner.answered.notify_waiters();
        if let (Some(from), Some(Heard { view, .. })) = (self.left.take(), &self.heard) {
            tracing::info!(breaker = %self.inner.id, %from, to = %view.state, reason = %view.reason,
                generation = view.generation, "transition");
        }
    }

    fn gate(&self, heard: &Heard, word: &mut Word, now: Instant, denied: bool, isolated: bool) {
        let view = &heard.view;
        let left = |ms: u64| heard.at + Duration::from_millis(ms);
        let mut details = lock(&self.inner.details);
        // A deadline further away than the whole duration is a damaged one.
        let open_ms = view.remaining_ms.min(view.last_open_ms.max(1));
        *details = Details {
            state: view.state,
            isolated,
            denied,
            open_until: left(open_ms),
            forced_until: (view.remaining_ms > 0).then(|| left(view.remaining_ms)),
            refused_until: details.refused_until,
        };
        drop(details);
        if view.mode == Mode::Disabled {
            word.gate = Gate::Free;
            return;
        }
        if view.mode == Mode::Observe && !view.state.is_forced() {
            word.gate = if view.state == State::Open {
                Gate::Shadow
            } else {
                Gate::Pass
            };
            return;
        }
        word.presented = Presented::State(view.state);
        word.gate = match view.state {
            State::Closed if view.ramp_age_ms.is_some() => {
                self.set_ramp(heard, now);
                if self.inner.ramp_share.load(Ordering::Relaxed) >= RAMP_ONE {
                    Gate::Pass
                } else {
                    Gate::Ramp
                }
            }
            State::Closed | State::ForcedClosed => Gate::Pass,
            // Allow: a remembered open lasts to its end; then there is nobody to ask for probes.
            State::Open if self.governor == Governor::Fallback && !word.local && now >= left(open_ms) => Gate::Pass,
            State::HalfOpen if self.governor == Governor::Fallback && !word.local => Gate::Pass,
            State::Open | State::HalfOpen | State::ForcedOpen => Gate::Ask,
        };
        if isolated && view.state == State::HalfOpen {
            word.presented = Presented::State(State::Open);
        }
    }

    /// The share of calls admitted now: linear in the age of the ramp.
    fn set_ramp(&self, heard: &Heard, now: Instant) {
        let Some(policy) = self.policy() else { return };
        let passed = now.saturating_duration_since(heard.at).as_millis() as u64;
        let age = heard.view.ramp_age_ms.unwrap_or(0) + passed;
        let share = if age >= policy.ramp_ms {
            RAMP_ONE
        } else {
            let initial = RAMP_ONE * policy.ramp_initial_percent / 100;
            initial + (RAMP_ONE - initial) * age / policy.ramp_ms.max(1)
        };
        self.inner.ramp_share.store(share, Ordering::Relaxed);
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

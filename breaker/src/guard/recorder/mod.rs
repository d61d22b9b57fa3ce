//! The one task per guard that speaks to the store: sends what calls left, believes what it hears, decides who governs.
//!
//! At most one exchange is in flight. What arrives meanwhile goes with the next, so batches form by themselves: small
//! when the store is fast, large when it is not. Rejected: a timer that collects, which delays trips and idles Redis no less.
//!
//! Here is the loop: what is collected, when it speaks, when it sleeps. `ask.rs` makes the question, `hear.rs` believes the
//! answer, `govern.rs` decides who governs, `waiters.rs` answers calls that wait, `publish.rs` says it to all others.

mod ask;
mod govern;
mod hear;
mod publish;
mod waiters;

use super::Settings;
use super::inner::{AWAKE, Answer, DEEPLY, Done, LIGHTLY, Route};
use super::lanes::Lane;
use super::local::{Local, bare};
use super::outbox::Collector;
use super::word::Word;
use crate::policy::Config;
use crate::state::State;
use crate::store::{Acquire, Announcement, Batch, MAX_BATCH, Memory, ProbeResult, Store, View};
use govern::Governor;
use hear::BACKOFF;
use std::collections::VecDeque;
use std::iter::repeat_n;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

/// Outcomes kept while the store is silent.
const PENDING: usize = 65_536;
/// The running-slow gauge is looked at this often.
const GAUGE_EVERY: Duration = Duration::from_millis(250);
/// The longest the recorder sleeps.
const IDLE: Duration = Duration::from_secs(60);
/// Where time alone changes what is admitted, as in a ramp or a local machine, it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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

pub(super) struct Recorder {
    inner: Lane,
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
    collector: Collector,
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
        inner: Lane,
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
            collector: Collector::default(),
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
            self.attend();
            let now = Instant::now();
            if self.inner.closing.load(Ordering::Acquire)
                && self.inner.outbox.is_empty()
                && !self.collector.is_waiting()
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

    /// Everything that needs no answer from the store.
    fn attend(&mut self) {
        self.collect();
        self.govern(Instant::now());
        self.serve_locally();
        self.publish();
    }

    /// Takes over what calls left in the outbox.
    fn collect(&mut self) {
        while let Ok(waiter) = self.waiters_in.try_recv() {
            self.wait(waiter);
        }
        let mut own = Vec::new();
        let (mut local, mut probes) = (Vec::new(), Vec::new());
        let local_generation = self.local_view.as_ref().map_or(0, |heard| heard.view.generation);
        let finished = self.collector.collect(&self.inner.outbox);
        for done in finished.into_iter().flat_map(|(done, times)| repeat_n(done, times)) {
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

    fn policy(&self) -> Option<&crate::policy::Policy> {
        self.config.as_ref().map(|config| &config.policy)
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
        if self.collector.is_waiting() {
            return;
        }
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
            until = until.min(now + LOOK_EVERY);
        }
        if self.headroom_until > now {
            until = until.min(self.headroom_until);
        }
        // What is pending goes soon, and what comes meanwhile goes with it.
        let depth = if self.pending.is_empty() { LIGHTLY } else { DEEPLY };
        tokio::select! {
            biased;
            () = self.inner.roused(depth) => {}
            news = self.news.recv(), if !self.deaf => self.hear(news),
            waiter = self.waiters_in.recv() => if let Some(waiter) = waiter { self.wait(waiter) },
            () = tokio::time::sleep_until(until) => {}
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

    /// One exchange. It may take as long as a connection that hangs while it is made, so whoever decides without the store
    /// goes on meanwhile.
    async fn speak(&mut self) {
        self.asked_at = Instant::now();
        let request = self.request();
        let store = Arc::clone(&self.store);
        let id = self.inner.id.clone();
        let exchange = async { store.exchange(&id, &request).await };
        tokio::pin!(exchange);
        let result = loop {
            let shared = self.governor == Governor::Shared;
            let until = if shared {
                self.patience_ends()
            } else {
                Instant::now() + LOOK_EVERY
            };
            tokio::select! {
                biased;
                result = &mut exchange => break result,
                news = self.news.recv(), if !self.deaf => self.hear(news),
                waiter = self.waiters_in.recv() => if let Some(waiter) = waiter { self.wait(waiter) },
                () = self.inner.roused(LIGHTLY), if !shared => {}
                () = tokio::time::sleep_until(until) => if shared { self.miss_the_answer() },
            }
            self.inner.sleep.store(AWAKE, Ordering::SeqCst);
            self.attend();
        };
        self.inner.sleep.store(AWAKE, Ordering::SeqCst);
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
        self.failing_since.unwrap_or(self.asked_at) + self.settings.store_patience
    }
}

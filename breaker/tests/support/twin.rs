//! Drives the model and the script side by side and says where they part.
//!
//! Steps come from a seed, so a difference is reproduced by its seed. Clients behave like real ones most of the time
//! (they remember what they were told, retry, hold leases) and like broken ones some of the time.

use fastrand::Rng;
use redis::AsyncCommands as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tiebar::id::ServiceId;
use tiebar::machine::{self, Effects, Row, window};
use tiebar::policy::{Config, Mode, Override, Policy, Window};
use tiebar::redis::{RedisSettings, RedisStore, SUFFIXES, codec};
use tiebar::state::Kind;
use tiebar::store::{
    Acquire, Announcement, Batch, Exchange, Leader, Memory, Outcome, ProbeResult, Programme, Reply, Status, Store as _,
    Written,
};
use tokio::sync::broadcast;

/// The start of time in tests: an instant with digits of every kind.
pub const EPOCH: u64 = 1_764_000_000_123;

/// What a simulated instance knows.
#[derive(Clone, Default)]
pub struct Client {
    pub name: String,
    pub boot: String,
    pub memory: Option<(Memory, u64)>,
    pub carried: Option<Config>,
    pub batch: u64,
    pub token: u64,
    pub leases: Vec<(u64, u64)>,
    pub last: Option<Exchange>,
}

impl Client {
    /// Learns from a reply at `now`.
    pub fn learn(&mut self, reply: &Reply, now: u64) {
        if let Some(programmed) = &reply.config {
            self.carried = Some(programmed.config.clone());
        }
        if let Some(view) = &reply.view {
            self.memory = Some((view.memory(), now));
            let (first, count) = reply.granted;
            self.leases
                .extend((first..first + count).map(|id| (view.generation, id)));
        }
        if self
            .memory
            .as_ref()
            .is_some_and(|(memory, _)| memory.generation <= reply.floor)
            && reply.floor > 0
        {
            self.memory = None;
        }
    }

    /// Its memory with the remaining times as of `now`.
    pub fn remembers(&self, now: u64) -> Option<Memory> {
        self.memory.as_ref().map(|(memory, at)| {
            let passed = now.saturating_sub(*at);
            Memory {
                remaining_ms: memory.remaining_ms.saturating_sub(passed),
                lease_remaining_ms: memory.lease_remaining_ms.saturating_sub(passed),
                ..memory.clone()
            }
        })
    }
}

pub fn random_policy(rng: &mut Rng) -> Policy {
    // Those that few calls meet exactly, as often as all others.
    let rate = |rng: &mut Rng| match rng.u8(0..4) {
        0 => *rng.choice(&[2_500, 5_000, 10_000]).unwrap(),
        1 => rng.u64(1..=100) * 100,
        _ => 0,
    };
    let mut policy = Policy {
        mode: *rng
            .choice(&[
                Mode::Enforce,
                Mode::Enforce,
                Mode::Enforce,
                Mode::Observe,
                Mode::Disabled,
            ])
            .unwrap(),
        consecutive_failures: if rng.bool() { rng.u64(1..8) } else { 0 },
        failure_rate_bp: rate(rng),
        slow_rate_bp: rate(rng),
        slow_call_ms: 100,
        minimum_calls: rng.u64(1..12),
        minimum_instances: rng.u64(1..4),
        window: if rng.bool() {
            Window::Time(rng.u64(1_000..30_000))
        } else {
            Window::Count(rng.u64(2..12))
        },
        open_ms: rng.u64(100..2_000),
        open_max_ms: 0,
        jitter_percent: if rng.bool() { rng.u64(0..=100) } else { 0 },
        permitted_calls: rng.u64(1..5),
        half_open_ms: rng.u64(1_000..4_000),
        ramp_ms: if rng.bool() { rng.u64(0..3_000) } else { 0 },
        call_timeout_ms: if rng.bool() { rng.u64(10..1_500) } else { 0 },
        ..Policy::default()
    };
    if rng.bool() {
        policy.open_max_ms = policy.open_ms + rng.u64(0..5_000);
    }
    if policy.consecutive_failures + policy.failure_rate_bp + policy.slow_rate_bp == 0 {
        policy.failure_rate_bp = 5_000;
    }
    policy
}

/// The next announcement; none: it does not come.
async fn soon(news: &mut broadcast::Receiver<Announcement>) -> Option<Announcement> {
    let next = tokio::time::timeout(std::time::Duration::from_secs(5), news.recv());
    next.await.ok()?.ok()
}

/// The model, and the dumps of the keys.
type Saved = (Row, Vec<(String, Vec<u8>)>);

/// What goes missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    All,
    State,
    Config,
}

/// Model and script, one service.
pub struct Twin {
    pub row: Row,
    pub id: ServiceId,
    /// One per version of the script; each decision is some version's.
    stores: Vec<RedisStore>,
    versions: Rng,
    /// What the first of them hears.
    news: broadcast::Receiver<Announcement>,
    raw: redis::aio::MultiplexedConnection,
    time: Arc<AtomicU64>,
    saved: Option<Saved>,
    leader: Leader,
}

impl Twin {
    /// A fresh pair under a prefix of its own.
    pub async fn new(server: &super::RedisServer, prefix: &str, scripts: &[&str]) -> Self {
        let time = Arc::new(AtomicU64::new(EPOCH));
        let clock = Arc::clone(&time);
        let settings = RedisSettings {
            prefix: prefix.to_owned(),
            timeout: std::time::Duration::from_secs(10),
            ..RedisSettings::new(&server.url())
        };
        let read: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(move || clock.load(Ordering::Relaxed));
        let store = |script: &&str| RedisStore::with_script(settings.clone(), script, Some(Arc::clone(&read))).unwrap();
        let client = redis::Client::open(format!("unix://{}", server.socket())).unwrap();
        let stores: Vec<RedisStore> = scripts.iter().map(store).collect();
        let mut news = stores[0].subscribe();
        // Connects, and is subscribed once it says that something may have been missed.
        stores[0].ids().await.unwrap();
        assert_eq!(soon(&mut news).await, Some(Announcement::Gap));
        Self {
            row: Row::default(),
            id: ServiceId::parse("shop/inventory").unwrap(),
            stores,
            news,
            versions: Rng::with_seed(0),
            raw: client.get_multiplexed_async_connection().await.unwrap(),
            time,
            saved: None,
            leader: Leader {
                owner: "cluster-a".to_owned(),
                created: 5,
                transitions: 1,
            },
        }
    }

    pub fn now(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }

    pub fn set_now(&self, now: u64) {
        self.time.store(now, Ordering::Relaxed);
    }

    fn key(&self, suffix: &str) -> String {
        self.stores[0].keys().of(&self.id, suffix)
    }

    /// The version that decides next.
    fn store(&mut self) -> &RedisStore {
        let version = self.versions.usize(..self.stores.len());
        &self.stores[version]
    }

    /// Both decide; their replies must be equal.
    pub async fn exchange(&mut self, request: &Exchange) -> Result<Reply, String> {
        let (now, id) = (self.now(), self.id.clone());
        let (expected, effects) = machine::exchange(&mut self.row, &self.id, request, now);
        let reply = self
            .store()
            .exchange(&id, request)
            .await
            .map_err(|error| error.to_string())?;
        if reply != expected {
            return Err(format!(
                "replies differ\n model {expected:?}\nscript {reply:?}\nto {request:?}"
            ));
        }
        self.compare().await?;
        self.listen(effects, false).await?;
        Ok(reply)
    }

    pub async fn configure(&mut self, programme: &Programme) -> Result<(), String> {
        let (now, id) = (self.now(), self.id.clone());
        let (expected, effects) = machine::configure(&mut self.row, &self.id, programme, now);
        let written = self
            .store()
            .configure(&id, programme)
            .await
            .map_err(|error| error.to_string())?;
        if written != expected {
            return Err(format!("configure: model {expected:?}, script {written:?}"));
        }
        self.compare().await?;
        self.listen(effects, matches!(written, Written::Changed(_))).await
    }

    pub async fn tombstone(&mut self, leader: &Leader) -> Result<(), String> {
        let (now, id) = (self.now(), self.id.clone());
        let expected = machine::tombstone(&mut self.row, leader, now);
        let written = self
            .store()
            .tombstone(&id, leader)
            .await
            .map_err(|error| error.to_string())?;
        if written != expected {
            return Err(format!("tombstone: model {expected:?}, script {written:?}"));
        }
        self.compare().await?;
        self.listen(Effects::default(), matches!(written, Written::Changed(_)))
            .await
    }

    pub async fn reset(&mut self, leader: &Leader, request: &str) -> Result<(), String> {
        let (now, id) = (self.now(), self.id.clone());
        let (expected, effects) = machine::reset(&mut self.row, &self.id, leader, request, now);
        let written = self
            .store()
            .reset(&id, leader, request)
            .await
            .map_err(|error| error.to_string())?;
        if written != expected {
            return Err(format!("reset: model {expected:?}, script {written:?}"));
        }
        self.compare().await?;
        self.listen(effects, matches!(written, Written::Changed(_))).await
    }

    /// What a decision announces is what the model would have announced; what it should not have is found at the next.
    async fn listen(&mut self, effects: Effects, revised: bool) -> Result<(), String> {
        let transitions = effects.views.into_iter();
        let mut expected: Vec<Announcement> = transitions
            .map(|view| Announcement::Transition(self.id.clone(), view))
            .collect();
        expected.extend(revised.then(|| Announcement::Revision(self.id.clone())));
        for expected in expected {
            let heard = soon(&mut self.news).await;
            if heard.as_ref() != Some(&expected) {
                return Err(format!("announced: model {expected:?}, script {heard:?}"));
            }
        }
        Ok(())
    }

    /// Loses keys on both sides.
    pub async fn lose(&mut self, what: Lost) {
        for suffix in SUFFIXES {
            let lost = match what {
                Lost::All => true,
                Lost::State => suffix != "config",
                Lost::Config => suffix == "config",
            };
            if lost {
                let _: () = self.raw.del(self.key(suffix)).await.unwrap();
            }
        }
        if what != Lost::Config {
            self.row.data = None;
            self.row.events.clear();
        }
        if what != Lost::State {
            self.row.config = None;
        }
    }

    pub async fn save(&mut self) {
        let mut dumps = Vec::new();
        for suffix in SUFFIXES {
            let dump: Option<Vec<u8>> = redis::cmd("DUMP")
                .arg(self.key(suffix))
                .query_async(&mut self.raw)
                .await
                .unwrap();
            dumps.extend(dump.map(|dump| (self.key(suffix), dump)));
        }
        self.saved = Some((self.row.clone(), dumps));
    }

    /// Goes back to what was saved, as a failover to a lagging replica does.
    pub async fn roll_back(&mut self) {
        let Some((row, dumps)) = self.saved.clone() else { return };
        for suffix in SUFFIXES {
            let _: () = self.raw.del(self.key(suffix)).await.unwrap();
        }
        for (key, dump) in dumps {
            let _: () = redis::cmd("RESTORE")
                .arg(key)
                .arg(3_600_000)
                .arg(dump)
                .query_async(&mut self.raw)
                .await
                .unwrap();
        }
        self.row = row;
    }

    /// The stored state of both must be equal, and the companions true.
    pub async fn compare(&mut self) -> Result<(), String> {
        let mut pipe = redis::pipe();
        pipe.hgetall(self.key("data")).hgetall(self.key("config"));
        pipe.cmd("XRANGE").arg(self.key("events")).arg("-").arg("+");
        for companion in ["state", "failures", "last_failure"] {
            pipe.get(self.key(companion));
        }
        let expiring = ["data", "state", "failures", "last_failure"];
        for suffix in expiring {
            pipe.cmd("PTTL").arg(self.key(suffix));
        }
        type Hash = HashMap<String, Vec<u8>>;
        type Entries = Vec<(String, HashMap<String, String>)>;
        type Text = Option<String>;
        type Answer = (Hash, Hash, Entries, Text, Text, Text, i64, i64, i64, i64);
        let (data, config, events, state, failures, last_failure, data_ttl, state_ttl, failures_ttl, last_ttl): Answer =
            pipe.query_async(&mut self.raw)
                .await
                .map_err(|error| error.to_string())?;
        let data = codec::data(&data).map_err(|error| error.to_string())?;
        if data != self.row.data {
            return Err(format!("data differs\n model {:?}\nscript {data:?}", self.row.data));
        }
        let config = codec::config_row(&config).map_err(|error| error.to_string())?;
        if config != self.row.config {
            return Err(format!(
                "config differs\n model {:?}\nscript {config:?}",
                self.row.config
            ));
        }
        let events: Vec<_> = events
            .iter()
            .map(|(_, fields)| codec::event(fields).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        if events != self.row.events.iter().cloned().collect::<Vec<_>>() {
            return Err(format!(
                "events differ\n model {:?}\nscript {events:?}",
                self.row.events
            ));
        }
        let Some(data) = &self.row.data else { return Ok(()) };
        let core = &data.core;
        let companions = (
            Some(core.state.to_string()),
            Some(core.failures().to_string()),
            core.last_failure_text(),
        );
        if (state.clone(), failures.clone(), last_failure.clone()) != companions {
            return Err(format!(
                "companions: wanted {companions:?}, found {state:?} {failures:?} {last_failure:?}"
            ));
        }
        let closed = core.state == tiebar::state::State::Closed;
        // PTTL says -1 of a key that stays, -2 of none.
        for (suffix, ttl) in expiring.into_iter().zip([data_ttl, state_ttl, failures_ttl, last_ttl]) {
            if !closed && self.saved.is_none() && ttl >= 0 {
                return Err(format!("{suffix} of a {} state expires in {ttl} ms", core.state));
            }
            if closed && ttl == -1 {
                return Err(format!("{suffix} of a closed state never expires"));
            }
        }
        Ok(())
    }

    /// An instant at which the stored state changes by itself; now, when there is none ahead.
    fn next_edge(&self, rng: &mut Rng, patient: bool) -> u64 {
        let Some(data) = &self.row.data else { return self.now() };
        let core = &data.core;
        let config = self.row.config.as_ref().and_then(|stored| stored.config.as_ref());
        let policy = config.map_or_else(Policy::default, |config| config.policy.clone());
        let mut edges = vec![
            core.open_until,
            core.run_at + core.window.silence_ms(),
            core.since + core.last_open_ms,
            core.since + policy.ramp_ms + core.last_open_ms,
            // A leap of the clock, and the end of the patience that follows it; a sweep; a new second.
            core.clock + 20_000,
            core.leapt_at + 60_000,
            core.swept_at + 1_000,
            (core.clock / 1_000 + 1) * 1_000,
            core.ramp_from + policy.ramp_ms,
        ];
        if let Window::Time(ms) = core.window {
            edges.push(core.clock + window::until_next_bucket(core.clock, ms));
            edges.extend(core.buckets.0.first().map(|(first, _)| (first + 10) * ms / 10));
        }
        edges.extend(core.leases.iter().map(|lease| lease.deadline));
        edges.extend((core.granted_at > 0).then(|| core.granted_at + policy.half_open_ms));
        for record in data.instances.values() {
            edges.extend([
                record.seen + 5_000,
                record.seen + 60_000,
                record.rejected_at + core.window.silence_ms(),
            ]);
        }
        edges.extend(data.boots.values().map(|marker| marker.at + 60_000));
        let mut visible: Vec<u64> = edges.iter().map(|edge| core.visible(*edge)).collect();
        let row = self.row.config.as_ref();
        visible.extend(config.and_then(|config| config.forced).map(|forced| forced.expires_at));
        visible.extend(row.map(|stored| stored.seen_at + 600_000));
        // Those that are near; the far ones would leave everything behind that is being judged.
        let reach = if !patient && rng.u8(..) < 32 { 700_000 } else { 19_000 };
        visible.retain(|edge| (self.now() + 1..self.now() + reach).contains(edge));
        rng.choice(&visible).copied().unwrap_or(self.now())
    }

    pub fn leader(&self) -> &Leader {
        &self.leader
    }
}

/// Rules for a run in which some instances fail far more than others, so that the rate holds with the worst ones and not
/// without them: only then does anything depend on who is second-worst, and by how much.
fn uneven_policy(rng: &mut Rng) -> Policy {
    let slow = rng.bool();
    let bp = *rng.choice(&[2_500, 4_000, 5_000]).unwrap();
    Policy {
        mode: Mode::Enforce,
        consecutive_failures: 0,
        failure_rate_bp: if slow { 0 } else { bp },
        slow_rate_bp: if slow { bp } else { 0 },
        minimum_instances: rng.u64(2..4),
        window: Window::Time(rng.u64(10_000..30_000)),
        ..random_policy(rng)
    }
}

/// What an operator might write.
fn random_programme(rng: &mut Rng, policy: &Policy, now: u64) -> Programme {
    let forced = (rng.u8(..) < 90).then(|| Override {
        open: rng.bool(),
        expires_at: if rng.bool() { 0 } else { now + rng.u64(0..3_000) },
    });
    let owner = if rng.u8(..) < 230 { "cluster-a" } else { "cluster-b" };
    let leader = Leader {
        owner: owner.to_owned(),
        created: rng.u64(4..6),
        transitions: rng.u64(0..3),
    };
    Programme {
        leader,
        spec: format!("{{\"v\":{}}}", rng.u8(..3)),
        policy: policy.clone(),
        forced,
    }
}

/// How an instance's calls go.
struct Habit {
    /// Calls in 256 that go badly.
    bad: u8,
    worse: Kind,
    /// None: anything.
    better: Option<Kind>,
}

impl Habit {
    fn any(rng: &mut Rng) -> Self {
        Self {
            bad: rng.u8(..),
            worse: Kind::Failure,
            better: None,
        }
    }

    /// The first is worst.
    fn uneven(index: usize, policy: &Policy) -> Self {
        Self {
            bad: [240, 140, 60, 10][index % 4],
            worse: if policy.slow_rate_bp > 0 {
                Kind::SlowSuccess
            } else {
                Kind::Failure
            },
            better: Some(Kind::Success),
        }
    }
}

/// A request as a client at this moment might send it.
fn random_exchange(rng: &mut Rng, client: &mut Client, policy: &Policy, habit: &Habit, now: u64) -> Exchange {
    if rng.u8(..) < 20
        && let Some(last) = &client.last
    {
        return last.clone();
    }
    let memory = client.remembers(now);
    let known = memory.as_ref().map_or(0, |memory| memory.generation);
    let memory = match rng.u8(..) {
        0..4 => None,
        4..8 => memory.map(|memory| Memory {
            generation: memory.generation + rng.u64(0..3),
            state: rng.u64(0..5),
            ..memory
        }),
        8..12 => Some(Memory {
            generation: rng.u64(0..10) + if rng.bool() { now } else { 0 },
            state: rng.u64(0..5),
            remaining_ms: rng.u64(0..5_000),
            round: rng.u64(0..3),
            streak: rng.u64(0..4),
            last_open_ms: rng.u64(0..5_000),
            lease_remaining_ms: rng.u64(0..3_000),
        }),
        _ => memory,
    };
    let stale = rng.u8(..) < 12;
    let generation = if stale {
        known.saturating_sub(rng.u64(1..3))
    } else {
        known
    };
    let bad = habit.bad;
    let batch = (rng.u8(..) < 200).then(|| {
        client.batch += 1;
        let mut probes = Vec::new();
        client.leases.retain(|(of, lease)| {
            let report = rng.u8(..) < 150;
            if report && *of == generation {
                let kind = *rng.choice(Kind::ALL).unwrap();
                let kind = if bad < 128 && kind != Kind::Ignored {
                    Kind::Success
                } else {
                    kind
                };
                probes.push(ProbeResult {
                    lease: *lease,
                    kind,
                    cause: rng.u8(..3),
                });
            }
            !report || *of != generation
        });
        if rng.u8(..) < 10 {
            probes.push(ProbeResult {
                lease: rng.u64(0..9),
                kind: Kind::Failure,
                cause: 0,
            });
        }
        let length = if rng.u8(..) < 4 {
            rng.usize(100..520)
        } else {
            rng.usize(0..9)
        };
        let outcomes = (0..length)
            .map(|_| Outcome {
                kind: if rng.u8(..) < bad {
                    habit.worse
                } else {
                    habit.better.unwrap_or_else(|| *rng.choice(Kind::ALL).unwrap())
                },
                cause: rng.u8(..4),
            })
            .collect();
        Batch {
            number: client.batch,
            generation,
            outcomes,
            probes,
            causes: (0..3).map(|_| format!("c{}", rng.u8(..24))).collect(),
            rejected: if rng.bool() { rng.u64(0..5) } else { 0 },
        }
    });
    let acquire = rng.bool().then(|| {
        if rng.u8(..) < 220 {
            client.token += 1;
        }
        Acquire {
            token: client.token.max(1),
            want: rng.u64(1..5),
        }
    });
    Exchange {
        instance: client.name.clone(),
        boot: client.boot.clone(),
        memory,
        carried: if rng.u8(..) < 8 {
            None
        } else {
            client.carried.clone().or_else(|| Some(Config::local(policy.clone())))
        },
        seed: rng.u8(..) < 128,
        batch,
        gauge: if rng.u8(..) < 80 { rng.u64(0..4) } else { 0 },
        gauge_generation: known,
        isolated: rng.u8(..) < 40,
        acquire,
    }
}

/// Runs `steps` random steps; the error names the seed and the step.
pub async fn run(
    server: &super::RedisServer,
    script: &str,
    seed: u64,
    steps: usize,
    prefix: &str,
) -> Result<(), String> {
    run_versions(server, &[script], seed, steps, prefix).await
}

/// The same with several versions of the script at once.
pub async fn run_versions(
    server: &super::RedisServer,
    scripts: &[&str],
    seed: u64,
    steps: usize,
    prefix: &str,
) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let mut twin = Twin::new(server, prefix, scripts).await;
    let mut clients: Vec<Client> = (0..4)
        .map(|n| Client {
            name: format!("i{n}"),
            boot: format!("boot{n}"),
            ..Client::default()
        })
        .collect();
    let uneven = seed % 7 == 2;
    let rules = if uneven { uneven_policy } else { random_policy };
    let mut policy = rules(&mut rng);
    let mut resets = 0;
    // In every third run time passes without leaps, and some clients are silent for long: only then are they forgotten.
    let patient = seed.is_multiple_of(3);
    // In every fifth nothing is ever programmed: instances judge by rules of their own, which need not agree.
    let bare = seed % 5 == 1;
    for step in 0..steps {
        let at = |error: String| format!("seed {seed}, step {step}: {error}");
        let now = twin.now();
        let span = match rng.u8(..) {
            0..90 => 0,
            90..170 => rng.u64(1..60),
            170..215 => rng.u64(60..700),
            215..235 if patient => rng.u64(4_000..20_000),
            215..235 => rng.u64(700..4_000),
            235..238 if !patient => rng.u64(4_000..70_000),
            // To an edge of time, give or take a millisecond.
            _ => twin.next_edge(&mut rng, patient).saturating_sub(now + 1) + rng.u64(0..3),
        };
        twin.set_now(now + span);
        if rng.u8(..) < 2 {
            twin.set_now(now - rng.u64(1..3_000));
        }
        let now = twin.now();
        let mut lags = false;
        match rng.u16(..1_000) {
            0..7 => {
                twin.lose(Lost::State).await;
                lags = rng.bool();
            }
            7..9 => twin.lose(Lost::All).await,
            9..11 => {
                twin.lose(Lost::Config).await;
                lags = true;
            }
            11..16 => twin.save().await,
            16..21 => twin.roll_back().await,
            21..45 => {
                if rng.bool() {
                    // With another window all evidence goes.
                    let window = if rng.bool() { None } else { Some(policy.window) };
                    policy = rules(&mut rng);
                    policy.window = window.unwrap_or(policy.window);
                }
                if bare {
                    continue;
                }
                let programme = random_programme(&mut rng, &policy, now);
                twin.configure(&programme).await.map_err(at)?;
            }
            45..49 => {
                twin.tombstone(&twin.leader().clone()).await.map_err(at)?;
                lags = true;
            }
            49..56 => {
                resets += u32::from(rng.bool());
                twin.reset(
                    &Leader {
                        transitions: 9,
                        ..twin.leader().clone()
                    },
                    &format!("r{resets}"),
                )
                .await
                .map_err(at)?;
            }
            56..60 => {
                let boot = format!("boot{}", rng.u32(..));
                let index = rng.usize(..clients.len());
                clients[index] = Client {
                    name: clients[index].name.clone(),
                    boot,
                    ..Client::default()
                };
            }
            _ => {
                let index = if patient {
                    (step / 60 + rng.usize(..2)) % clients.len()
                } else {
                    rng.usize(..clients.len())
                };
                let habit = if uneven {
                    Habit::uneven(index, &policy)
                } else {
                    Habit::any(&mut rng)
                };
                let request = random_exchange(&mut rng, &mut clients[index], &policy, &habit, now);
                let reply = twin.exchange(&request).await.map_err(at)?;
                clients[index].last = Some(request);
                if rng.u8(..) < 240 || reply.status != Status::Ok {
                    clients[index].learn(&reply, now);
                }
            }
        }
        // A replica lacks what was written last, and its clock may lie behind. What is programmed there at once must still
        // be newer than all before.
        if lags && rng.bool() {
            twin.set_now(now - rng.u64(1..90_000));
            if rng.bool() && !bare {
                let programme = random_programme(&mut rng, &policy, twin.now());
                twin.configure(&programme).await.map_err(at)?;
            }
        }
    }
    Ok(())
}

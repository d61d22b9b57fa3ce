//! One run: instances that call, crash and restart, an operator that interferes, a dependency that falls ill.

use crate::net::{Faults, Net};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiebar::guard::{Breakers, Guard, Presented, Settings, Verdict};
use tiebar::policy::{Config, Mode, Override, Policy, Window};
use tiebar::state::{Cause, State};
use tiebar::store::{Leader, Programme, Store as _};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// How long things go wrong.
const STORM: Duration = Duration::from_secs(40);
/// The longest a healed fleet may take to be closed everywhere: an override's rest (3 s), the longest open (4 s and
/// jitter), two rounds that are lost to dead probes (2 × (lease 2 s + 2 s)), a ramp (2 s), resyncs.
const RECOVERY: Duration = Duration::from_secs(25);
/// Who would open alone for what happened in the storm does so within this: a call that hung, a resync.
const STAYS: Duration = Duration::from_secs(4);
/// In calm weather an open circuit is known everywhere within this.
const CALM_MS: u64 = 50;
/// With losses but no outage: two resyncs and a timeout.
const LOSSY_MS: u64 = 3_000;

/// What a run was like.
pub(crate) struct Report {
    pub(crate) decisions: u64,
    pub(crate) calls: u64,
    pub(crate) recovered_ms: u64,
    pub(crate) edges: BTreeMap<String, u64>,
    pub(crate) trace: u64,
}

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy)]
struct Weather {
    faults: Faults,
    outages: bool,
    partitions: bool,
    amnesia: bool,
    jumps: bool,
    crashes: bool,
    hands: bool,
}

impl Weather {
    fn draw(rng: &mut Rng) -> Self {
        let calm = rng.u8(0..8) == 0;
        let mut some = |most: u32| if calm || rng.bool() { 0 } else { rng.u32(1..most) };
        let faults = Faults {
            lost_request: some(60),
            lost_reply: some(60),
            late: some(40),
            doubled: some(60),
            slow: some(200),
            lost_announcement: some(400),
            late_announcement: some(200),
        };
        let mut maybe = || !calm && rng.u8(0..3) == 0;
        Self {
            faults,
            outages: maybe(),
            partitions: maybe(),
            amnesia: maybe(),
            jumps: maybe(),
            crashes: maybe(),
            hands: maybe(),
        }
    }

    /// How long after a trip a call may still pass; none: whoever cannot hear of it may go on.
    fn propagation_ms(&self) -> Option<u64> {
        let f = self.faults;
        let losses = f.lost_request + f.lost_reply + f.late + f.slow + f.lost_announcement + f.late_announcement;
        if self.outages || self.partitions || self.amnesia || self.jumps || self.crashes || self.hands {
            None
        } else if losses == 0 {
            Some(CALM_MS)
        } else {
            Some(LOSSY_MS)
        }
    }
}

fn policy(rng: &mut Rng) -> Policy {
    let slow = rng.u8(0..4) == 0;
    let open_ms = rng.u64(500..2_000);
    Policy {
        consecutive_failures: if rng.bool() { rng.u64(2..6) } else { 0 },
        failure_rate_bp: 5_000,
        slow_rate_bp: if slow { 5_000 } else { 0 },
        slow_call_ms: if slow { 300 } else { 0 },
        minimum_calls: rng.u64(3..10),
        minimum_instances: rng.u64(1..3),
        window: if rng.bool() {
            Window::Time(rng.u64(2_000..6_000))
        } else {
            Window::Count(rng.u64(5..20))
        },
        open_ms,
        open_max_ms: if rng.bool() { open_ms * 2 } else { 0 },
        jitter_percent: if rng.bool() { 20 } else { 0 },
        permitted_calls: rng.u64(1..4),
        half_open_ms: 2_000,
        ramp_ms: if rng.u8(0..4) == 0 { 2_000 } else { 0 },
        call_timeout_ms: 1_000,
        ..Policy::default()
    }
}

/// The dependency.
#[derive(Default)]
struct Dependency {
    /// Percent of calls that fail.
    failing: AtomicU64,
    /// Percent of calls that never answer.
    hanging: AtomicU64,
}

/// One incarnation of an instance.
struct Process {
    breakers: Breakers,
    guard: Guard,
    callers: Vec<AbortHandle>,
}

struct Fleet {
    net: Arc<Net>,
    weather: Weather,
    policy: Policy,
    dependency: Arc<Dependency>,
    processes: Mutex<Vec<Option<Process>>>,
    resting: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
    boots: AtomicU64,
    /// Whether anything that was healed still counts as stormy.
    storm: Arc<AtomicU64>,
}

impl Fleet {
    fn guards(&self) -> Vec<Guard> {
        let processes = self.processes.lock().unwrap();
        processes
            .iter()
            .flatten()
            .map(|process| process.guard.clone())
            .collect()
    }

    fn start(&self, who: usize, rng: &mut Rng) {
        let boot = self.boots.fetch_add(1, Ordering::Relaxed);
        let settings = Settings {
            boot: format!("b{boot}-{:x}", rng.u32(..)),
            ..Settings::new(&format!("i{who}"))
        };
        let breakers = Breakers::new(self.net.link(who), settings);
        let guard = breakers.guard(&self.net.id, Some(Config::local(self.policy.clone())));
        let callers = (0..2)
            .map(|_| {
                let caller = Caller {
                    guard: guard.clone(),
                    net: Arc::clone(&self.net),
                    dependency: Arc::clone(&self.dependency),
                    resting: Arc::clone(&self.resting),
                    calls: Arc::clone(&self.calls),
                    storm: Arc::clone(&self.storm),
                    propagation_ms: self.weather.propagation_ms(),
                    rng: Rng::with_seed(rng.u64(..)),
                };
                tokio::spawn(caller.run()).abort_handle()
            })
            .collect();
        self.processes.lock().unwrap()[who] = Some(Process {
            breakers,
            guard,
            callers,
        });
    }

    /// kill -9: the recorder is gone before its permits are, so that they tell nobody.
    fn crash(&self, who: usize) {
        if let Some(process) = self.processes.lock().unwrap()[who].take() {
            drop(process.breakers);
            for caller in process.callers {
                caller.abort();
            }
        }
    }

    /// SIGTERM: callers end, outcomes are sent.
    async fn stop(&self, who: usize) {
        let process = self.processes.lock().unwrap()[who].take();
        if let Some(process) = process {
            for caller in process.callers {
                caller.abort();
            }
            process.breakers.shutdown(Duration::from_secs(2)).await;
        }
    }
}

/// Makes one call after another.
struct Caller {
    guard: Guard,
    net: Arc<Net>,
    dependency: Arc<Dependency>,
    resting: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
    storm: Arc<AtomicU64>,
    propagation_ms: Option<u64>,
    rng: Rng,
}

impl Caller {
    async fn run(mut self) {
        loop {
            sleep(Duration::from_micros(self.rng.u64(20_000..150_000))).await;
            if self.resting.load(Ordering::Relaxed) == 1 {
                continue;
            }
            let Ok(permit) = self.guard.acquire().await else {
                continue;
            };
            self.calls.fetch_add(1, Ordering::Relaxed);
            let status = self.guard.status();
            let alone = status.degraded || status.isolated;
            if permit.presented() == Presented::State(State::HalfOpen) && !alone {
                self.net.probed(permit.generation());
            } else if permit.presented() == Presented::State(State::Closed) {
                self.watch_propagation();
            }
            let dice = self.rng.u64(0..100);
            let hangs = dice < self.dependency.hanging.load(Ordering::Relaxed);
            let took = if hangs {
                self.rng.u64(1_000..6_000)
            } else {
                self.rng.u64(1..40)
            };
            sleep(Duration::from_millis(took.min(1_000))).await;
            if hangs && took > 3_000 {
                // The caller loses patience; the call is nobody's evidence, or slow.
                drop(permit);
            } else if hangs {
                permit.record(Verdict::Failure(Cause::Error("Timeout")));
            } else if self.rng.u64(0..100) < self.dependency.failing.load(Ordering::Relaxed) {
                permit.record(Verdict::Failure(Cause::Http(503)));
            } else {
                permit.record(Verdict::Success);
            }
        }
    }

    /// Nobody who can hear of it passes an open circuit.
    fn watch_propagation(&self) {
        let Some(bound) = self.propagation_ms else { return };
        if self.storm.load(Ordering::Relaxed) == 0 {
            return;
        }
        let late = self.net.look(|core, clock| {
            let core = core.filter(|core| core.mode == Mode::Enforce && core.state == State::Open)?;
            (clock > core.since + bound && clock < core.open_until).then(|| clock - core.since)
        });
        if let Some(late) = late {
            self.net
                .evidence(|evidence| evidence.breaks(|| format!("a call passed {late} ms after the circuit opened")));
        }
    }
}

/// Runs one seed.
pub(crate) async fn simulate(seed: u64) -> Result<Report, String> {
    let mut rng = Rng::with_seed(seed);
    let instances = rng.usize(1..5);
    let weather = Weather::draw(&mut rng);
    let net = Net::new(seed, instances + 1, weather.amnesia);
    let fleet = Arc::new(Fleet {
        weather,
        policy: policy(&mut rng),
        dependency: Arc::default(),
        processes: Mutex::new((0..instances).map(|_| None).collect()),
        resting: Arc::default(),
        calls: Arc::default(),
        boots: AtomicU64::new(0),
        storm: Arc::new(AtomicU64::new(1)),
        net: Arc::clone(&net),
    });
    for who in 0..instances {
        fleet.start(who, &mut rng);
    }
    net.set_faults(weather.faults);
    let mut storm: JoinSet<()> = JoinSet::new();
    storm.spawn(sickness(Arc::clone(&fleet), rng.fork()));
    storm.spawn(operator(Arc::clone(&fleet), instances, rng.fork()));
    storm.spawn(disaster(Arc::clone(&fleet), instances, rng.fork()));
    sleep(STORM).await;
    storm.shutdown().await;
    fleet.storm.store(0, Ordering::Relaxed);

    net.heal();
    fleet.dependency.failing.store(0, Ordering::Relaxed);
    fleet.dependency.hanging.store(0, Ordering::Relaxed);
    for who in 0..instances {
        let gone = fleet.processes.lock().unwrap()[who].is_none();
        if gone {
            fleet.start(who, &mut rng);
        }
    }
    let keeper = tokio::spawn(keep_programmed(Arc::clone(&fleet), instances));
    let described = |broken| {
        format!(
            "{broken}\n{instances} instances in {weather:?}\nunder {:?}",
            fleet.policy
        )
    };
    let recovered_ms = recover(&fleet).await.map_err(described)?;
    count_exactly(&fleet).await.map_err(described)?;
    keeper.abort();
    let calls = fleet.calls.load(Ordering::Relaxed);
    net.evidence(|evidence| match evidence.broken.take() {
        Some(broken) => Err(described(broken)),
        None => Ok(Report {
            decisions: evidence.decisions,
            calls,
            recovered_ms,
            edges: std::mem::take(&mut evidence.edges),
            trace: evidence.trace(),
        }),
    })
}

fn programme(policy: &Policy, forced: Option<Override>) -> Programme {
    Programme {
        leader: Leader::default(),
        spec: "{}".to_owned(),
        policy: policy.clone(),
        forced,
    }
}

/// The dependency falls ill and recovers.
async fn sickness(fleet: Arc<Fleet>, mut rng: Rng) {
    loop {
        let choice = |rng: &mut Rng, values: &[u64]| values[rng.usize(0..values.len())];
        fleet
            .dependency
            .failing
            .store(choice(&mut rng, &[0, 0, 0, 30, 100]), Ordering::Relaxed);
        fleet
            .dependency
            .hanging
            .store(choice(&mut rng, &[0, 0, 0, 5, 60]), Ordering::Relaxed);
        sleep(Duration::from_millis(rng.u64(1_000..6_000))).await;
    }
}

/// The healed phase's operator repairs drift: a write of the storm's may still be on its way.
async fn keep_programmed(fleet: Arc<Fleet>, link: usize) {
    let operator = fleet.net.link(link);
    loop {
        let _ = operator.configure(&fleet.net.id, &programme(&fleet.policy, None)).await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Keeps the configuration there, and in some runs interferes.
async fn operator(fleet: Arc<Fleet>, link: usize, mut rng: Rng) {
    let operator = fleet.net.link(link);
    let (mut forced, mut mode, mut resets) = (None, Mode::Enforce, 0);
    loop {
        if fleet.weather.hands && rng.u8(0..4) == 0 {
            match rng.u8(0..6) {
                0 | 1 => {
                    let until = fleet.net.clock() + rng.u64(500..3_000);
                    forced = Some(Override {
                        open: rng.bool(),
                        expires_at: if rng.bool() { until } else { 0 },
                    });
                }
                2 | 3 => forced = None,
                4 => mode = [Mode::Enforce, Mode::Observe, Mode::Disabled][rng.usize(0..3)],
                _ => {
                    resets += 1;
                    let _ = operator
                        .reset(&fleet.net.id, &Leader::default(), &format!("r{resets}"))
                        .await;
                }
            }
        } else if !fleet.weather.hands {
            (forced, mode) = (None, Mode::Enforce);
        }
        let policy = Policy {
            mode,
            ..fleet.policy.clone()
        };
        // A write that fails is repeated with the next round.
        let _ = operator.configure(&fleet.net.id, &programme(&policy, forced)).await;
        sleep(Duration::from_millis(rng.u64(500..2_000))).await;
    }
}

/// One misfortune after another.
async fn disaster(fleet: Arc<Fleet>, instances: usize, mut rng: Rng) {
    let (net, weather) = (&fleet.net, fleet.weather);
    loop {
        sleep(Duration::from_millis(rng.u64(500..5_000))).await;
        match rng.u8(0..6) {
            0 if weather.outages => {
                net.set_down(true);
                sleep(Duration::from_millis(rng.u64(100..6_000))).await;
                net.set_down(false);
            }
            1 if weather.partitions => {
                let who = rng.usize(0..=instances);
                net.set_cut(who, true);
                sleep(Duration::from_millis(rng.u64(100..6_000))).await;
                net.set_cut(who, false);
            }
            2 if weather.amnesia => {
                if rng.bool() {
                    net.wipe(rng.bool());
                } else {
                    net.roll_back(rng.usize(1..32));
                }
            }
            3 if weather.jumps => net.jump(rng.i64(-300_000..300_000)),
            4 if weather.crashes => {
                let who = rng.usize(0..instances);
                fleet.crash(who);
                sleep(Duration::from_millis(rng.u64(1..3_000))).await;
                fleet.start(who, &mut rng);
            }
            5 if weather.crashes => {
                let who = rng.usize(0..instances);
                fleet.stop(who).await;
                fleet.start(who, &mut rng);
            }
            _ => {}
        }
    }
}

/// I7 and more: with everything well again, everybody is back on one closed circuit, and stays there.
async fn recover(fleet: &Fleet) -> Result<u64, String> {
    let start = Instant::now();
    let mut well_since = start;
    loop {
        let row = fleet.net.row();
        let stored = row.data.as_ref().map(|data| (data.core.state, data.core.generation));
        let guards = fleet.guards();
        let well = |guard: &Guard| {
            let status = guard.status();
            let ramping = row.data.as_ref().is_some_and(|data| {
                data.core.ramp_from > 0 && data.core.clock < data.core.ramp_from + fleet.policy.ramp_ms
            });
            Some((State::Closed, status.generation)) == stored
                && status.state == Presented::State(State::Closed)
                && !(status.degraded || status.isolated || ramping)
        };
        if !guards.iter().all(well) {
            well_since = Instant::now();
        } else if well_since.elapsed() >= STAYS {
            return Ok((well_since - start).as_millis() as u64);
        }
        if start.elapsed() > RECOVERY + STAYS {
            let core = row.data.as_ref().map(|data| &data.core);
            let statuses: Vec<_> = guards.iter().map(Guard::status).collect();
            return Err(format!(
                "I7: not recovered after {RECOVERY:?}: {stored:?} {statuses:#?} {core:#?}"
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// I6: with a healthy store every finished call is counted exactly once.
async fn count_exactly(fleet: &Fleet) -> Result<(), String> {
    let sums = || {
        let mut sums = (0, 0);
        for guard in fleet.guards() {
            let counters = guard.counters();
            sums.0 += counters.calls[..4].iter().sum::<u64>();
            sums.1 += counters.late + counters.dropped;
        }
        sums
    };
    // Time for what is under way, and for what an outage left unanswered, to be answered or given up.
    let quiet = Duration::from_secs(13);
    fleet.resting.store(1, Ordering::Relaxed);
    sleep(quiet).await;
    let (finished, lost, counted) = (sums().0, sums().1, fleet.net.evidence(|evidence| evidence.counted));
    fleet.resting.store(0, Ordering::Relaxed);
    sleep(Duration::from_secs(3)).await;
    fleet.resting.store(1, Ordering::Relaxed);
    sleep(quiet).await;
    let (finished, lost, counted) = (
        sums().0 - finished,
        sums().1 - lost,
        fleet.net.evidence(|evidence| evidence.counted) - counted,
    );
    if lost > 0 || finished != counted || finished == 0 {
        let statuses: Vec<_> = fleet.guards().iter().map(Guard::status).collect();
        return Err(format!(
            "I6: {finished} calls finished, {counted} counted, {lost} late or dropped\n{statuses:#?}\n{:#?}",
            fleet.net.row().data
        ));
    }
    Ok(())
}

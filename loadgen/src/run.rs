//! Sends a plan's calls when they are due and gathers what comes back.
//!
//! One task owns every count; calls run in tasks of their own and measure themselves, so that a busy owner delays
//! neither a call's start by more than its turn nor its end at all. No locks, and the numbers of a snapshot belong
//! together.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::answer::{Answer, CircuitState, Kind};
use crate::arrivals::Arrivals;
use crate::client::{Caller, HttpCaller};
use crate::histogram::Latencies;
use crate::plan::{self, Plan};
use crate::report::{self, Report};
use crate::rounds::Rounds;
use crate::snapshot::{PhaseProgress, Snapshot, TargetSnapshot};
use crate::tally::Tally;

/// How long a run that was told to stop waits for the calls in flight.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Runs `plan` to its end, or until `shutdown` is ready, telling `progress` every [`Plan::progress_every`] and once at
/// the end. After the last phase it waits for the calls in flight, each at most [`Plan::timeout`]; after `shutdown` 2 s.
///
/// A plan that cannot be run, or an upstream that does not take its faults, is a [`Report::problem`]. The upstream keeps
/// the last phase's faults.
pub async fn run(plan: Plan, progress: impl FnMut(&Snapshot), shutdown: impl Future<Output = ()>) -> Report {
    let caller = HttpCaller::new(plan.timeout, plan.concurrency);
    drive(plan, caller, progress, shutdown).await
}

/// Everything that is known of a run.
pub(crate) struct Gathered {
    pub(crate) plan: Plan,
    pub(crate) began: Instant,
    pub(crate) total: Tally,
    /// Latencies by kind: ok, failed, blocked.
    pub(crate) by_kind: [Latencies; 3],
    pub(crate) targets: Vec<Target>,
    pub(crate) phases: Vec<Tally>,
    pub(crate) rounds: Rounds,
    pub(crate) abandoned: u64,
    pub(crate) interrupted: bool,
    pub(crate) problem: Option<String>,
    recent: Latencies,
}

#[derive(Default)]
pub(crate) struct Target {
    pub(crate) tally: Tally,
    pub(crate) state: Option<CircuitState>,
    recent: Latencies,
}

/// A call that should start.
#[derive(Debug, Clone, Copy)]
struct Intended {
    target: usize,
    phase: usize,
    at: Instant,
}

/// A call that has ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    intended: Intended,
    started: Instant,
    ended: Instant,
    answer: Answer,
}

struct Driver<C, P> {
    caller: C,
    progress: P,
    gathered: Gathered,
    calls: JoinSet<Ended>,
    /// At most [`Plan::concurrency`] calls.
    waiting: VecDeque<Intended>,
    next_target: usize,
    phase: usize,
    phase_began: Instant,
    ticks: tokio::time::Interval,
}

async fn drive<C: Caller, P: FnMut(&Snapshot)>(
    plan: Plan,
    caller: C,
    progress: P,
    shutdown: impl Future<Output = ()>,
) -> Report {
    if let Err(invalid) = plan.check() {
        let mut gathered = Gathered::new(plan);
        gathered.problem = Some(invalid.to_string());
        return report::write(&gathered, Duration::ZERO);
    }
    let mut shutdown = std::pin::pin!(shutdown);
    let mut driver = Driver::new(plan, caller, progress);
    driver.send(shutdown.as_mut()).await;
    driver.collect(shutdown).await;
    let elapsed = driver.gathered.began.elapsed();
    driver.tell();
    report::write(&driver.gathered, elapsed)
}

// === impl Driver ===

impl<C: Caller, P: FnMut(&Snapshot)> Driver<C, P> {
    fn new(plan: Plan, caller: C, progress: P) -> Self {
        let began = Instant::now();
        let mut ticks = tokio::time::interval_at(began + plan.progress_every, plan.progress_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            caller,
            progress,
            gathered: Gathered::new(plan),
            calls: JoinSet::new(),
            waiting: VecDeque::new(),
            next_target: 0,
            phase: 0,
            phase_began: began,
            ticks,
        }
    }

    /// Goes through the phases, as far as it gets.
    async fn send(&mut self, mut shutdown: Pin<&mut impl Future<Output = ()>>) {
        for index in 0..self.gathered.plan.phases.len() {
            self.phase = index;
            tokio::select! {
                set = set_faults(&self.caller, &self.gathered.plan, index) => {
                    if let Err(reason) = set {
                        self.gathered.problem = Some(reason);
                        return;
                    }
                }
                () = shutdown.as_mut() => {
                    self.gathered.interrupted = true;
                    return;
                }
            }
            let phase = &self.gathered.plan.phases[index];
            tracing::debug!(phase = phase.name, rate = phase.rate, duration = ?phase.duration, "phase begins");
            self.phase_began = Instant::now();
            let mut arrivals = Arrivals::new(self.phase_began, phase.rate, phase.duration);
            loop {
                let now = Instant::now();
                while let Some(at) = arrivals.take_due(now) {
                    self.intend(at);
                }
                if arrivals.over(now) {
                    break;
                }
                tokio::select! {
                    () = shutdown.as_mut() => {
                        self.gathered.interrupted = true;
                        return;
                    }
                    Some(ended) = self.calls.join_next() => self.end(ended.ok()),
                    () = until(arrivals.wake()) => {}
                    _ = self.ticks.tick() => self.tell(),
                }
            }
        }
    }

    /// Waits for the calls in flight; those still waiting will not start.
    async fn collect(&mut self, mut shutdown: Pin<&mut impl Future<Output = ()>>) {
        for intended in std::mem::take(&mut self.waiting) {
            self.gathered.overdue(intended);
        }
        let mut deadline = self.gathered.interrupted.then(|| Instant::now() + STOP_LIMIT);
        while !self.calls.is_empty() {
            tokio::select! {
                Some(ended) = self.calls.join_next() => self.end(ended.ok()),
                () = shutdown.as_mut(), if deadline.is_none() => deadline = Some(Instant::now() + STOP_LIMIT),
                () = until(deadline), if deadline.is_some() => {
                    self.gathered.abandoned = self.calls.len() as u64;
                    self.calls.shutdown().await;
                }
                _ = self.ticks.tick() => self.tell(),
            }
        }
    }

    fn intend(&mut self, at: Instant) {
        let intended = Intended {
            target: self.next_target,
            phase: self.phase,
            at,
        };
        self.next_target = (self.next_target + 1) % self.gathered.targets.len();
        let concurrency = self.gathered.plan.concurrency;
        if self.calls.len() < concurrency {
            self.start(intended);
        } else if self.waiting.len() < concurrency {
            self.waiting.push_back(intended);
        } else {
            self.gathered.overdue(intended);
        }
    }

    fn start(&mut self, intended: Intended) {
        let caller = self.caller.clone();
        let target = self.gathered.plan.targets[intended.target].clone();
        self.calls.spawn(async move {
            let started = Instant::now();
            let answer = caller.call(target).await;
            Ended {
                intended,
                started,
                ended: Instant::now(),
                answer,
            }
        });
    }

    /// `None` is a call whose task panicked; its slot is free all the same.
    fn end(&mut self, ended: Option<Ended>) {
        if let Some(ended) = ended {
            self.gathered.ended(ended);
        }
        if let Some(intended) = self.waiting.pop_front() {
            self.start(intended);
        }
    }

    fn tell(&mut self) {
        let Driver {
            gathered,
            calls,
            waiting,
            ..
        } = self;
        let phase = &gathered.plan.phases[self.phase];
        let snapshot = Snapshot {
            elapsed: gathered.began.elapsed(),
            phase: PhaseProgress {
                name: phase.name.clone(),
                index: self.phase,
                elapsed: self.phase_began.elapsed(),
                duration: phase.duration,
            },
            total: gathered.total.counts,
            latency: gathered.recent.summary(),
            in_flight: calls.len(),
            waiting: waiting.len(),
            targets: gathered
                .targets
                .iter()
                .zip(&gathered.plan.targets)
                .map(|(target, uri)| target.snapshot(uri))
                .collect(),
        };
        gathered.recent.clear();
        gathered.targets.iter_mut().for_each(|target| target.recent.clear());
        (self.progress)(&snapshot);
    }
}

async fn set_faults(caller: &impl Caller, plan: &Plan, phase: usize) -> Result<(), String> {
    match (&plan.upstream, &plan.phases[phase].faults) {
        (Some(upstream), Some(faults)) => caller.set_faults(upstream, faults).await,
        _ => Ok(()),
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

// === impl Gathered ===

impl Gathered {
    fn new(plan: Plan) -> Self {
        let (targets, phases) = (plan.targets.len(), plan.phases.len());
        Self {
            plan,
            began: Instant::now(),
            total: Tally::default(),
            by_kind: Default::default(),
            targets: std::iter::repeat_with(Target::default).take(targets).collect(),
            phases: std::iter::repeat_with(Tally::default).take(phases).collect(),
            rounds: Rounds::new(targets, phases),
            abandoned: 0,
            interrupted: false,
            problem: None,
            recent: Latencies::default(),
        }
    }

    fn ended(&mut self, call: Ended) {
        let Ended {
            intended: Intended { target, phase, at },
            started,
            ended,
            answer,
        } = call;
        let latency = ended - at;
        self.total.ended(answer, latency);
        self.phases[phase].ended(answer, latency);
        self.recent.record(latency);
        let by_kind = match answer.kind {
            Kind::Ok => Some(0),
            Kind::Failed => Some(1),
            Kind::Blocked => Some(2),
            Kind::Unanswered => None,
        };
        if let Some(kind) = by_kind {
            self.by_kind[kind].record(latency);
        }
        let of_target = &mut self.targets[target];
        of_target.tally.ended(answer, latency);
        of_target.recent.record(latency);
        of_target.state = answer.state.or(of_target.state);
        self.rounds.observe(target, phase, started, ended, answer);
    }

    fn overdue(&mut self, call: Intended) {
        self.total.counts.overdue += 1;
        self.targets[call.target].tally.counts.overdue += 1;
        self.phases[call.phase].counts.overdue += 1;
    }
}

// === impl Target ===

impl Target {
    fn snapshot(&self, uri: &http::Uri) -> TargetSnapshot {
        TargetSnapshot {
            target: plan::label(uri),
            counts: self.tally.counts,
            state: self.state,
            latency: self.recent.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The driver in virtual time, with calls whose duration a test decides; `tests/it.rs` has the real ones.

    use std::sync::{Arc, Mutex};

    use http::Uri;
    use upstream::FaultProfile;

    use super::*;
    use crate::plan::{Expectations, Phase, ShareRange};

    /// A service that stalls: calls that arrive before `until` (since its start) are answered then, later ones at once.
    #[derive(Clone)]
    struct Stalling {
        until: Instant,
        faults: Arc<Mutex<Vec<FaultProfile>>>,
        refuses_faults: bool,
    }

    impl Stalling {
        fn for_ms(ms: u64) -> Self {
            let until = Instant::now() + Duration::from_millis(ms);
            Self {
                until,
                faults: Arc::default(),
                refuses_faults: false,
            }
        }
    }

    impl Caller for Stalling {
        async fn call(&self, _: Uri) -> Answer {
            tokio::time::sleep_until(self.until).await;
            Answer {
                kind: Kind::Ok,
                state: Some(CircuitState::Closed),
            }
        }

        async fn set_faults(&self, _: &Uri, faults: &FaultProfile) -> Result<(), String> {
            self.faults.lock().unwrap().push(faults.clone());
            if self.refuses_faults {
                Err("refused".to_owned())
            } else {
                Ok(())
            }
        }
    }

    fn steady(rate: f64, ms: u64) -> Plan {
        Plan::steady(
            vec![Uri::from_static("http://target")],
            rate,
            Some(Duration::from_millis(ms)),
        )
    }

    fn sick_then_well() -> Plan {
        let phase = |name: &str, error_percent| Phase {
            name: name.to_owned(),
            duration: Some(Duration::from_secs(1)),
            rate: 10.0,
            faults: Some(FaultProfile {
                error_percent,
                ..FaultProfile::HEALTHY
            }),
            expect: Expectations {
                ok_share: Some(ShareRange { min: 1.0, max: 1.0 }),
                ..Expectations::default()
            },
        };
        let mut plan = Plan::phased(
            vec![Uri::from_static("http://target")],
            vec![phase("sick", 50), phase("well", 0)],
        );
        plan.upstream = Some(Uri::from_static("http://upstream"));
        plan
    }

    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_the_intended_start() {
        // Calls at 0, 100, 200 … ms; three run, and all are stuck until 500 ms. Those of 300 and 400 ms wait for a slot
        // and are answered at once when they get it: measured from their actual start they would have taken nothing.
        let plan = Plan {
            concurrency: 3,
            ..steady(10.0, 1_000)
        };
        let report = drive(plan, Stalling::for_ms(500), |_| {}, std::future::pending()).await;
        assert_eq!((report.total.calls, report.total.overdue), (10, 0));
        let near = |seen: Duration, ms| seen.abs_diff(Duration::from_millis(ms)) <= Duration::from_millis(2);
        assert!(near(report.latency.all.max, 500), "{:?}", report.latency.all);
        // Sorted: five of 0 ms, then 100, 200, 300, 400, 500.
        assert!(
            near(report.latency.all.p95, 500) && near(report.latency.all.p50, 0),
            "{:?}",
            report.latency.all
        );
        assert!(report.passed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_start_in_time_is_overdue_not_queued_for_ever() {
        let plan = Plan {
            concurrency: 2,
            ..steady(10.0, 1_000)
        };
        let report = drive(plan, Stalling::for_ms(60_000), |_| {}, std::future::pending()).await;
        // Two run, two wait, six of ten are dropped on arrival; the two waiting when the plan is over as well.
        assert_eq!((report.total.calls, report.total.overdue), (2, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn targets_take_turns() {
        let targets = ["http://a", "http://b", "http://c"].map(Uri::from_static).to_vec();
        let plan = Plan::steady(targets, 30.0, Some(Duration::from_secs(1)));
        let report = drive(plan, Stalling::for_ms(0), |_| {}, std::future::pending()).await;
        let calls: Vec<u64> = report.targets.iter().map(|target| target.counts.calls).collect();
        assert_eq!(calls, [10, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_comes_every_interval_and_at_the_end() {
        let mut seen = Vec::new();
        let progress = |now: &Snapshot| seen.push((now.elapsed.as_secs(), now.total.calls));
        drive(
            steady(10.0, 3_500),
            Stalling::for_ms(0),
            progress,
            std::future::pending(),
        )
        .await;
        assert_eq!(seen.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [1, 2, 3, 3]);
        assert_eq!(seen.last(), Some(&(3, 35)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_sets_its_faults_and_is_judged_by_its_own_calls() {
        let service = Stalling::for_ms(0);
        let report = drive(sick_then_well(), service.clone(), |_| {}, std::future::pending()).await;
        let set: Vec<u8> = service
            .faults
            .lock()
            .unwrap()
            .iter()
            .map(|faults| faults.error_percent)
            .collect();
        assert_eq!(set, [50, 0]);
        assert_eq!(
            report.phases.iter().map(|phase| phase.counts.calls).collect::<Vec<_>>(),
            [10, 10]
        );
        assert_eq!(report.findings.len(), 2);
        assert!(report.passed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_refuses_its_faults_ends_the_run_badly() {
        let service = Stalling {
            refuses_faults: true,
            ..Stalling::for_ms(0)
        };
        let report = drive(sick_then_well(), service, |_| {}, std::future::pending()).await;
        assert_eq!((report.problem.as_deref(), report.total.calls), (Some("refused"), 0));
        assert!(!report.passed);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_an_endless_run_well_and_a_scenario_badly() {
        let in_a_second = || tokio::time::sleep(Duration::from_millis(1_050));
        let endless = Plan::steady(vec![Uri::from_static("http://target")], 10.0, None);
        let report = drive(endless, Stalling::for_ms(0), |_| {}, in_a_second()).await;
        assert_eq!(report.total.calls, 11);
        assert!(report.interrupted && report.passed);

        let report = drive(sick_then_well(), Stalling::for_ms(0), |_| {}, in_a_second()).await;
        assert!(
            report.interrupted && !report.passed,
            "what was expected of the rest was not shown"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_abandons_calls_that_do_not_end() {
        let began = Instant::now();
        let stop = tokio::time::sleep(Duration::from_millis(250));
        let report = drive(steady(10.0, 60_000), Stalling::for_ms(3_600_000), |_| {}, stop).await;
        assert_eq!((report.total.calls, report.abandoned), (0, 3));
        assert_eq!(began.elapsed().as_millis(), 2_250);
        assert!(!report.passed, "without a single answer it could not run");
    }

    #[tokio::test]
    async fn a_senseless_plan_is_a_problem_not_a_panic() {
        let plan = Plan::steady(Vec::new(), 1.0, None);
        let report = run(plan, |_| {}, std::future::pending()).await;
        assert!(
            report
                .problem
                .is_some_and(|problem| problem.contains("expected 1 to 100"))
        );
    }
}

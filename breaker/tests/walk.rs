//! Every reachable state of small configurations, breadth first, with the invariants checked at each step.
//!
//! In each state also what must change nothing is tried: outcomes of another generation, leases of others, batches that
//! were answered long ago, rejections and ignored outcomes.
//!
//! States are compared after normalisation: generations by rank, instants relative to the clock and capped where the
//! machine can no longer tell them apart. What is left is finite, so the walk ends.

#[path = "support/edges.rs"]
mod edges;

use edges::is_edge;
use std::collections::{BTreeSet, HashSet, VecDeque};
use tiebar::id::ServiceId;
use tiebar::machine::{self, Row};
use tiebar::policy::{Config, Mode, Override, Policy, Window};
use tiebar::state::{Kind, Reason, State};
use tiebar::store::{Acquire, Batch, Event, Exchange, Memory, Outcome, ProbeResult, Reply, Status};

const EPOCH: u64 = 1_764_000_000_000;
/// Enough to close every configuration below; reaching it fails the test.
const MAX_STATES: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Pass(u64),
    Say(usize, Kind),
    Acquire(usize),
    Probe(usize, Kind),
    Resync(usize),
    Restart(usize),
    Lose,
    Force(Option<bool>),
    Mode(Mode),
}

/// What an instance knows.
#[derive(Clone, Default)]
struct Client {
    memory: Option<Memory>,
    leases: Vec<(u64, u64)>,
    batch: u64,
    token: u64,
    boot: u64,
}

#[derive(Clone)]
struct World {
    row: Row,
    clients: [Client; 2],
    now: u64,
    forced: Option<Override>,
    mode: Mode,
}

struct Walk {
    policy: Policy,
    id: ServiceId,
    actions: Vec<Action>,
    /// Everybody hears of every decision; else only the one that asked, and memories differ.
    announced: bool,
}

impl Walk {
    fn step(&self, world: &World, action: Action) -> Result<World, String> {
        let mut next = world.clone();
        let before = world.row.data.as_ref().map(|data| data.core.generation);
        match action {
            Action::Pass(ms) => {
                next.now += ms;
                for client in &mut next.clients {
                    if let Some(memory) = &mut client.memory {
                        memory.remaining_ms = memory.remaining_ms.saturating_sub(ms);
                        memory.lease_remaining_ms = memory.lease_remaining_ms.saturating_sub(ms);
                    }
                }
                return Ok(next);
            }
            Action::Lose => {
                next.row.data = None;
                next.row.events.clear();
                return Ok(next);
            }
            Action::Force(open) => {
                next.forced = open.map(|open| Override { open, expires_at: 0 });
                return Ok(next);
            }
            Action::Mode(mode) => {
                next.mode = mode;
                return Ok(next);
            }
            Action::Restart(who) => {
                next.clients[who] = Client {
                    boot: (world.clients[who].boot + 1) % 2,
                    // Two boots stand for ever new ones, so their numbers go on.
                    batch: world.clients[who].batch,
                    token: world.clients[who].token,
                    ..Client::default()
                };
                return Ok(next);
            }
            Action::Say(who, kind) => {
                let outcomes = vec![Outcome { kind, cause: 0 }];
                self.send(&mut next, who, outcomes, Vec::new(), false)?;
            }
            Action::Probe(who, kind) => {
                if next.clients[who].leases.is_empty() {
                    return Ok(next);
                }
                let (_, lease) = next.clients[who].leases.remove(0);
                self.send(
                    &mut next,
                    who,
                    Vec::new(),
                    vec![ProbeResult { lease, kind, cause: 0 }],
                    false,
                )?;
            }
            Action::Acquire(who) => self.send(&mut next, who, Vec::new(), Vec::new(), true)?,
            Action::Resync(who) => self.send(&mut next, who, Vec::new(), Vec::new(), false)?,
        }
        self.check(world, &next, before)?;
        self.harmless(&next)?;
        Ok(next)
    }

    /// What an instance sends, but for its outcomes and wishes.
    fn request(&self, world: &World, who: usize) -> Exchange {
        let client = &world.clients[who];
        Exchange {
            instance: format!("i{who}"),
            boot: format!("i{who}b{}", client.boot),
            memory: client.memory.clone(),
            carried: Some(Config {
                revision: 0,
                policy: Policy {
                    mode: world.mode,
                    ..self.policy.clone()
                },
                forced: world.forced,
            }),
            seed: true,
            ..Exchange::default()
        }
    }

    fn send(
        &self,
        world: &mut World,
        who: usize,
        outcomes: Vec<Outcome>,
        probes: Vec<ProbeResult>,
        wish: bool,
    ) -> Result<(), String> {
        let client = &mut world.clients[who];
        let generation = client.memory.as_ref().map_or(0, |memory| memory.generation);
        client.batch += 1;
        client.token += 1;
        let (number, token) = (client.batch, client.token);
        let sent = (outcomes.len() + probes.len()) as u64;
        let leases: Vec<u64> = probes.iter().map(|probe| probe.lease).collect();
        let request = Exchange {
            batch: Some(Batch {
                number,
                generation,
                outcomes,
                probes,
                ..Batch::default()
            }),
            acquire: wish.then_some(Acquire { token, want: 2 }),
            ..self.request(world, who)
        };
        let before = world.row.clone();
        let (reply, _) = machine::exchange(&mut world.row, &self.id, &request, world.now);
        // A retry of the very same request applies nothing and grants nothing new.
        let mut again = world.row.clone();
        let (repeated, _) = machine::exchange(&mut again, &self.id, &request, world.now);
        if repeated.applied != 0 || (reply.granted.1 > 0 && repeated.granted != reply.granted) {
            return Err(format!("a retry is not harmless: {reply:?} then {repeated:?}"));
        }
        if reply.status == Status::Ok && reply.applied + reply.late != sent {
            return Err(format!("I6: {sent} outcomes sent, answered by {reply:?}"));
        }
        // Before the outcomes came what the memory in the same request restored, and what was due.
        let current = before.data.as_ref().map_or(0, |data| data.core.generation);
        let held = |lease: u64| {
            let mut leases = before.data.iter().flat_map(|data| &data.core.leases);
            leases.any(|held| held.id == lease && held.instance == format!("i{who}") && held.deadline > world.now)
        };
        if reply.applied > 0 && (generation != current || !leases.iter().all(|lease| held(*lease))) {
            return Err(format!(
                "I5: outcomes of {generation} and leases {leases:?} applied to {before:?}"
            ));
        }
        self.reached(&before, &world.row, &request)?;
        self.learn(&mut world.clients[who], &world.row, &reply);
        if self.announced {
            let heard = world.clients[who].memory.clone();
            world.clients[1 - who].memory = heard;
        }
        Ok(())
    }

    fn learn(&self, client: &mut Client, row: &Row, reply: &Reply) {
        let Some(view) = &reply.view else { return };
        client.memory = Some(view.memory());
        let (first, count) = reply.granted;
        client
            .leases
            .extend((first..first + count).map(|lease| (view.generation, lease)));
        // A client that forgets an expired probe is as good as one that keeps it.
        let live = |lease: u64| {
            row.data
                .as_ref()
                .is_some_and(|data| data.core.leases.iter().any(|l| l.id == lease))
        };
        client
            .leases
            .retain(|(generation, lease)| *generation == view.generation && live(*lease));
    }

    /// I3: closed comes of a verdict that was passed, of a person, or of memory that was closed.
    fn reached(&self, before: &Row, after: &Row, request: &Exchange) -> Result<(), String> {
        let known = before.events.back().map(|event| event.generation);
        let fresh = after
            .events
            .iter()
            .filter(|event| known.is_none_or(|known| event.generation > known));
        for event in fresh.filter(|event| event.to == State::Closed && event.from != Some(State::Closed)) {
            // Nobody vouches for generation 0.
            let memory = request.memory.as_ref().filter(|memory| memory.generation > 0);
            let remembered = memory.map(|memory| State::from_code(memory.state));
            let mode = request.carried.as_ref().map(|carried| carried.policy.mode);
            let number = |name: &str| -> u64 {
                let (_, rest) = event.snapshot.split_once(&format!("\"{name}\":")).unwrap_or_default();
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()
                    .unwrap_or_default()
                    .parse()
                    .unwrap_or(0)
            };
            let allowed = match event.reason {
                Reason::ModeChanged => before.data.as_ref().is_some_and(|data| Some(data.core.mode) != mode),
                Reason::OverrideLapsed => {
                    event.from == Some(State::ForcedClosed)
                        && request.carried.as_ref().is_some_and(|carried| carried.forced.is_none())
                }
                Reason::Seeded => event.generation == 0 && remembered.is_none(),
                Reason::Reseeded => {
                    matches!(remembered, Some(Some(State::Closed | State::ForcedClosed)))
                        || mode == Some(Mode::Disabled)
                }
                // No rate is set: one failed probe reopens.
                Reason::ProbesSucceeded => number("finished") > 0 && number("failed") == 0,
                _ => false,
            };
            if !allowed {
                return Err(format!("I3: {event:?} from {before:?} by {request:?}"));
            }
        }
        Ok(())
    }

    /// I5, I6, I9: what must change nothing in this state, whoever sends it.
    fn harmless(&self, world: &World) -> Result<(), String> {
        let Some(data) = &world.row.data else { return Ok(()) };
        let core = &data.core;
        for who in 0..world.clients.len() {
            let client = &world.clients[who];
            let resync = self.request(world, who);
            let failure = Outcome {
                kind: Kind::Failure,
                cause: 0,
            };
            let foreign = core
                .leases
                .iter()
                .filter(|lease| lease.instance != resync.instance)
                .map(|lease| lease.id);
            let probes = foreign.chain([0, core.next_lease]).map(|lease| ProbeResult {
                lease,
                kind: Kind::Failure,
                cause: 0,
            });
            let batch = |number: u64, generation: u64| Batch {
                number,
                generation,
                ..Batch::default()
            };
            let stale = [core.generation.wrapping_sub(1), core.generation + 1];
            let mut tried: Vec<(&str, Batch)> = stale
                .iter()
                .map(|generation| {
                    let outcomes = vec![failure; 3];
                    (
                        "I5, another generation",
                        Batch {
                            outcomes,
                            ..batch(client.batch + 1, *generation)
                        },
                    )
                })
                .collect();
            let probes: Vec<ProbeResult> = probes.collect();
            tried.push((
                "I5, leases of others",
                Batch {
                    probes,
                    ..batch(client.batch + 1, core.generation)
                },
            ));
            // A number the store remembers; a store that lost it, or this boot for a minute, does not.
            let marker = data.boots.get(&resync.boot).map_or(0, |marker| marker.number);
            if marker == client.batch {
                let outcomes = vec![failure; 3];
                tried.push((
                    "I6, again",
                    Batch {
                        outcomes,
                        ..batch(client.batch, core.generation)
                    },
                ));
            }
            let outcomes = vec![
                Outcome {
                    kind: Kind::Ignored,
                    cause: 0
                };
                3
            ];
            tried.push((
                "I9, ignored",
                Batch {
                    outcomes,
                    rejected: 5,
                    ..batch(client.batch + 1, core.generation)
                },
            ));
            let answer = |batch: Option<Batch>| {
                let mut row = world.row.clone();
                let request = Exchange {
                    batch,
                    ..resync.clone()
                };
                let (reply, _) = machine::exchange(&mut row, &self.id, &request, world.now);
                let evidence = row.data.map(|data| {
                    let core = data.core;
                    (
                        core.buckets,
                        core.slots,
                        core.run,
                        core.leases,
                        core.finished,
                        core.failed,
                        core.generation,
                    )
                });
                (reply.applied, reply.view, evidence)
            };
            let (_, view, evidence) = answer(None);
            for (what, batch) in tried {
                let found = answer(Some(batch.clone()));
                if found != (0, view.clone(), evidence.clone()) {
                    return Err(format!("{what}: {batch:?} makes {found:?} of {view:?} {evidence:?}"));
                }
            }
        }
        Ok(())
    }

    /// I1, I2, I4 and the bounds, after one decision.
    fn check(&self, before: &World, after: &World, generation: Option<u64>) -> Result<(), String> {
        let Some(data) = &after.row.data else { return Ok(()) };
        let core = &data.core;
        if core.leases.len() as u64 + core.finished > core.permitted.max(u64::from(core.state != State::HalfOpen) * 99)
        {
            return Err(format!(
                "I2: {} leases, {} finished, {} permitted",
                core.leases.len(),
                core.finished,
                core.permitted
            ));
        }
        let known: Vec<&Event> = before.row.events.iter().collect();
        let fresh: Vec<&Event> = after.row.events.iter().filter(|event| !known.contains(event)).collect();
        let mut last = generation;
        for event in &fresh {
            if last.is_some_and(|last| event.generation <= last) {
                return Err(format!("I1: generation {} after {last:?}", event.generation));
            }
            if !is_edge(event.from, event.to, event.reason) {
                return Err(format!(
                    "no such edge: {:?} → {} {}",
                    event.from, event.to, event.reason
                ));
            }
            if event.reason == Reason::WaitElapsed
                && let Some(was) = before.row.data.as_ref().filter(|was| was.core.state == State::Open)
                && after.now < was.core.open_until
            {
                return Err("I4: open ended early".to_owned());
            }
            last = Some(event.generation);
        }
        if fresh.is_empty() && generation.is_some_and(|generation| generation != core.generation) {
            return Err("I1: a new generation without an event".to_owned());
        }
        let bounded = core.causes.len() <= 16 && core.recent.len() <= 256 && after.row.events.len() <= 100;
        if bounded {
            Ok(())
        } else {
            Err("a list grows without bound".to_owned())
        }
    }

    /// What tells states apart.
    fn key(&self, world: &World) -> String {
        let mut generations: BTreeSet<u64> = BTreeSet::new();
        generations.extend(
            world
                .clients
                .iter()
                .filter_map(|client| Some(client.memory.as_ref()?.generation)),
        );
        generations.extend(world.row.data.as_ref().map(|data| data.core.generation));
        let rank = |generation: u64| generations.iter().position(|known| *known == generation);
        let clients: Vec<String> = world
            .clients
            .iter()
            .map(|client| {
                let memory = client.memory.as_ref().map(|m| {
                    (
                        rank(m.generation),
                        m.state,
                        m.remaining_ms,
                        m.round.min(1),
                        m.streak.min(2),
                        m.lease_remaining_ms,
                    )
                });
                // A lease's number says nothing; which of the live ones it is, does.
                let live = |lease: u64| world.row.data.as_ref()?.core.leases.iter().position(|l| l.id == lease);
                let leases: Vec<Option<usize>> = client.leases.iter().map(|(_, lease)| live(*lease)).collect();
                format!("{memory:?}{leases:?}{}", client.boot)
            })
            .collect();
        let data = world.row.data.as_ref().map(|data| {
            let core = &data.core;
            let age = |instant: u64, cap: u64| world.now.saturating_sub(instant).min(cap);
            let left = |instant: u64| instant.saturating_sub(world.now);
            let leases: Vec<(&str, u64)> = core
                .leases
                .iter()
                .map(|lease| (lease.instance.as_str(), left(lease.deadline)))
                .collect();
            let rested = self.policy.ramp_ms + core.last_open_ms;
            // An instance that was forgotten comes back under a new number.
            let owner = |index: u64| data.instances.values().position(|record| record.index == index);
            let slots: Vec<(Kind, Option<usize>)> = core
                .slots
                .0
                .iter()
                .map(|(kind, index)| (*kind, owner(*index)))
                .collect();
            let shares: Vec<(u64, u64)> = data
                .instances
                .values()
                .map(|record| (data.share(record).calls, data.share(record).failing))
                .collect();
            // Over or not: a minute in steps of a second would be sixty times the states and no more behaviour.
            let run_is_over = core.run > 0 && age(core.run_at, u64::MAX) >= core.window.silence_ms();
            let granted = if core.granted_at > 0 {
                age(core.granted_at, self.policy.half_open_ms) + 1
            } else {
                0
            };
            format!(
                "{:?}{:?}{:?}{}{}{}{:?}{}{}{:?}{}{}{}{:?}{:?}{}",
                rank(core.generation),
                core.state,
                core.mode,
                left(core.open_until),
                core.streak.min(2),
                core.round.min(2),
                slots,
                core.run.min(self.policy.consecutive_failures),
                run_is_over,
                core.run_instances,
                granted,
                core.finished,
                core.failed,
                leases,
                shares,
                if core.state == State::Closed {
                    age(core.since, rested)
                } else {
                    0
                },
            )
        });
        format!("{clients:?}{data:?}{:?}{:?}", world.forced, world.mode)
    }

    /// Walks; returns (states, steps, edges seen).
    fn run(&self) -> (usize, usize, BTreeSet<String>) {
        let start = World {
            row: Row::default(),
            clients: Default::default(),
            now: EPOCH,
            forced: None,
            mode: Mode::Enforce,
        };
        let mut seen: HashSet<String> = HashSet::new();
        let mut worlds: Vec<World> = vec![start.clone()];
        let mut parents: Vec<(usize, Option<Action>)> = vec![(0, None)];
        seen.insert(self.key(&start));
        let mut queue = VecDeque::from([0]);
        let (mut steps, mut edges) = (0, BTreeSet::new());
        while let Some(index) = queue.pop_front() {
            let world = worlds[index].clone();
            for action in &self.actions {
                steps += 1;
                let next = self.step(&world, *action).unwrap_or_else(|broken| {
                    let mut path = vec![*action];
                    let mut at = index;
                    while let (parent, Some(action)) = parents[at] {
                        path.push(action);
                        at = parent;
                    }
                    path.reverse();
                    panic!("{broken}\nby {path:?}");
                });
                for event in next.row.events.iter().rev().take(2) {
                    edges.insert(format!(
                        "{} → {} {}",
                        event.from.map_or("–", State::as_str),
                        event.to,
                        event.reason
                    ));
                }
                let key = self.key(&next);
                if seen.insert(key) {
                    worlds.push(next);
                    parents.push((index, Some(*action)));
                    queue.push_back(worlds.len() - 1);
                    assert!(
                        worlds.len() < MAX_STATES,
                        "the walk does not end: {}",
                        self.key(&worlds[worlds.len() - 1])
                    );
                }
            }
        }
        (worlds.len(), steps, edges)
    }
}

fn small(minimum_instances: u64) -> Policy {
    Policy {
        // Two steps of the walk's clock: before, at and after each deadline.
        consecutive_failures: 2,
        failure_rate_bp: 0,
        minimum_instances,
        window: Window::Count(2),
        open_ms: 1_000,
        permitted_calls: 2,
        half_open_ms: 1_000,
        call_timeout_ms: 1_000,
        ..Policy::default()
    }
}

fn walk(announced: bool, policy: Policy, actions: Vec<Action>, wanted: &[&str]) {
    let walk = Walk {
        policy,
        id: ServiceId::parse("a").unwrap(),
        actions,
        announced,
    };
    let (states, steps, edges) = walk.run();
    println!("{states} states, {steps} steps, edges: {edges:#?}");
    assert!(states > 200, "only {states} states");
    for edge in wanted {
        assert!(edges.contains(*edge), "never seen: {edge}");
    }
}

const CYCLE: [&str; 7] = [
    "– → closed Seeded",
    "closed → open ConsecutiveFailures",
    "open → half_open WaitElapsed",
    "half_open → closed ProbesSucceeded",
    "half_open → open ProbesFailed",
    "half_open → half_open ProbesLost",
    "half_open → closed ProbesSucceeded",
];

/// One instance that does everything and one that helps along: two that do everything are the same states twice over.
fn calls() -> Vec<Action> {
    vec![
        Action::Pass(1_000),
        Action::Pass(60_000),
        Action::Say(0, Kind::Success),
        Action::Say(0, Kind::Failure),
        Action::Say(1, Kind::Failure),
        Action::Acquire(0),
        Action::Acquire(1),
        Action::Probe(0, Kind::Success),
        Action::Probe(0, Kind::Failure),
        Action::Probe(0, Kind::Ignored),
        Action::Probe(1, Kind::Success),
    ]
}

#[test]
fn one_instance_s_word_suffices() {
    walk(true, small(1), calls(), &CYCLE);
}

#[test]
fn two_must_agree() {
    walk(true, small(2), calls(), &CYCLE);
}

/// Loss and restarts, with fewer kinds of calls so that the walk stays small.
#[test]
fn state_is_lost_and_instances_restart() {
    let actions = vec![
        Action::Pass(1_000),
        Action::Say(0, Kind::Failure),
        Action::Acquire(0),
        Action::Acquire(1),
        Action::Probe(0, Kind::Success),
        Action::Probe(1, Kind::Failure),
        Action::Resync(1),
        Action::Restart(0),
        Action::Lose,
    ];
    let policy = Policy {
        permitted_calls: 1,
        ..small(1)
    };
    walk(
        false,
        policy,
        actions,
        &["– → open Reseeded", "– → closed Reseeded", "– → closed Seeded"],
    );
}

#[test]
fn hands_interfere() {
    let actions = vec![
        Action::Pass(1_000),
        Action::Say(0, Kind::Failure),
        Action::Acquire(0),
        Action::Probe(0, Kind::Success),
        Action::Resync(1),
        Action::Force(None),
        Action::Force(Some(true)),
        Action::Force(Some(false)),
    ];
    let wanted = [
        "closed → forced_open Override",
        "open → forced_closed Override",
        "half_open → forced_open Override",
        "forced_open → open OverrideLapsed",
        "forced_closed → closed OverrideLapsed",
        "forced_open → forced_closed Override",
    ];
    walk(
        true,
        Policy {
            permitted_calls: 1,
            ..small(1)
        },
        actions,
        &wanted,
    );
}

/// Observe runs the same machine without leases, Disabled none; each change of mode begins anew.
#[test]
fn modes_change() {
    let actions = vec![
        Action::Pass(1_000),
        Action::Say(0, Kind::Failure),
        Action::Say(0, Kind::Success),
        Action::Acquire(0),
        Action::Probe(0, Kind::Success),
        Action::Resync(1),
        Action::Mode(Mode::Enforce),
        Action::Mode(Mode::Observe),
        Action::Mode(Mode::Disabled),
        Action::Force(None),
        Action::Force(Some(true)),
    ];
    let wanted = [
        "closed → closed ModeChanged",
        "open → closed ModeChanged",
        "half_open → closed ModeChanged",
        "forced_open → closed ModeChanged",
        "closed → open ConsecutiveFailures",
        "half_open → closed ProbesSucceeded",
        "half_open → open ProbesFailed",
    ];
    let policy = Policy {
        permitted_calls: 1,
        ..small(1)
    };
    walk(true, policy, actions, &wanted);
}

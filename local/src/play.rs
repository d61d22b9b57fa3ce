//! What a key sets going: a fault, the promise it tests, and how long the promise took to keep.

use super::fleet::{Fleet, Health};
use std::time::{Duration, Instant};
use tiebar::guard::Presented;
use tiebar::state::State;

/// How long the service takes while an instance that probes is to be killed: long enough to catch one at it.
const SLOW_MS: u32 = 2_000;

/// One experiment under way.
pub(crate) struct Play {
    since: Instant,
    scene: Scene,
}

enum Scene {
    /// The service is sick; when the first instance knew that the circuit is open.
    Broken(Option<Instant>),
    /// The service is well.
    Healed,
    /// Waits for an instance that probes.
    Aiming,
    /// An instance died probing.
    Killed(String),
    /// The store is gone.
    Cut,
    /// The store is back.
    Restored,
}

/// What the picture is told.
pub(crate) struct News {
    pub(crate) line: String,
    pub(crate) over: bool,
}

impl Play {
    fn new(scene: Scene) -> Self {
        Self {
            since: Instant::now(),
            scene,
        }
    }

    /// Begins what a key stands for; the line says what is promised.
    pub(crate) fn begin(key: char, fleet: &mut Fleet) -> (Option<Self>, String) {
        let (scene, line) = match key {
            'b' => {
                fleet.set_health(Health::Sick);
                (
                    Scene::Broken(None),
                    "the service is sick: the circuit opens, for all instances at once",
                )
            }
            'h' => {
                fleet.set_health(Health::Well);
                (
                    Scene::Healed,
                    "the service is well: when open is over, probes close the circuit",
                )
            }
            'k' => (
                Scene::Aiming,
                "an instance is killed as soon as it probes: what it holds must come back by itself",
            ),
            's' => match fleet.toggle_store() {
                None => {
                    return (
                        None,
                        "the store is a redis-server: stop it, and start it again".to_owned(),
                    );
                }
                Some(true) => (
                    Scene::Cut,
                    "the store is cut off: each instance goes on alone, no call fails for it",
                ),
                Some(false) => (Scene::Restored, "the store is back: all share one circuit again"),
            },
            _ => unreachable!("only these four are experiments"),
        };
        (Some(Self::new(scene)), format!("▶ {line}"))
    }

    /// Whether the script has to leave the service alone.
    pub(crate) fn holds_service(&self) -> bool {
        matches!(self.scene, Scene::Aiming | Scene::Killed(_))
    }

    /// Looks whether the promise is kept; called every few milliseconds.
    pub(crate) fn look(&mut self, fleet: &mut Fleet) -> Option<News> {
        let now = Instant::now();
        let alive: Vec<_> = fleet.members().filter_map(|member| member.status()).collect();
        let in_state = |state| {
            alive
                .iter()
                .filter(|status| status.state == Presented::State(state))
                .count()
        };
        let (open, closed, all) = (in_state(State::Open), in_state(State::Closed), alive.len());
        let after = |since: Instant| shown(now.duration_since(since));
        let over = |line: String| {
            let line = format!("✔ {line}");
            Some(News { line, over: true })
        };
        match &mut self.scene {
            Scene::Broken(first) => {
                if open > 0 {
                    first.get_or_insert(now);
                }
                let first = first.filter(|_| open == all)?;
                over(format!(
                    "open on all {all} instances, {} after the first knew",
                    after(first)
                ))
            }
            Scene::Healed if closed == all && all > 0 => over(format!(
                "closed on all {all} instances, {} after it was healed",
                after(self.since)
            )),
            Scene::Aiming => {
                if let Some(name) = fleet.kill_prober() {
                    fleet.set_health(Health::Well);
                    let line = format!("{name} was killed while it probed; it starts again in a few seconds");
                    self.scene = Scene::Killed(name);
                    self.since = now;
                    return Some(News { line, over: false });
                }
                // Only an open circuit leads to probes, and only slow ones are seen.
                fleet.set_health(if closed > 0 {
                    Health::Sick
                } else {
                    Health::Slow(SLOW_MS)
                });
                None
            }
            Scene::Killed(name) if closed > 0 => over(format!(
                "closed {} after {name} died with a probe: the round was not wedged",
                after(self.since)
            )),
            Scene::Cut if all > 0 && alive.iter().all(|status| status.degraded) => over(format!(
                "all {all} go on alone, by the same rules, after {}",
                after(self.since)
            )),
            Scene::Restored if all > 0 && alive.iter().all(|status| !status.degraded) => {
                over(format!("all {all} share one circuit again after {}", after(self.since)))
            }
            _ => None,
        }
    }
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

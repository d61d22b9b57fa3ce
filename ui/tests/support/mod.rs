//! A fleet in every state there is, made by the very requests that instances and operators send.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::policy::{Mode, Override, Policy};
use tiebar::state::Kind;
use tiebar::store::{Acquire, Batch, Beat, Exchange, Leader, Outcome, ProbeResult, Programme, Reply, Store};

/// Speaks for all instances of a fleet.
pub(crate) struct Fleet {
    store: Arc<dyn Store>,
    generations: HashMap<(ServiceId, String), u64>,
    batches: u64,
    totals: HashMap<(ServiceId, String), (u64, u64)>,
}

/// A well-formed id.
pub(crate) fn id(text: &str) -> ServiceId {
    ServiceId::parse(text).expect("a service id")
}

impl Fleet {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            generations: HashMap::new(),
            batches: 0,
            totals: HashMap::new(),
        }
    }

    fn leader() -> Leader {
        Leader {
            owner: "gallery".to_owned(),
            ..Leader::default()
        }
    }

    /// Programmes a breaker.
    pub(crate) async fn programme(&self, name: &str, spec: &str, policy: Policy, forced: Option<Override>) {
        let programme = Programme {
            leader: Self::leader(),
            spec: spec.to_owned(),
            policy,
            forced,
        };
        self.store
            .configure(&id(name), &programme)
            .await
            .expect("the store answers");
    }

    async fn exchange(&mut self, name: &str, instance: &str, change: impl FnOnce(&mut Exchange)) -> Reply {
        let key = (id(name), instance.to_owned());
        let mut request = Exchange {
            instance: instance.to_owned(),
            boot: format!("boot-{instance}"),
            seed: true,
            ..Exchange::default()
        };
        change(&mut request);
        let reply = self.store.exchange(&key.0, &request).await.expect("the store answers");
        if let Some(view) = &reply.view {
            self.generations.insert(key, view.generation);
        }
        reply
    }

    /// Reports finished calls of an instance: so many well, failed and slow.
    pub(crate) async fn calls(&mut self, name: &str, instance: &str, well: usize, failed: usize, slow: usize) {
        self.exchange(name, instance, |_| {}).await;
        let generation = self.generations[&(id(name), instance.to_owned())];
        let outcome = |kind, cause| Outcome { kind, cause };
        // Mixed, so that neither kind comes in one long run.
        let mut outcomes: Vec<Outcome> = (0..well + failed + slow)
            .map(|index| match index {
                index if index < failed => outcome(Kind::Failure, u8::from(index % 4 == 3)),
                index if index < failed + slow => outcome(Kind::SlowSuccess, 0),
                _ => outcome(Kind::Success, 0),
            })
            .collect();
        let count = outcomes.len().max(1);
        let step = (1..count)
            .rev()
            .find(|step| gcd(*step, count) == 1 && *step * 2 < count)
            .unwrap_or(1);
        outcomes = (0..outcomes.len())
            .map(|index| outcomes[index * step % count])
            .collect();
        self.batches += 1;
        let number = self.batches;
        self.exchange(name, instance, |request| {
            request.batch = Some(Batch {
                number,
                generation,
                outcomes,
                causes: vec!["503".to_owned(), "timeout".to_owned()],
                ..Batch::default()
            });
        })
        .await;
        self.count(name, instance, (well + failed + slow) as u64, 0);
    }

    /// Asks for probes and reports some of them.
    pub(crate) async fn probe(&mut self, name: &str, instance: &str, want: u64, results: &[Kind]) {
        self.batches += 1;
        let number = self.batches;
        let reply = self
            .exchange(name, instance, |request| {
                request.acquire = Some(Acquire { token: number, want })
            })
            .await;
        let (first, count) = reply.granted;
        let generation = self.generations[&(id(name), instance.to_owned())];
        let probes: Vec<ProbeResult> = (first..first + count)
            .zip(results)
            .map(|(lease, kind)| ProbeResult {
                lease,
                kind: *kind,
                cause: 0,
            })
            .collect();
        self.exchange(name, instance, |request| {
            request.batch = Some(Batch {
                number,
                generation,
                probes,
                causes: vec!["503".to_owned()],
                ..Batch::default()
            });
        })
        .await;
    }

    /// Counts what the next heartbeat reports.
    pub(crate) fn count(&mut self, name: &str, instance: &str, calls: u64, rejected: u64) {
        let total = self.totals.entry((id(name), instance.to_owned())).or_default();
        total.0 += calls;
        total.1 += rejected;
    }

    /// A heartbeat of an instance.
    pub(crate) async fn beat(&mut self, name: &str, instance: &str, change: impl FnOnce(&mut Beat)) {
        let key = (id(name), instance.to_owned());
        let snapshot = self.store.snapshot(&key.0).await.expect("the store answers");
        let config = self.store.config(&key.0).await.expect("the store answers");
        let programmed = config.and_then(|config| config.programmed);
        let (calls, rejected) = self.totals.get(&key).copied().unwrap_or_default();
        let mut beat = Beat {
            instance: instance.to_owned(),
            boot: format!("boot-{instance}"),
            state: snapshot.as_ref().map_or("closed", |s| s.view.state.as_str()).to_owned(),
            generation: snapshot.as_ref().map_or(0, |s| s.view.generation),
            calls,
            rejected,
            in_flight: calls % 3,
            revision: programmed.map_or(0, |programmed| programmed.config.revision),
            ..Beat::default()
        };
        change(&mut beat);
        self.store.beat(&[(key.0, beat)]).await.expect("the store answers");
    }

    /// Everything that a dashboard must be able to show.
    pub(crate) async fn seed(&mut self) {
        let now = self.store.now().await.expect("the store answers");
        let minute = 60_000;
        let long = Policy {
            open_ms: 12 * minute,
            ..Policy::default()
        };
        let notes = r#"{"trip":{"failureRateThreshold":50},"open":{"duration":"12m"},"notes":{"runbook":"https://runbooks.example/inventory","owner":"team warehouse"}}"#;
        self.programme("shop/inventory", notes, long.clone(), None).await;
        for instance in ["checkout-7d4f", "basket-5c2a", "search-91be"] {
            self.calls("shop/inventory", instance, 9, 14, 0).await;
        }
        let slow = Policy {
            slow_rate_bp: 6_000,
            slow_call_ms: 750,
            ..long.clone()
        };
        let spec =
            r#"{"trip":{"failureRateThreshold":50,"slowCallRateThreshold":60,"slowCallDurationThreshold":"750ms"}}"#;
        self.programme("shop/recommendations", spec, slow, None).await;
        for instance in ["checkout-7d4f", "basket-5c2a"] {
            self.calls("shop/recommendations", instance, 8, 0, 30).await;
        }
        let short = Policy {
            open_ms: 100,
            half_open_ms: 30 * minute,
            call_timeout_ms: 25 * minute,
            ramp_ms: 20 * minute,
            ..Policy::default()
        };
        for name in ["shop/payments", "infra/geocoder"] {
            self.programme(name, r#"{"open":{"duration":"100ms"}}"#, short.clone(), None)
                .await;
            for instance in ["checkout-7d4f", "basket-5c2a"] {
                self.calls(name, instance, 2, 20, 0).await;
            }
        }
        let due = async {
            loop {
                let snapshot = self
                    .store
                    .snapshot(&id("infra/geocoder"))
                    .await
                    .expect("the store answers");
                if snapshot.is_some_and(|snapshot| snapshot.view.remaining_ms == 0) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), due)
            .await
            .expect("open ends");
        self.probe(
            "shop/payments",
            "checkout-7d4f",
            5,
            &[Kind::Success, Kind::Success, Kind::Failure],
        )
        .await;
        self.probe("infra/geocoder", "checkout-7d4f", 5, &[Kind::Success; 5])
            .await;
        let forced = |open, expires_at| Some(Override { open, expires_at });
        let spec = r#"{"override":{"state":"ForcedOpen","reason":"CHG-4711: database failover until the replica has caught up"}}"#;
        self.programme("shop/orders", spec, Policy::default(), forced(true, now + 28 * minute))
            .await;
        let spec =
            r#"{"override":{"state":"ForcedClosed","reason":"false alarms while the canary runs, see INC-212"}}"#;
        self.programme("shop/images", spec, Policy::default(), forced(false, 0))
            .await;
        for mode in [
            ("infra/dns", Mode::Observe),
            ("infra/metrics", Mode::Observe),
            ("infra/ntp", Mode::Disabled),
        ] {
            let policy = Policy {
                mode: mode.1,
                ..long.clone()
            };
            self.programme(mode.0, &format!(r#"{{"mode":"{:?}"}}"#, mode.1), policy, None)
                .await;
        }
        for instance in ["checkout-7d4f", "basket-5c2a"] {
            self.calls("infra/dns", instance, 4, 16, 0).await;
            self.calls("infra/metrics", instance, 20, 0, 0).await;
            self.calls("shop/orders", instance, 1, 0, 0).await;
            self.calls("shop/images", instance, 1, 0, 0).await;
            self.calls("infra/ntp", instance, 1, 0, 0).await;
        }
        self.programme("infra/archive", "{}", Policy::default(), None).await;
        for name in ["shop/prices", "shop/mail", "infra/auth", "infra/quota", "shop/tax"] {
            self.programme(name, "{}", Policy::default(), None).await;
        }
        let run = Policy {
            consecutive_failures: 3,
            failure_rate_bp: 0,
            minimum_instances: 1,
            ..Policy::default()
        };
        self.programme(
            "unreliable_service",
            r#"{"trip":{"consecutiveFailures":3,"minimumInstances":1}}"#,
            run,
            None,
        )
        .await;
        for index in 0..6 {
            let name = format!("billing/worker-{index}");
            self.programme(&name, "{}", Policy::default(), None).await;
        }
        self.step(1_000).await;
    }

    /// So many milliseconds of traffic and heartbeats.
    pub(crate) async fn step(&mut self, ms: u64) {
        self.batches += 1;
        let wave = (self.batches as usize / 7) % 5;
        let part = |per_second: usize| (per_second * ms as usize / 1_000).max(1);
        for instance in ["checkout-7d4f", "basket-5c2a", "search-91be"] {
            for (name, well, failed) in [
                ("shop/prices", part(20) + wave, part(1)),
                ("shop/mail", part(9), part(5) + wave / 3),
                ("infra/auth", part(30) + 3 * wave, 0),
                ("shop/tax", part(2), 0),
                ("infra/metrics", part(12), 0),
                ("billing/worker-0", part(4) + wave, 0),
                ("billing/worker-1", part(40), part(1)),
                ("infra/geocoder", part(3), 0),
            ] {
                self.calls(name, instance, well, failed, 0).await;
            }
            for (name, calls, rejected) in [
                ("shop/inventory", 0, part(18) + wave),
                ("shop/recommendations", 0, part(7)),
                ("shop/payments", 0, part(11) + wave),
                ("shop/orders", 0, part(25)),
                ("shop/images", part(14) + wave, 0),
                ("infra/ntp", part(2), 0),
                ("infra/dns", part(6), 0),
            ] {
                self.count(name, instance, calls as u64, rejected as u64);
                self.beat(name, instance, |_| {}).await;
            }
            for name in [
                "shop/prices",
                "shop/mail",
                "shop/tax",
                "infra/metrics",
                "billing/worker-0",
                "billing/worker-1",
                "infra/geocoder",
            ] {
                self.beat(name, instance, |_| {}).await;
            }
        }
        if self.batches % 5 == 0 {
            self.calls("infra/quota", "checkout-7d4f", 1, 0, 0).await;
            self.calls("unreliable_service", "local:8001", 2, 0, 0).await;
        }
        self.beat("infra/quota", "checkout-7d4f", |_| {}).await;
        self.beat("unreliable_service", "local:8001", |_| {}).await;
        self.beat("infra/auth", "checkout-7d4f", |_| {}).await;
        self.beat("infra/auth", "search-91be", |beat| beat.degraded = true)
            .await;
        self.beat("infra/auth", "basket-5c2a", |beat| {
            beat.isolated = true;
            "open".clone_into(&mut beat.state);
            beat.revision = 1;
        })
        .await;
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

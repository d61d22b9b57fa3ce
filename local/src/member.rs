//! One proxy of the fleet.
//!
//! Each has a runtime of its own, so that killing it is what a crash is: every task of it stops where it stands, nothing
//! is sent, no slot given back. Rejected: aborting its task, which leaves its connections and its recorder alive.

use super::fleet::{Backend, SERVICE};
use instance::{Instance, RouteSpec};
use std::time::{Duration, Instant};
use tiebar::guard::{Breakers, Guard, GuardStatus};
use tiebar::id::ServiceId;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// What one instance did.
#[derive(Default, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) blocked: u64,
}

/// Where a member listens and what it forwards to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// Its own, without the offset: part of its name.
    pub(crate) number: u16,
    pub(crate) offset: u16,
}

impl Ports {
    fn address(self, port: u16) -> String {
        format!("127.0.0.1:{}", u32::from(port) + u32::from(self.offset))
    }
}

/// A proxy, alive or killed.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) ports: Ports,
    pub(crate) guard: Guard,
    /// Its tasks; none once killed.
    runtime: Option<Runtime>,
    task: JoinHandle<anyhow::Result<()>>,
    pub(crate) killed: Option<Instant>,
    /// What it counted in earlier lives.
    before: [u64; 3],
}

impl Member {
    pub(crate) async fn start(
        backend: &Backend,
        ports: Ports,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let name = format!("local:{}", ports.number);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&name)
            .enable_all()
            .build()?;
        let store = backend.open()?;
        let upstream = format!("http://{}", ports.address(9_000));
        let settings = instance::Settings {
            drain_timeout: Duration::from_secs(1),
            ..instance::Settings::new(
                &ports.address(ports.number),
                &ports.address(ports.number + 100),
                vec![RouteSpec::single(SERVICE, &upstream)],
            )
        };
        let id = ServiceId::parse(SERVICE)?;
        let own_name = name.clone();
        let bound = runtime.spawn(async move {
            let mut own = tiebar::guard::Settings::new(&own_name);
            // The dashboard counts rejections by heartbeats; one waits less here than a fleet can afford.
            own.heartbeat = Duration::from_secs(1);
            let breakers = Breakers::new(store, own);
            let instance = Instance::bind(settings, breakers.clone()).await?;
            anyhow::Ok((breakers.guard(&id, None), instance))
        });
        match bound.await? {
            Ok((guard, instance)) => Ok(Self {
                name,
                ports,
                guard,
                task: runtime.spawn(instance.run(shutdown)),
                runtime: Some(runtime),
                killed: None,
                before: [0; 3],
            }),
            Err(error) => {
                runtime.shutdown_background();
                Err(anyhow::anyhow!("{error}; --port-offset N moves every port"))
            }
        }
    }

    /// Ends it where it stands.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.killed = Some(Instant::now());
    }

    /// Goes on counting where an earlier life of the same name was killed.
    pub(crate) fn succeed(mut self, killed: &Self) -> Self {
        self.before = killed.counts();
        self
    }

    /// What its guard knows; none while it is dead.
    pub(crate) fn status(&self) -> Option<GuardStatus> {
        self.killed.is_none().then(|| self.guard.status())
    }

    /// Calls, failed, blocked.
    fn counts(&self) -> [u64; 3] {
        let calls = self.guard.counters().calls;
        let own = [calls[..5].iter().sum(), calls[1] + calls[3], calls[5]];
        std::array::from_fn(|at| own[at] + self.before[at])
    }

    pub(crate) fn row(&self) -> Row {
        let state = match self.status() {
            None => "killed".to_owned(),
            Some(status) if status.degraded => format!("{} (alone)", status.state.as_str()),
            Some(status) if status.isolated => format!("{} (isolated)", status.state.as_str()),
            Some(status) => status.state.as_str().to_owned(),
        };
        let [calls, failed, blocked] = self.counts();
        Row {
            name: self.name.clone(),
            state,
            calls,
            failed,
            blocked,
        }
    }

    /// Whether it ended by itself, which none should.
    pub(crate) fn ended(&mut self) -> Option<&mut JoinHandle<anyhow::Result<()>>> {
        (self.killed.is_none() && self.task.is_finished()).then_some(&mut self.task)
    }

    /// Waits for the end it was told to come to.
    pub(crate) async fn wait(&mut self) {
        if self.killed.is_none() {
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

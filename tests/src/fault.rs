//! What can go wrong with a store: how it is brought about, and how it is undone. The matrix and the long run share it.

use crate::ensemble::{Ensemble, key, write};
use crate::fault_link::{FaultLink, Target, Trouble};
use crate::redis_server::RedisServer;
use crate::wait::{PATIENCE, eventually, holds};
use std::time::Duration;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGSTOP: connections stay, answers do not come.
    Stopped,
    /// kill -9; started again empty.
    Killed,
    /// kill -9, and started again empty at once.
    RestartedEmpty,
    /// FLUSHALL.
    Flushed,
    /// SCRIPT FLUSH and FUNCTION FLUSH.
    FunctionsFlushed,
    /// Memory is full, and anything may be evicted.
    Evicting,
    /// Memory is full, and nothing may be evicted: writes are refused.
    OutOfMemory,
    /// It became a replica of a server that is not there: writes are refused.
    ReadOnly,
    /// Every reply comes later.
    Slow(Duration),
    /// Every reply breaks off in the middle.
    CutReplies,
    /// One instance alone is cut off.
    Partition,
    /// The password changed, and nobody was told.
    Password,
    /// The primary dies before its last writes were replicated; the replica takes over.
    LostWrites,
}

/// Whom a fault cuts off from the store's decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nobody for longer than a second.
    Nobody,
    /// The first instance.
    First,
    /// Every instance.
    All,
}

impl Fault {
    /// Those of one kind each that a long run mixes.
    pub const MIXED: [Self; 12] = [
        Self::Stopped,
        Self::Killed,
        Self::RestartedEmpty,
        Self::Flushed,
        Self::FunctionsFlushed,
        Self::Evicting,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::Slow(Duration::from_millis(50)),
        Self::CutReplies,
        Self::Partition,
        Self::Password,
    ];

    /// Whom it cuts off.
    #[must_use]
    pub fn reach(self) -> Reach {
        match self {
            Self::Flushed | Self::FunctionsFlushed | Self::Evicting | Self::RestartedEmpty | Self::LostWrites => {
                Reach::Nobody
            }
            Self::Slow(delay) if delay < Duration::from_millis(200) => Reach::Nobody,
            Self::Partition => Reach::First,
            Self::Slow(_)
            | Self::Stopped
            | Self::Killed
            | Self::OutOfMemory
            | Self::ReadOnly
            | Self::CutReplies
            | Self::Password => Reach::All,
        }
    }

    /// Where reading goes on and only writes are refused: how the operator calls that.
    #[must_use]
    pub fn refused_as(self) -> Option<&'static str> {
        match self {
            Self::OutOfMemory => Some("OutOfMemory"),
            Self::ReadOnly => Some("ReadOnly"),
            _ => None,
        }
    }

    /// Brings it about.
    pub async fn strike(self, on: &mut Ensemble) {
        match self {
            Self::Stopped => on.redis.freeze(),
            Self::Killed => on.redis.kill().await,
            Self::RestartedEmpty => {
                on.redis.kill().await;
                on.redis.start_again().await;
            }
            Self::Flushed => on.redis.ask(&["FLUSHALL"]).await,
            Self::FunctionsFlushed => {
                on.redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
                on.redis.ask::<()>(&["FUNCTION", "FLUSH"]).await;
            }
            Self::Evicting => evict(&on.redis).await,
            Self::OutOfMemory => on.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).await,
            Self::ReadOnly => on.redis.ask(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Self::Slow(delay) => on.all_suffer(Trouble::Delay(delay)),
            Self::CutReplies => on.all_suffer(Trouble::CutReplies),
            Self::Partition => on.links[0].suffer(Trouble::Silence),
            Self::Password => {
                let next = if on.redis.password() == Some("first") {
                    "second"
                } else {
                    "first"
                };
                on.redis.change_password(next).await;
            }
            Self::LostWrites => {
                follow(on).await;
                // From here on nothing is replicated, and then something happens.
                if let Some(replication) = &on.replication {
                    replication.suffer(Trouble::Silence);
                }
                on.trip(Ensemble::LATE, 1).await;
                on.agree_on_first(Ensemble::LATE, "open").await;
                on.redis.kill().await;
                if let Some(other) = &on.other {
                    other.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
                    on.all_lead_to(other);
                }
            }
        }
    }

    /// Undoes it.
    pub async fn heal(self, on: &mut Ensemble) {
        match self {
            Self::Stopped => on.redis.thaw(),
            Self::Killed => on.redis.start_again().await,
            Self::RestartedEmpty | Self::Flushed | Self::FunctionsFlushed | Self::LostWrites => {}
            Self::Evicting => {
                on.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
                on.redis
                    .ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
                    .await;
                for number in 0..BALLAST {
                    on.redis.ask::<()>(&["DEL", &format!("ballast{number}")]).await;
                }
            }
            Self::OutOfMemory => on.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await,
            Self::ReadOnly => on.redis.ask(&["REPLICAOF", "NO", "ONE"]).await,
            Self::Slow(_) | Self::CutReplies | Self::Partition => on.all_suffer(Trouble::None),
            Self::Password => write(&on.password_file, on.redis.password().unwrap_or_default()),
        }
    }
}

/// Names of ballast; few, so that every eviction is likely to hit a breaker.
const BALLAST: usize = 20;

/// Fills memory until every key of the open circuit was evicted at least once.
async fn evict(redis: &RedisServer) {
    let memory: String = redis.ask(&["INFO", "memory"]).await;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.and_then(|used| used.trim().parse().ok()).expect("a number");
    redis
        .ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"])
        .await;
    let most = (used + 1_000_000).to_string();
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", &most]).await;
    let ballast = "x".repeat(100_000);
    let mut round = 0;
    eventually(PATIENCE, "the open circuit's state is evicted", async || {
        let name = format!("ballast{}", round % BALLAST);
        round += 1;
        redis.ask::<()>(&["SET", &name, &ballast]).await;
        let there: u64 = redis.ask(&["EXISTS", &key(Ensemble::SICK, "data")]).await;
        holds(there == 0, format!("{round} rounds"))
    })
    .await;
}

/// Starts a second server and waits until it has all that the first has.
async fn follow(on: &mut Ensemble) {
    let folder = on.folder.path().join("other");
    std::fs::create_dir(&folder).expect("a folder");
    let other = RedisServer::start_with(&folder, &[], &[], Some("first")).await;
    let replication = FaultLink::open(Target::Socket(on.redis.socket())).await;
    let port = replication.port().to_string();
    other.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually(PATIENCE, "the replica has caught up", async || {
        let info: String = other.ask(&["INFO", "replication"]).await;
        let state = other.get(&key(Ensemble::SICK, "state")).await;
        let caught_up = info.contains("master_link_status:up") && state.as_deref() == Some("open");
        holds(caught_up, format!("{state:?}"))
    })
    .await;
    (on.other, on.replication) = (Some(other), Some(replication));
}

impl Ensemble {
    /// Starts a second server that follows the first.
    pub async fn replicate(&mut self) {
        follow(self).await;
    }

    /// Waits until the first server and every instance are in a state.
    pub async fn agree_on_first(&self, id: &str, state: &str) {
        eventually(PATIENCE, &format!("everybody knows {id} for {state}"), async || {
            let stored = self.redis.get(&key(id, "state")).await;
            holds(stored.as_deref() == Some(state), format!("stored: {stored:?}"))?;
            for instance in &self.instances {
                let known = instance.breaker_of(id).await;
                holds(known["state"] == state, format!("{}: {known}", instance.name))?;
            }
            Ok::<(), String>(())
        })
        .await;
    }
}

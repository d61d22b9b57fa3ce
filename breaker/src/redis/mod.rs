//! The Redis store: one script per decision, one round trip.
//!
//! One RESP3 connection carries both commands and announcements. Rejected: the crate's client-side caching (the script
//! reads the configuration itself, atomically) and EVALSHA (see the script's header).

mod address;
pub mod codec;
mod connect;
mod keys;

pub use address::{WANTED, without_password};
pub use keys::{KeyStyle, Keys, SUFFIXES};

use crate::id::ServiceId;
use crate::machine::ConfigRow;
use crate::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Reply, Snapshot, Store, StoreError, StoreResult,
    StoredConfig, Survey, Written,
};
use connect::{Connector, Link, Slot};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::{Cmd, PushInfo, PushKind, RedisError, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// The script's text, with `__NAME__` for its name.
pub const SCRIPT: &str = include_str!("breaker.lua");
/// Announcements a slow receiver may lag behind before it is told of a gap.
const ANNOUNCEMENTS: usize = 4_096;
/// Heartbeats this old are gone, milliseconds.
const FORGET_MS: u64 = 60_000;
/// Breakers read in one round trip by those who watch all: 300 commands hold the server for less than a millisecond.
const SURVEY_CHUNK: usize = 100;

/// Where and how to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// One of [`WANTED`].
    pub url: String,
    /// Before every key. Default `cb:`.
    pub prefix: String,
    /// How keys are spelled. Default plain.
    pub style: KeyStyle,
    /// How long to wait for a reply. Default 200 ms.
    pub timeout: Duration,
    /// Instead of the address' user.
    pub username: Option<String>,
    /// Instead of the address' password.
    pub password: Option<String>,
    /// Instead of both: a file with the password, read again at each connection.
    pub password_file: Option<PathBuf>,
    /// Whom TLS trusts, PEM; the web's authorities when absent.
    pub ca_file: Option<PathBuf>,
    /// The certificate shown to the server, PEM; with its key.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
}

impl RedisSettings {
    /// The defaults, for this address.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            prefix: "cb:".to_owned(),
            style: KeyStyle::Plain,
            timeout: Duration::from_millis(200),
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// Breakers in Redis.
pub struct RedisStore {
    connector: Arc<Connector>,
    keys: Keys,
    library: Library,
    announcements: broadcast::Sender<Announcement>,
    /// Tests only: the time in place of the server's.
    clock: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Prepares a store; connects at first use, and again whenever the connection is lost.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(settings: RedisSettings) -> StoreResult<Self> {
        Self::with_script(settings, SCRIPT, None)
    }

    /// Tests: another script (a planted mistake), another clock.
    ///
    /// # Errors
    /// When the address is none.
    #[doc(hidden)]
    pub fn with_script(
        settings: RedisSettings,
        script: &str,
        clock: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    ) -> StoreResult<Self> {
        let keys = Keys::new(&settings.prefix, settings.style);
        let announcements = broadcast::channel(ANNOUNCEMENTS).0;
        Ok(Self {
            connector: Arc::new(Connector::new(settings, keys.clone(), announcements.clone(), hear)?),
            keys,
            library: Library::new(script),
            announcements,
            clock,
        })
    }

    /// The names in use.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Runs the script.
    async fn run(&self, id: &ServiceId, operation: &str, instance: &str, args: &[String]) -> StoreResult<Value> {
        let (slot, mut link) = self.connector.link().await?;
        self.hear_of(id, &slot, &link).await?;
        let call = self.call(id, operation, instance, args);
        let mut result: Result<Value, RedisError> = call.query_async(&mut link).await;
        if result.as_ref().is_err_and(is_missing) {
            self.connector.judge(&slot, self.library.load(&mut link).await)?;
            result = call.query_async(&mut link).await;
        }
        self.connector.judge(&slot, result)
    }

    /// On a cluster each breaker has a channel of its own, heard from its first use on.
    async fn hear_of(&self, id: &ServiceId, slot: &Slot, link: &Link) -> StoreResult<()> {
        match link {
            Link::One(_) => Ok(()),
            Link::Cluster(cluster) => self.connector.judge(slot, cluster.hear(self.keys.channel_of(id)).await),
        }
    }

    /// The command that runs the script.
    fn call(&self, id: &ServiceId, operation: &str, instance: &str, args: &[String]) -> Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(&self.library.name).arg(SUFFIXES.len());
        for suffix in SUFFIXES {
            call.arg(self.keys.of(id, suffix));
        }
        let now = self
            .clock
            .as_ref()
            .map_or_else(String::new, |clock| clock().to_string());
        let (channel, publish) = if self.connector.is_cluster() {
            (self.keys.channel_of(id), "SPUBLISH")
        } else {
            (self.keys.channel(), "PUBLISH")
        };
        call.arg(operation)
            .arg(now)
            .arg(id.as_str())
            .arg(channel)
            .arg(publish)
            .arg(instance)
            .arg(args);
        call
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &Cmd) -> StoreResult<T> {
        let (slot, mut link) = self.connector.link().await?;
        self.connector.judge(&slot, command.query_async(&mut link).await)
    }

    /// Commands that need not be atomic, with their answers.
    async fn all(&self, commands: &[Cmd]) -> StoreResult<Vec<Value>> {
        let (slot, link) = self.connector.link().await?;
        self.connector.judge(&slot, link.all(commands).await)
    }

    async fn hash(&self, id: &ServiceId, suffix: &str) -> StoreResult<HashMap<String, Vec<u8>>> {
        self.query(redis::cmd("HGETALL").arg(self.keys.of(id, suffix))).await
    }

    async fn config_row(&self, id: &ServiceId) -> StoreResult<Option<ConfigRow>> {
        codec::config_row(&self.hash(id, "config").await?)
    }

    async fn write(&self, id: &ServiceId, operation: &str, leader: &Leader, rest: Vec<String>) -> StoreResult<Written> {
        let mut args = vec![
            leader.owner.clone(),
            leader.created.to_string(),
            leader.transitions.to_string(),
        ];
        args.extend(rest);
        let value = self.run(id, operation, "", &args).await?;
        let (code, number, owner): (u8, u64, String) =
            redis::from_redis_value(value).map_err(|error| StoreError::Protocol(error.to_string()))?;
        Ok(match code {
            0 => Written::Changed(number),
            1 => Written::Unchanged(number),
            2 => Written::OwnedElsewhere(owner),
            _ => Written::Superseded,
        })
    }

    /// What the server does when its memory is full (`maxmemory-policy`). Anything but `noeviction` may take a breaker's
    /// state away.
    ///
    /// # Errors
    /// When the server cannot be asked; a user may also lack the right to `INFO`.
    pub async fn eviction_policy(&self) -> StoreResult<String> {
        let text: String = self.query(redis::cmd("INFO").arg("memory")).await?;
        let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        policy
            .map(|policy| policy.trim().to_owned())
            .ok_or_else(|| StoreError::Protocol("INFO memory without maxmemory_policy".to_owned()))
    }

    /// The server's clock, or the tests'.
    async fn clock_now(&self) -> StoreResult<u64> {
        if let Some(clock) = &self.clock {
            return Ok(clock());
        }
        let (seconds, micros): (u64, u64) = self.query(&redis::cmd("TIME")).await?;
        Ok(seconds * 1_000 + micros / 1_000)
    }
}

/// The script as the server keeps it: a function library named after its text.
struct Library {
    name: String,
    code: String,
}

impl Library {
    fn new(text: &str) -> Self {
        let hash = redis::Script::new(text);
        let name = format!("tiebar_{}", &hash.get_hash()[..16]);
        Self {
            code: text.replace("__NAME__", &name),
            name,
        }
    }

    /// On a cluster it goes to every primary.
    async fn load(&self, link: &mut Link) -> Result<(), RedisError> {
        match redis::cmd("FUNCTION")
            .arg("LOAD")
            .arg(&self.code)
            .query_async::<()>(link)
            .await
        {
            // Another client was faster; the name says that it loaded the same text.
            Err(error) if error.detail().is_some_and(|detail| detail.contains("already exists")) => Ok(()),
            loaded => loaded,
        }
    }
}

/// Redis' answer when a function was never loaded, or a restart without persistence lost it.
fn is_missing(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// Turns a push into an announcement.
fn hear(push: &PushInfo, keys: &Keys) -> Option<Announcement> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Message | PushKind::SMessage, [_, message]) => codec::announcement(&text(message)?),
        // A new subscription follows a new connection: something may have been missed in between.
        (PushKind::Disconnection | PushKind::Subscribe, _) => Some(Announcement::Gap),
        (PushKind::SSubscribe, [channel, ..]) => keys.id_of_channel(&text(channel)?).map(Announcement::Revision),
        _ => None,
    }
}

fn beat_text(beat: &Beat) -> String {
    format!(
        "{} {} {} {} {} {} {} {} {}",
        beat.boot,
        beat.state,
        beat.generation,
        u8::from(beat.degraded),
        u8::from(beat.isolated),
        beat.in_flight,
        beat.calls,
        beat.rejected,
        beat.revision
    )
}

fn read_beat(instance: &str, text: &str) -> Option<Beat> {
    let words: Vec<&str> = text.split(' ').collect();
    let [
        boot,
        state,
        generation,
        degraded,
        isolated,
        in_flight,
        calls,
        rejected,
        revision,
        seen_at,
    ] = words[..]
    else {
        return None;
    };
    Some(Beat {
        instance: instance.to_owned(),
        boot: boot.to_owned(),
        state: state.to_owned(),
        generation: generation.parse().ok()?,
        degraded: degraded == "1",
        isolated: isolated == "1",
        in_flight: in_flight.parse().ok()?,
        calls: calls.parse().ok()?,
        rejected: rejected.parse().ok()?,
        revision: revision.parse().ok()?,
        seen_at: seen_at.parse().ok()?,
    })
}

fn beats(hash: &HashMap<String, Vec<u8>>, now: u64) -> Vec<Beat> {
    let read = |(name, text): (&String, &Vec<u8>)| read_beat(name, std::str::from_utf8(text).ok()?);
    let mut beats: Vec<Beat> = hash.iter().filter_map(read).collect();
    beats.retain(|beat| now.saturating_sub(beat.seen_at) < FORGET_MS);
    beats.sort_by(|a, b| a.instance.cmp(&b.instance));
    beats
}

type Hash = HashMap<String, Vec<u8>>;

fn survey(config: &Hash, data: &Hash, instances: &Hash, now: u64) -> StoreResult<Survey> {
    let row = codec::config_row(config)?;
    let data = codec::data(data)?;
    Ok(Survey {
        snapshot: data.map(|data| data.snapshot(row.as_ref(), now)),
        config: row.map(ConfigRow::stored),
        beats: beats(instances, now),
    })
}

impl Store for RedisStore {
    fn exchange<'a>(&'a self, id: &'a ServiceId, request: &'a Exchange) -> BoxFuture<'a, StoreResult<Reply>> {
        async move {
            let value = self
                .run(id, "exchange", &request.instance, &codec::exchange_args(request))
                .await?;
            codec::reply(&value)
        }
        .boxed()
    }

    fn configure<'a>(&'a self, id: &'a ServiceId, programme: &'a Programme) -> BoxFuture<'a, StoreResult<Written>> {
        async move {
            // The index first: an id in it without keys is harmless, the other way round it would be lost.
            self.query::<()>(redis::cmd("SADD").arg(self.keys.index()).arg(id.as_str()))
                .await?;
            let rest = vec![
                codec::spaced(codec::rules(&programme.policy)),
                codec::forced(programme.forced),
                programme.spec.clone(),
            ];
            self.write(id, "configure", &programme.leader, rest).await
        }
        .boxed()
    }

    fn tombstone<'a>(&'a self, id: &'a ServiceId, leader: &'a Leader) -> BoxFuture<'a, StoreResult<Written>> {
        async move {
            let written = self.write(id, "tombstone", leader, Vec::new()).await?;
            if matches!(written, Written::Changed(_) | Written::Unchanged(_)) {
                self.query::<()>(redis::cmd("SREM").arg(self.keys.index()).arg(id.as_str()))
                    .await?;
            }
            Ok(written)
        }
        .boxed()
    }

    fn reset<'a>(
        &'a self,
        id: &'a ServiceId,
        leader: &'a Leader,
        request: &'a str,
    ) -> BoxFuture<'a, StoreResult<Written>> {
        self.write(id, "reset", leader, vec![request.to_owned()]).boxed()
    }

    fn config<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<StoredConfig>>> {
        async move { Ok(self.config_row(id).await?.map(ConfigRow::stored)) }.boxed()
    }

    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        async move {
            let Some(data) = codec::data(&self.hash(id, "data").await?)? else {
                return Ok(None);
            };
            let config = self.config_row(id).await?;
            Ok(Some(data.snapshot(config.as_ref(), self.clock_now().await?)))
        }
        .boxed()
    }

    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        async move {
            let mut surveys = Vec::with_capacity(ids.len());
            for ids in ids.chunks(SURVEY_CHUNK) {
                let now = self.clock_now().await?;
                let mut commands = Vec::with_capacity(3 * ids.len());
                for id in ids {
                    for suffix in ["config", "data", "instances"] {
                        let mut command = redis::cmd("HGETALL");
                        command.arg(self.keys.of(id, suffix));
                        commands.push(command);
                    }
                }
                let (slot, link) = self.connector.link().await?;
                for id in ids {
                    self.hear_of(id, &slot, &link).await?;
                }
                let answers = self.connector.judge(&slot, link.all(&commands).await)?;
                let hashes: Vec<Hash> = answers
                    .into_iter()
                    .map(redis::from_redis_value)
                    .collect::<Result<_, _>>()
                    .map_err(|error| StoreError::Protocol(error.to_string()))?;
                surveys.extend(
                    hashes
                        .chunks_exact(3)
                        .map(|part| survey(&part[0], &part[1], &part[2], now)),
                );
            }
            Ok(surveys)
        }
        .boxed()
    }

    fn events<'a>(&'a self, id: &'a ServiceId, count: usize) -> BoxFuture<'a, StoreResult<Vec<Event>>> {
        async move {
            let mut command = redis::cmd("XREVRANGE");
            command
                .arg(self.keys.of(id, "events"))
                .arg("+")
                .arg("-")
                .arg("COUNT")
                .arg(count);
            let entries: Vec<(String, HashMap<String, String>)> = self.query(&command).await?;
            entries.iter().map(|(_, fields)| codec::event(fields)).collect()
        }
        .boxed()
    }

    fn beat<'a>(&'a self, beats: &'a [(ServiceId, Beat)]) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            if beats.is_empty() {
                return Ok(());
            }
            let mut commands = Vec::with_capacity(2 * beats.len());
            for (id, beat) in beats {
                commands.push(self.call(id, "beat", &beat.instance, &[beat_text(beat)]));
                let mut index = redis::cmd("SADD");
                index.arg(self.keys.index()).arg(id.as_str());
                commands.push(index);
            }
            let (slot, mut link) = self.connector.link().await?;
            let mut result = link.all(&commands).await;
            if result.as_ref().is_err_and(is_missing) {
                self.connector.judge(&slot, self.library.load(&mut link).await)?;
                result = link.all(&commands).await;
            }
            self.connector.judge(&slot, result).map(|_| ())
        }
        .boxed()
    }

    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            let command = |id: &ServiceId| {
                let mut command = redis::cmd("HDEL");
                command.arg(self.keys.of(id, "instances")).arg(instance);
                command
            };
            let commands: Vec<Cmd> = ids.iter().map(command).collect();
            if commands.is_empty() {
                return Ok(());
            }
            self.all(&commands).await.map(|_| ())
        }
        .boxed()
    }

    fn instances<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Vec<Beat>>> {
        async move {
            let now = self.clock_now().await?;
            Ok(beats(&self.hash(id, "instances").await?, now))
        }
        .boxed()
    }

    fn ids(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceId>>> {
        async move {
            let mut ids: Vec<String> = self.query(redis::cmd("SMEMBERS").arg(self.keys.index())).await?;
            ids.sort();
            Ok(ids.iter().filter_map(|id| ServiceId::parse(id).ok()).collect())
        }
        .boxed()
    }

    fn now(&self) -> BoxFuture<'_, StoreResult<u64>> {
        self.clock_now().boxed()
    }

    fn is_replica(&self) -> BoxFuture<'_, StoreResult<bool>> {
        async move {
            // In a cluster each question finds a primary, or an error.
            if self.connector.is_cluster() {
                return Ok(false);
            }
            let answer: Vec<Value> = self.query(&redis::cmd("ROLE")).await?;
            Ok(matches!(answer.first(), Some(Value::BulkString(rank)) if rank == b"slave"))
        }
        .boxed()
    }

    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.announcements.subscribe()
    }
}

//! The Redis store: one script per decision, one round trip.
//!
//! One RESP3 connection carries both commands and announcements. Rejected: the crate's client-side caching (the script
//! reads the configuration itself, atomically) and EVALSHA (see the script's header).

pub mod codec;
mod keys;

pub use keys::{KeyStyle, Keys, SUFFIXES};

use crate::id::ServiceId;
use crate::machine::{ConfigRow, Data};
use crate::policy::Policy;
use crate::store::{
    Announcement, Beat, Event, Exchange, Leader, Programme, Programmed, Reply, Snapshot, Store, StoreError,
    StoreResult, StoredConfig, Survey, Written,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};

/// The script's text, with `__NAME__` for its name.
pub const SCRIPT: &str = include_str!("breaker.lua");
/// Announcements a slow receiver may lag behind before it is told of a gap.
const ANNOUNCEMENTS: usize = 4_096;
/// So many timeouts in a row replace the connection: a timeout alone does not make the crate reconnect, and a peer that
/// vanished without a FIN would be waited for until the kernel gives up.
const TIMEOUTS_BEFORE_RECONNECT: u32 = 3;
/// Heartbeats this old are gone, milliseconds.
const FORGET_MS: u64 = 60_000;
/// Breakers read in one round trip by those who watch all: 300 commands hold the server for less than a millisecond.
const SURVEY_CHUNK: usize = 100;

/// Where and how to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `redis+unix://`.
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
        }
    }
}

/// Breakers in Redis.
pub struct RedisStore {
    client: redis::Client,
    settings: RedisSettings,
    keys: Keys,
    library: Library,
    connection: Mutex<Arc<OnceCell<ConnectionManager>>>,
    timeouts: AtomicU32,
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
        let refused = |error: RedisError| StoreError::Refused(format!("the Redis address: {error}"));
        let url = settings.url.replacen("redis+unix://", "unix://", 1);
        let info = redis::IntoConnectionInfo::into_connection_info(url).map_err(refused)?;
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let mut resp3 = info
            .redis_settings()
            .clone()
            .set_protocol(redis::ProtocolVersion::RESP3);
        if let Some(username) = &settings.username {
            resp3 = resp3.set_username(username);
        }
        if let Some(password) = &settings.password {
            resp3 = resp3.set_password(password);
        }
        let client = redis::Client::open(info.set_tcp_settings(tcp).set_redis_settings(resp3)).map_err(refused)?;
        Ok(Self {
            client,
            keys: Keys::new(&settings.prefix, settings.style),
            settings,
            library: Library::new(script),
            connection: Mutex::default(),
            timeouts: AtomicU32::new(0),
            announcements: broadcast::channel(ANNOUNCEMENTS).0,
            clock,
        })
    }

    /// The names in use.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn slot(&self) -> Arc<OnceCell<ConnectionManager>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection, made at first use, subscribed from the start.
    async fn connection(&self) -> StoreResult<ConnectionManager> {
        let slot = self.slot();
        let connect = async {
            let announcements = self.announcements.clone();
            let config = ConnectionManagerConfig::new()
                .set_response_timeout(Some(self.settings.timeout))
                .set_connection_timeout(Some(Duration::from_secs(1)))
                .set_number_of_retries(0)
                .set_pipeline_buffer_size(1_024)
                .set_automatic_resubscription()
                .set_push_sender(move |push: PushInfo| {
                    hear(&announcements, &push);
                    Ok::<(), redis::aio::SendError>(())
                });
            let mut manager = self.client.get_connection_manager_with_config(config).await?;
            manager.subscribe(self.keys.channel()).await?;
            Ok(manager)
        };
        let patience = self.settings.timeout + Duration::from_secs(1);
        let made = tokio::time::timeout(patience, slot.get_or_try_init(|| connect)).await;
        match made {
            Ok(Ok(manager)) => Ok(manager.clone()),
            Ok(Err(error)) => Err(self.explain(&error)),
            Err(_) => Err(StoreError::TimedOut(patience.as_millis() as u64)),
        }
    }

    /// What an error means to the callers; a run of timeouts, or a server that lost its rank, costs the connection.
    fn explain(&self, error: &RedisError) -> StoreError {
        if error.is_timeout() {
            if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_BEFORE_RECONNECT {
                self.drop_connection();
            }
            return StoreError::TimedOut(self.settings.timeout.as_millis() as u64);
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
                self.drop_connection();
                StoreError::Refused(error.to_string())
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                StoreError::Refused(error.to_string())
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => StoreError::Protocol(error.to_string()),
            _ => StoreError::Unreachable(error.to_string()),
        }
    }

    fn drop_connection(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        let _ = self.announcements.send(Announcement::Gap);
    }

    /// Runs the script.
    async fn run(&self, id: &ServiceId, operation: &str, instance: &str, args: &[String]) -> StoreResult<Value> {
        let mut connection = self.connection().await?;
        let call = self.call(id, operation, instance, args);
        let mut result: Result<Value, RedisError> = call.query_async(&mut connection).await;
        if result.as_ref().is_err_and(is_missing) {
            self.library
                .load(&mut connection)
                .await
                .map_err(|error| self.explain(&error))?;
            result = call.query_async(&mut connection).await;
        }
        self.note(result)
    }

    /// The command that runs the script.
    fn call(&self, id: &ServiceId, operation: &str, instance: &str, args: &[String]) -> redis::Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(&self.library.name).arg(SUFFIXES.len());
        for suffix in SUFFIXES {
            call.arg(self.keys.of(id, suffix));
        }
        let now = self
            .clock
            .as_ref()
            .map_or_else(String::new, |clock| clock().to_string());
        call.arg(operation)
            .arg(now)
            .arg(id.as_str())
            .arg(self.keys.channel())
            .arg("PUBLISH")
            .arg(instance)
            .arg(args);
        call
    }

    fn note<T>(&self, result: Result<T, RedisError>) -> StoreResult<T> {
        match result {
            Ok(value) => {
                self.timeouts.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => Err(self.explain(&error)),
        }
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> StoreResult<T> {
        let mut connection = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        self.note(result)
    }

    async fn pipeline(&self, pipeline: &redis::Pipeline) -> StoreResult<()> {
        let mut connection = self.connection().await?;
        let result = pipeline.query_async::<()>(&mut connection).await;
        self.note(result)
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

    async fn load(&self, connection: &mut ConnectionManager) -> Result<(), RedisError> {
        match redis::cmd("FUNCTION")
            .arg("LOAD")
            .arg(&self.code)
            .query_async::<()>(connection)
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
fn hear(announcements: &broadcast::Sender<Announcement>, push: &PushInfo) {
    let heard = match push.kind {
        PushKind::Message => match push.data.as_slice() {
            [_, Value::BulkString(message)] => std::str::from_utf8(message).ok().and_then(codec::announcement),
            _ => None,
        },
        // A new subscription follows a new connection: something may have been missed in between.
        PushKind::Disconnection | PushKind::Subscribe => Some(Announcement::Gap),
        _ => None,
    };
    if let Some(heard) = heard {
        // Nobody listening is not an error.
        let _ = announcements.send(heard);
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

fn stored_config(row: ConfigRow) -> StoredConfig {
    StoredConfig {
        programmed: row.config.map(|config| Programmed { config, spec: row.spec }),
        leader: row.leader,
        owner_seen_at: row.seen_at,
        last_reset: row.last_reset,
        floor: row.floor,
    }
}

fn snapshot(data: &Data, row: Option<&ConfigRow>, now: u64) -> Snapshot {
    let config = row.and_then(|row| row.config.as_ref());
    let policy = config.map_or_else(Policy::default, |config| config.policy.clone());
    let forced_until = config
        .and_then(|config| config.forced)
        .map_or(0, |forced| forced.expires_at);
    data.snapshot(&policy, forced_until, config.map_or(0, |config| config.revision), now)
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
        snapshot: data.map(|data| snapshot(&data, row.as_ref(), now)),
        config: row.map(stored_config),
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
        async move { Ok(self.config_row(id).await?.map(stored_config)) }.boxed()
    }

    fn snapshot<'a>(&'a self, id: &'a ServiceId) -> BoxFuture<'a, StoreResult<Option<Snapshot>>> {
        async move {
            let Some(data) = codec::data(&self.hash(id, "data").await?)? else {
                return Ok(None);
            };
            let config = self.config_row(id).await?;
            Ok(Some(snapshot(&data, config.as_ref(), self.clock_now().await?)))
        }
        .boxed()
    }

    fn survey<'a>(&'a self, ids: &'a [ServiceId]) -> BoxFuture<'a, StoreResult<Vec<StoreResult<Survey>>>> {
        async move {
            let mut surveys = Vec::with_capacity(ids.len());
            for ids in ids.chunks(SURVEY_CHUNK) {
                let now = self.clock_now().await?;
                let mut pipeline = redis::pipe();
                for id in ids {
                    for suffix in ["config", "data", "instances"] {
                        pipeline.cmd("HGETALL").arg(self.keys.of(id, suffix));
                    }
                }
                let mut connection = self.connection().await?;
                let result = pipeline.query_async(&mut connection).await;
                let hashes: Vec<HashMap<String, Vec<u8>>> = self.note(result)?;
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
            let mut pipeline = redis::pipe();
            for (id, beat) in beats {
                pipeline
                    .add_command(self.call(id, "beat", &beat.instance, &[beat_text(beat)]))
                    .ignore();
                pipeline.cmd("SADD").arg(self.keys.index()).arg(id.as_str()).ignore();
            }
            let mut connection = self.connection().await?;
            let mut result = pipeline.query_async::<()>(&mut connection).await;
            if result.as_ref().is_err_and(is_missing) {
                self.library
                    .load(&mut connection)
                    .await
                    .map_err(|error| self.explain(&error))?;
                result = pipeline.query_async::<()>(&mut connection).await;
            }
            self.note(result)
        }
        .boxed()
    }

    fn goodbye<'a>(&'a self, ids: &'a [ServiceId], instance: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            let mut pipeline = redis::pipe();
            for id in ids {
                pipeline.hdel(self.keys.of(id, "instances"), instance).ignore();
            }
            if ids.is_empty() {
                Ok(())
            } else {
                self.pipeline(&pipeline).await
            }
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

    fn subscribe(&self) -> broadcast::Receiver<Announcement> {
        self.announcements.subscribe()
    }
}

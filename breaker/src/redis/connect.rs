//! The connection to whichever server takes the writes: made at first use, replaced when it or its server is of no
//! more use. Passwords and certificates are read again for each, so that they can be exchanged while this runs.
//!
//! Rejected: the crate's `ConnectionManager`, which reconnects to the same address with the same password, and knows
//! neither Sentinel's new master nor a demoted one that still answers.

use super::RedisSettings;
use super::address::{Address, Place, Topology, without_password};
use super::keys::{KeyStyle, Keys};
use crate::store::{Announcement, StoreError, StoreResult};
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisFuture, ServerErrorKind,
    TlsCertificates, Value,
};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OnceCell, broadcast};

/// So many timeouts in a row replace the connection: a timeout alone says nothing, and a peer that vanished without a
/// FIN would be waited for until the kernel gives up.
const TIMEOUTS_BEFORE_RECONNECT: u32 = 3;
/// The longest that making one connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How often the Sentinels are asked whether the master is still the same. A failover takes longer than that anyway.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A way to the server, or to a cluster's servers.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(Cluster),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(cluster) => cluster.connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(cluster) => cluster.connection.get_db(),
        }
    }
}

impl Link {
    /// Sends commands that need not be atomic: in one round trip, or to each its own server at once.
    pub(super) async fn all(&self, commands: &[Cmd]) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let mut connection = connection.clone();
                pipeline.query_async(&mut connection).await
            }
            Self::Cluster(cluster) => {
                let send = |command: &Cmd| {
                    let (mut connection, command) = (cluster.connection.clone(), command.clone());
                    async move { command.query_async(&mut connection).await }
                };
                try_join_all(commands.iter().map(send)).await
            }
        }
    }
}

/// A cluster's connection, and the channels heard over it.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: ClusterConnection,
    heard: Arc<Mutex<HashSet<String>>>,
}

impl Cluster {
    /// Subscribes, once.
    pub(super) async fn hear(&self, channel: String) -> Result<(), RedisError> {
        if !self.heard().insert(channel.clone()) {
            return Ok(());
        }
        let subscribed = self.connection.clone().ssubscribe(&channel).await;
        if subscribed.is_err() {
            self.heard().remove(&channel);
        }
        subscribed
    }

    fn heard(&self) -> MutexGuard<'_, HashSet<String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt at a connection, and what came of it.
pub(super) type Slot = Arc<OnceCell<Link>>;

/// Makes and replaces the connection.
pub(super) struct Connector {
    address: Address,
    settings: RedisSettings,
    keys: Keys,
    slot: Mutex<Slot>,
    timeouts: AtomicU32,
    announcements: broadcast::Sender<Announcement>,
    decode: fn(&PushInfo, &Keys) -> Option<Announcement>,
}

impl Connector {
    /// Prepares; nothing is connected yet.
    ///
    /// # Errors
    /// When the address is none.
    pub(super) fn new(
        settings: RedisSettings,
        keys: Keys,
        announcements: broadcast::Sender<Announcement>,
        decode: fn(&PushInfo, &Keys) -> Option<Announcement>,
    ) -> StoreResult<Self> {
        let address = Address::parse(&settings.url).map_err(StoreError::Refused)?;
        if matches!(address.topology, Topology::Cluster(_)) && keys.style() != KeyStyle::HashTag {
            return Err(StoreError::Refused(
                "on a cluster all keys of a breaker must share a slot, which plain ones do not; wanted key style hash-tag"
                    .to_owned(),
            ));
        }
        Ok(Self {
            address,
            settings,
            keys,
            slot: Mutex::default(),
            timeouts: AtomicU32::new(0),
            announcements,
            decode,
        })
    }

    /// Whether breakers live on several servers.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.address.topology, Topology::Cluster(_))
    }

    fn slot(&self) -> Slot {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection, made if there is none.
    pub(super) async fn link(self: &Arc<Self>) -> StoreResult<(Slot, Link)> {
        let slot = self.slot();
        let patience = self.settings.timeout + 2 * CONNECT;
        let made = tokio::time::timeout(patience, slot.get_or_try_init(|| self.make(&slot))).await;
        match made {
            Ok(Ok(link)) => Ok((Arc::clone(&slot), link.clone())),
            Ok(Err(StoreError::Unreachable(why))) => Err(StoreError::Unreachable(self.at(&why))),
            Ok(Err(StoreError::Refused(why))) => Err(StoreError::Refused(self.at(&why))),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let why = format!("no connection within {} ms", patience.as_millis());
                Err(StoreError::Unreachable(self.at(&why)))
            }
        }
    }

    /// A failure to connect names the address: the most common mistake is a wrong one.
    fn at(&self, why: &str) -> String {
        format!("{}: {why}", without_password(&self.settings.url))
    }

    /// Gives a connection up, unless it was replaced already.
    fn give_up(&self, used: &Slot) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&slot, used) {
            *slot = Arc::default();
            self.timeouts.store(0, Ordering::Relaxed);
            drop(slot);
            let _ = self.announcements.send(Announcement::Gap);
        }
    }

    /// What a result means to the callers, and to the connection it came over.
    pub(super) fn judge<T>(&self, used: &Slot, result: Result<T, RedisError>) -> StoreResult<T> {
        let error = match result {
            Ok(value) => {
                self.timeouts.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.is_timeout() {
            if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_BEFORE_RECONNECT {
                self.give_up(used);
            }
            return Err(StoreError::TimedOut(self.settings.timeout.as_millis() as u64));
        }
        let explained = explain(&error);
        let keeps = match error.kind() {
            // A server that lost its rank still answers.
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => false,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType | ErrorKind::Parse => true,
            // The cluster's connection mends itself.
            _ => self.is_cluster() && !error.is_unrecoverable_error(),
        };
        if !keeps {
            self.give_up(used);
        }
        Err(explained)
    }

    async fn make(self: &Arc<Self>, slot: &Slot) -> StoreResult<Link> {
        let access = self.access()?;
        match &self.address.topology {
            Topology::Single(place) => self.connect(place, &access, slot).await,
            Topology::Sentinel(sentinels, name) => {
                let master = self.master(sentinels, name, &access).await?;
                let link = self.connect(&master, &access, slot).await?;
                tracing::info!(?master, "the Sentinels name the master");
                tokio::spawn(watch_master(Arc::downgrade(self), Arc::downgrade(slot), master));
                Ok(link)
            }
            Topology::Cluster(places) => self.join(places, &access, slot).await,
        }
    }

    /// Password and certificates as they are now.
    fn access(&self) -> StoreResult<Access> {
        let settings = &self.settings;
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| StoreError::Refused(format!("{}: {error}", path.display())))
        };
        let from_file = match &settings.password_file {
            Some(path) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => None,
        };
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.address.database);
        let username = settings.username.as_ref().or(self.address.username.as_ref());
        if let Some(username) = username {
            login = login.set_username(username);
        }
        let password = from_file
            .or_else(|| settings.password.clone())
            .or_else(|| self.address.password.clone());
        if let Some(password) = &password {
            login = login.set_password(password);
        }
        let client_tls = match (&settings.cert_file, &settings.key_file) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: read(cert)?,
                client_key: read(key)?,
            }),
            _ => None,
        };
        let root_cert = settings.ca_file.as_deref().map(read).transpose()?;
        Ok(Access {
            login,
            username: username.cloned(),
            password,
            certificates: self.address.tls.then_some(TlsCertificates { client_tls, root_cert }),
        })
    }

    fn address_of(&self, place: &Place) -> ConnectionAddr {
        match place {
            Place::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Place::Tcp(host, port) if self.address.tls => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            Place::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        }
    }

    fn client(&self, place: &Place, access: &Access, login: bool) -> StoreResult<Client> {
        let refused = |error: RedisError| StoreError::Refused(error.to_string());
        let mut info: ConnectionInfo = self.address_of(place).into_connection_info().map_err(refused)?;
        info = info.set_tcp_settings(tcp());
        if login {
            info = info.set_redis_settings(access.login.clone());
        }
        match &access.certificates {
            Some(certificates) => {
                provide_crypto();
                Client::build_with_tls(info, certificates.clone()).map_err(refused)
            }
            None => Client::open(info).map_err(refused),
        }
    }

    async fn connect(self: &Arc<Self>, place: &Place, access: &Access, slot: &Slot) -> StoreResult<Link> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.settings.timeout))
            .set_connection_timeout(Some(CONNECT))
            .set_pipeline_buffer_size(1_024)
            .set_push_sender(self.listener(slot));
        let client = self.client(place, access, true)?;
        let connect = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            connection.subscribe(self.keys.channel()).await?;
            Ok(Link::One(connection))
        };
        connect.await.map_err(|error: RedisError| explain(&error))
    }

    async fn join(self: &Arc<Self>, places: &[(String, u16)], access: &Access, slot: &Slot) -> StoreResult<Link> {
        let nodes = places
            .iter()
            .map(|(host, port)| self.address_of(&Place::Tcp(host.clone(), *port)));
        let mut builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP3)
            .connection_timeout(CONNECT)
            .response_timeout(self.settings.timeout)
            // Redirections and one reconnection fit into it; beyond, the recorder's own patience rules.
            .overall_response_timeout(Some(2 * self.settings.timeout))
            .retries(3)
            .min_retry_wait(10)
            .max_retry_wait(50)
            .tcp_settings(tcp())
            .push_sender(self.listener(slot));
        if let Some(username) = &access.username {
            builder = builder.username(username);
        }
        if let Some(password) = &access.password {
            builder = builder.password(password);
        }
        if let Some(certificates) = &access.certificates {
            provide_crypto();
            builder = builder.certs(certificates.clone());
        }
        let join = async { builder.build()?.get_async_connection().await };
        match join.await {
            Ok(connection) => Ok(Link::Cluster(Cluster {
                connection,
                heard: Arc::default(),
            })),
            Err(error) => Err(explain(&error)),
        }
    }

    /// What the server sends by itself.
    fn listener(
        self: &Arc<Self>,
        slot: &Slot,
    ) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
        let (connector, slot) = (Arc::downgrade(self), Arc::downgrade(slot));
        move |push: PushInfo| {
            if let (Some(connector), Some(slot)) = (connector.upgrade(), slot.upgrade()) {
                connector.pushed(&push, &slot);
            }
            Ok(())
        }
    }

    fn pushed(&self, push: &PushInfo, slot: &Slot) {
        if push.kind == PushKind::Disconnection && !self.is_cluster() {
            self.give_up(slot);
        } else if let Some(heard) = (self.decode)(push, &self.keys) {
            // Nobody listening is not an error.
            let _ = self.announcements.send(heard);
        }
    }

    /// Asks the Sentinels, all at once, and believes the first that knows a master which says it is one.
    async fn master(&self, sentinels: &[(String, u16)], name: &str, access: &Access) -> StoreResult<Place> {
        let mut asked: FuturesUnordered<_> = sentinels
            .iter()
            .map(|(host, port)| self.ask(Place::Tcp(host.clone(), *port), name, access))
            .collect();
        let mut problems = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(place) => match self.role(&place, access).await {
                    Ok(role) if role == "master" => return Ok(place),
                    Ok(role) => problems.push(format!("{place:?} is a {role}")),
                    Err(error) => problems.push(error.to_string()),
                },
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems.dedup();
        Err(StoreError::Unreachable(format!(
            "no master {name:?}: {}",
            problems.join("; ")
        )))
    }

    async fn ask(&self, sentinel: Place, name: &str, access: &Access) -> StoreResult<Place> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        // Sentinels often have no password although the servers do.
        let mut answer = self.brief(&sentinel, access, false, &question).await;
        if answer.is_err() && access.password.is_some() {
            answer = self.brief(&sentinel, access, true, &question).await;
        }
        let known: Option<(String, u16)> = redis::from_redis_value(answer?)
            .map_err(|error| StoreError::Protocol(format!("{sentinel:?} about {name:?}: {error}")))?;
        let (host, port) =
            known.ok_or_else(|| StoreError::Refused(format!("{sentinel:?} knows no master {name:?}")))?;
        Ok(Place::Tcp(host, port))
    }

    async fn role(&self, place: &Place, access: &Access) -> StoreResult<String> {
        let answer = self.brief(place, access, true, &redis::cmd("ROLE")).await?;
        match answer {
            Value::Array(parts) => match parts.into_iter().next() {
                Some(first) => redis::from_redis_value(first).map_err(|error| StoreError::Protocol(error.to_string())),
                None => Err(StoreError::Protocol("an empty ROLE".to_owned())),
            },
            other => Err(StoreError::Protocol(format!("ROLE is {other:?}"))),
        }
    }

    /// One command over a connection of its own.
    async fn brief(&self, place: &Place, access: &Access, login: bool, command: &Cmd) -> StoreResult<Value> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.settings.timeout.max(Duration::from_millis(200))))
            .set_connection_timeout(Some(CONNECT));
        let client = self.client(place, access, login)?;
        let ask = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            connection.send_packed_command(command).await
        };
        ask.await
            .map_err(|error: RedisError| StoreError::Unreachable(format!("{place:?}: {error}")))
    }
}

/// Gives the connection up once the Sentinels name another master: one that was merely cut off would go on taking
/// writes that are lost.
async fn watch_master(connector: Weak<Connector>, slot: Weak<OnceCell<Link>>, master: Place) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let (Some(connector), Some(slot)) = (connector.upgrade(), slot.upgrade()) else {
            return;
        };
        let Topology::Sentinel(sentinels, name) = &connector.address.topology else {
            return;
        };
        let Ok(access) = connector.access() else { continue };
        match connector.master(sentinels, name, &access).await {
            Ok(now) if now != master => {
                tracing::warn!(?master, ?now, "the Sentinels name another master");
                connector.give_up(&slot);
                return;
            }
            // Sentinels that are gone say nothing about the master.
            Ok(_) | Err(_) => {}
        }
    }
}

/// As whom, and with which certificates.
struct Access {
    login: RedisConnectionInfo,
    username: Option<String>,
    password: Option<String>,
    certificates: Option<TlsCertificates>,
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// rustls wants to be told once per process whose cryptography it uses; being told twice is no harm.
fn provide_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn explain(error: &RedisError) -> StoreError {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot | ServerErrorKind::ClusterDown) => {
            StoreError::Refused(format!(
                "{error}; if this is a cluster, the address is redis+cluster://HOST:PORT"
            ))
        }
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
            StoreError::Refused(error.to_string())
        }
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => StoreError::Protocol(error.to_string()),
        _ => StoreError::Unreachable(error.to_string()),
    }
}

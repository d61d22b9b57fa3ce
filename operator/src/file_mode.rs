//! Breakers from files: read, plan, apply, report, again each second.
//!
//! Polling by content, not file events: it sees editors that rename, ConfigMaps that swap links and network mounts alike,
//! and a second's work is one small read.

use crate::actions::{ActionError, Actions};
use crate::health::{self, Health};
use crate::metrics::Metrics;
use crate::plan::{Action, Claim, matches, orphans, plan, requested_reset};
use crate::programmer;
use crate::source::{FileError, desired, read};
use crate::status::{Claimed, Facts, Seen, Stored, status, wall_clock};
use crds::Document;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::redis::Keys;
use tiebar::store::{Leader, Store, StoreResult, StoredConfig, Written};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Settings of file mode.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A file or a folder.
    pub path: PathBuf,
    /// `HOST:PORT` for health and status.
    pub listen: String,
    /// Who owns the ids; default host and path.
    pub owner: Option<String>,
    /// Pause between rounds. Default 1 s.
    pub every: Duration,
}

/// A breaker as last reported.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reported {
    pub(crate) status: Value,
    /// The window's calls and failing ones, for metrics.
    pub(crate) window: Option<(u64, u64)>,
}

/// What the port reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) items: BTreeMap<ServiceId, Reported>,
    pub(crate) errors: Vec<String>,
    pub(crate) attempted: bool,
}

/// Shared between the loop and the port.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    report: Mutex<Report>,
    actions: Mutex<Actions>,
    /// Something was done by hand; the next round need not wait.
    acted: Notify,
}

impl Shared {
    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    fn actions<T>(&self, use_them: impl FnOnce(&mut Actions) -> T) -> T {
        use_them(&mut self.actions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something by hand, and has it take effect at once.
    pub(crate) fn act<T>(&self, act: impl FnOnce(&mut Actions) -> Result<T, ActionError>) -> Result<T, ActionError> {
        let done = self.actions(act);
        if done.is_ok() {
            self.acted.notify_one();
        }
        done
    }
}

/// The operator over files, listening.
pub struct FileMode {
    store: Arc<dyn Store>,
    settings: Settings,
    listener: TcpListener,
    shared: Arc<Shared>,
    good: BTreeMap<ServiceId, Document>,
    leader: Option<Leader>,
    keys: Option<Keys>,
    told_errors: Vec<FileError>,
    reported: BTreeMap<ServiceId, Reported>,
    /// What the store was last seen to hold.
    held: BTreeMap<ServiceId, Document>,
    health: Health,
}

impl FileMode {
    /// Takes the port, and reads what was done by hand earlier.
    ///
    /// # Errors
    /// When the address is taken or none, or what was done by hand cannot be read.
    pub async fn bind(store: Arc<dyn Store>, settings: Settings) -> std::io::Result<Self> {
        let actions = Actions::load(&settings.path).map_err(std::io::Error::other)?;
        let listener = TcpListener::bind(&settings.listen).await?;
        let shared = Shared {
            metrics: Metrics::default(),
            report: Mutex::default(),
            actions: Mutex::new(actions),
            acted: Notify::new(),
        };
        Ok(Self {
            store,
            settings,
            listener,
            shared: Arc::new(shared),
            good: BTreeMap::new(),
            leader: None,
            keys: None,
            told_errors: Vec::new(),
            reported: BTreeMap::new(),
            held: BTreeMap::new(),
            health: Health::default(),
        })
    }

    /// Reports the keys under which people find a breaker.
    #[must_use]
    pub fn with_keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// The address really bound.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reconciles until `shutdown`.
    ///
    /// # Errors
    /// When the port fails.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> std::io::Result<()> {
        tracing::info!(addr = %self.local_addr()?, "listening");
        let listener = {
            let empty = TcpListener::bind("127.0.0.1:0").await?;
            std::mem::replace(&mut self.listener, empty)
        };
        let router = crate::http::router(Arc::clone(&self.shared));
        let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>());
        let reconcile = async {
            loop {
                self.round().await;
                // Early when something was done by hand, else in time.
                let _ = tokio::time::timeout(self.settings.every, self.shared.acted.notified()).await;
            }
        };
        tokio::select! {
            result = server => result,
            () = reconcile => Ok(()),
            () = shutdown => Ok(()),
        }
    }

    /// One round. A store that does not answer is reported and tried again.
    async fn round(&mut self) {
        let reading = read(&self.settings.path);
        if reading.errors != self.told_errors {
            for error in &reading.errors {
                tracing::error!("{error}");
            }
            if reading.errors.is_empty() {
                tracing::info!("all files are good again");
            }
            self.told_errors.clone_from(&reading.errors);
        }
        let wanted = desired(&self.good, &reading);
        for (id, document) in &wanted {
            if self
                .good
                .get(id)
                .is_none_or(|before| before.resolved != document.resolved)
            {
                for warning in &document.resolved.warnings {
                    tracing::warn!(breaker = %id, "{warning}");
                }
            }
        }
        self.good.clone_from(&wanted);
        let complete = reading.errors.is_empty();
        let wanted = self.shared.actions(|actions| actions.overlay(wanted, complete));
        let look = self.reconcile(&wanted, complete).await;
        let turn = self.health.judge(&look, Instant::now());
        health::tell(turn, &look, &self.shared.metrics);
        if look.is_err() {
            self.tell_silence(&wanted);
        }
        self.shared.set(Report {
            items: self.reported.clone(),
            errors: reading.errors.iter().map(ToString::to_string).collect(),
            attempted: true,
        });
    }

    /// Without the store: what was last known, for ten seconds; then unknown.
    fn tell_silence(&mut self, wanted: &BTreeMap<ServiceId, Document>) {
        self.reported.retain(|id, _| wanted.contains_key(id));
        let lost = self.health.lost.clone();
        for document in wanted.values() {
            let seen = match &lost {
                Some(error) => Seen::Lost(error),
                None if self.reported.contains_key(&document.id) => continue,
                None => Seen::NotYet,
            };
            self.report(document, seen);
        }
    }

    fn report(&mut self, document: &Document, seen: Seen<'_>) {
        let Reported {
            status: previous,
            mut window,
        } = self.reported.remove(&document.id).unwrap_or_default();
        if let Seen::Answers(stored) = seen {
            window = stored
                .snapshot
                .as_ref()
                .map(|snapshot| (snapshot.calls, snapshot.failing));
        }
        let facts = Facts {
            id: Some(&document.id),
            claimed: Claimed::Holds(document),
            seen,
            owner: self.leader.as_ref().map_or("", |leader| leader.owner.as_str()),
            write_error: None,
            generation: None,
            store_key: self.keys.as_ref().map(|keys| keys.of(&document.id, "state")),
            refresh: true,
            previous: &previous,
            now: &wall_clock(),
        };
        let status = status(&facts);
        if status["state"] != previous["state"] {
            tracing::info!(
                breaker = %document.id,
                state = status["state"].as_str(),
                reason = status["stateReason"].as_str(),
                "state"
            );
        }
        let now_ready = ready(&status);
        if now_ready["status"] == "False" && now_ready["reason"] != ready(&previous)["reason"] {
            tracing::warn!(
                breaker = %document.id,
                reason = now_ready["reason"].as_str(),
                "not ready: {}",
                now_ready["message"].as_str().unwrap_or_default()
            );
        }
        self.reported.insert(document.id.clone(), Reported { status, window });
    }

    async fn leader(&mut self) -> StoreResult<Leader> {
        if let Some(leader) = &self.leader {
            return Ok(leader.clone());
        }
        let created = self.store.now().await?;
        let path = std::fs::canonicalize(&self.settings.path).unwrap_or_else(|_| self.settings.path.clone());
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let default = || format!("{}:{}", host.trim(), path.display());
        let owner = self.settings.owner.clone().unwrap_or_else(default);
        let leader = Leader {
            owner,
            created,
            transitions: 0,
        };
        self.leader = Some(leader.clone());
        Ok(leader)
    }

    async fn reconcile(&mut self, wanted: &BTreeMap<ServiceId, Document>, complete: bool) -> StoreResult<()> {
        let leader = self.leader().await?;
        let store = Arc::clone(&self.store);
        if complete {
            let mut stored: BTreeMap<ServiceId, StoredConfig> = BTreeMap::new();
            for id in store.ids().await? {
                if !wanted.contains_key(&id)
                    && let Some(config) = store.config(&id).await?
                {
                    stored.insert(id, config);
                }
            }
            for id in orphans(&stored, |id| wanted.contains_key(id), &leader.owner) {
                programmer::apply(&*store, &id, &Action::Bury, &leader).await?;
            }
            self.reported.retain(|id, _| wanted.contains_key(id));
            self.held.retain(|id, _| wanted.contains_key(id));
        }
        let mut proven = false;
        for (id, document) in wanted {
            let begun = Instant::now();
            let result = self.program(id, document, &leader, &mut proven).await;
            self.shared.metrics.reconciled(result.is_ok(), begun.elapsed());
            let stored = result?;
            self.report(document, Seen::Answers(&stored));
        }
        Ok(())
    }

    /// Brings an id up to date. The first that may be written is written in each round, due or not: a full store and a
    /// replica answer every read.
    async fn program(
        &mut self,
        id: &ServiceId,
        document: &Document,
        leader: &Leader,
        proven: &mut bool,
    ) -> StoreResult<Stored> {
        let store = &*self.store;
        let config = store.config(id).await?;
        let handled = self.shared.actions(|actions| actions.handled(id).cloned());
        let claim = Claim {
            document,
            handled: handled.as_deref(),
            inherits: false,
            beat: !*proven,
        };
        let now = store.now().await?;
        let held = config.as_ref().and_then(|config| config.programmed.as_ref());
        let drifted = self.held.get(id) == Some(document) && !held.is_some_and(|held| matches(document, held));
        for action in plan(Some(claim), config.as_ref(), leader, now) {
            let written = programmer::apply(store, id, &action, leader).await?;
            *proven = true;
            if drifted && matches!((&action, &written), (Action::Program(_), Written::Changed(_))) {
                self.shared.metrics.drift_corrections.inc();
                tracing::warn!(breaker = %id, "the store held something else; restored");
            }
        }
        let stored = programmer::read(store, id).await?;
        let held = stored.config.as_ref().and_then(|config| config.programmed.as_ref());
        if held.is_some_and(|held| matches(document, held)) {
            self.held.insert(id.clone(), document.clone());
        }
        let done = stored.config.as_ref().map(|config| config.last_reset.as_str());
        if let Some(request) = requested_reset(document).filter(|request| done == Some(*request)) {
            self.shared.actions(|actions| actions.set_handled(id, request));
        }
        Ok(stored)
    }
}

/// A status' condition Ready; null when there is none.
fn ready(status: &Value) -> &Value {
    let conditions = status["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    all.find(|condition| condition["type"] == "Ready")
        .unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tiebar::memory::MemoryStore;

    fn write(folder: &std::path::Path, text: &str) {
        std::fs::write(folder.join("a.yaml"), text).unwrap();
    }

    const GOOD: &str = "apiVersion: tiebar.dev/v1alpha1\nkind: CircuitBreaker\nmetadata: {name: a}\n";

    async fn operator(folder: &std::path::Path, store: &Arc<MemoryStore>) -> FileMode {
        let settings = Settings {
            path: folder.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            owner: Some("me".to_owned()),
            every: Duration::from_secs(1),
        };
        FileMode::bind(Arc::clone(store) as _, settings).await.unwrap()
    }

    #[tokio::test]
    async fn a_file_is_programmed_kept_through_a_bad_edit_repaired_and_buried() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let id = ServiceId::parse("a").unwrap();
        write(folder.path(), GOOD);
        let mut operator = operator(folder.path(), &store).await;
        operator.round().await;
        let revision = |config: Option<StoredConfig>| config?.programmed.map(|programmed| programmed.config.revision);
        let first = revision(store.config(&id).await.unwrap()).expect("programmed");

        write(folder.path(), "{broken");
        operator.round().await;
        assert_eq!(revision(store.config(&id).await.unwrap()), Some(first));
        assert_eq!(operator.shared.report().errors.len(), 1);

        store.wipe();
        operator.round().await;
        assert!(revision(store.config(&id).await.unwrap()).is_some(), "repaired");

        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        operator.round().await;
        assert_eq!(revision(store.config(&id).await.unwrap()), None, "buried");
    }

    #[tokio::test]
    async fn every_round_writes_the_heartbeat_and_what_somebody_else_wrote_is_counted() {
        let (folder, time) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(1_000)));
        let clock = Arc::clone(&time);
        let store = Arc::new(MemoryStore::with_clock(Arc::new(move || clock.load(Ordering::Relaxed))));
        let id = ServiceId::parse("a").unwrap();
        write(folder.path(), GOOD);
        let mut operator = operator(folder.path(), &store).await;
        let seen_at = async || store.config(&id).await.unwrap().unwrap().owner_seen_at;
        operator.round().await;
        assert_eq!(seen_at().await, 1_000);
        time.store(2_000, Ordering::Relaxed);
        operator.round().await;
        assert_eq!(seen_at().await, 2_000, "it was due after a minute");

        let shared = Arc::clone(&operator.shared);
        let corrections = || shared.metrics.drift_corrections.get();
        assert_eq!(corrections(), 0);
        write(folder.path(), &format!("{GOOD}spec: {{open: {{duration: 5s}}}}\n"));
        operator.round().await;
        assert_eq!(corrections(), 0, "an edit is no drift");
        store.wipe();
        operator.round().await;
        operator.round().await;
        assert_eq!(corrections(), 1);
    }

    #[tokio::test]
    async fn without_the_store_the_state_is_unknown() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let id = ServiceId::parse("a").unwrap();
        write(folder.path(), GOOD);
        store.set_reachable(false);
        let mut operator = operator(folder.path(), &store).await;
        operator.round().await;
        assert_eq!(operator.shared.report().items[&id].status["state"], "Unknown");
    }
}

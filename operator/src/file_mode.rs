//! Breakers from files: read, plan, apply, report, again each second.
//!
//! Polling by content, not file events: it sees editors that rename, ConfigMaps that swap links and network mounts alike,
//! and a second's work is one small read.

use crate::plan::{Action, desired, plan};
use crate::source::{FileError, read};
use crate::status::status;
use crds::Document;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiebar::id::ServiceId;
use tiebar::store::{Leader, Store, StoreResult, StoredConfig, Written};
use tokio::net::TcpListener;

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

/// What the port reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) items: Vec<Value>,
    pub(crate) errors: Vec<String>,
    pub(crate) attempted: bool,
}

/// Shared between the loop and the port.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    report: Mutex<Report>,
}

impl Shared {
    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
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
    told_errors: Vec<FileError>,
    told_unreachable: bool,
}

impl FileMode {
    /// Takes the port.
    ///
    /// # Errors
    /// When the address is taken or none.
    pub async fn bind(store: Arc<dyn Store>, settings: Settings) -> std::io::Result<Self> {
        let listener = TcpListener::bind(&settings.listen).await?;
        Ok(Self {
            store,
            settings,
            listener,
            shared: Arc::default(),
            good: BTreeMap::new(),
            leader: None,
            told_errors: Vec::new(),
            told_unreachable: false,
        })
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
        let server = axum::serve(listener, router);
        let reconcile = async {
            loop {
                self.round().await;
                tokio::time::sleep(self.settings.every).await;
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
        let result = self.reconcile(&wanted, complete).await;
        let mut report = Report {
            items: Vec::new(),
            errors: reading.errors.iter().map(ToString::to_string).collect(),
            attempted: true,
        };
        match result {
            Ok(items) => {
                if std::mem::take(&mut self.told_unreachable) {
                    tracing::info!("the store is back");
                }
                report.items = items;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told_unreachable, true) {
                    tracing::warn!(%error, "the store does not answer; trying on");
                }
                let unknown = |id: &ServiceId| json!({"id": id.as_str(), "status": {"state": "Unknown"}});
                report.items = wanted.keys().map(unknown).collect();
            }
        }
        self.shared.set(report);
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

    async fn reconcile(&mut self, wanted: &BTreeMap<ServiceId, Document>, complete: bool) -> StoreResult<Vec<Value>> {
        let leader = self.leader().await?;
        let mut stored: BTreeMap<ServiceId, StoredConfig> = BTreeMap::new();
        let mut ids: Vec<ServiceId> = self.store.ids().await?;
        ids.extend(
            wanted
                .keys()
                .filter(|id| !ids.contains(id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        for id in ids {
            if let Some(config) = self.store.config(&id).await? {
                stored.insert(id, config);
            }
        }
        for action in plan(wanted, complete, &stored, &leader) {
            self.apply(&action, &leader).await?;
        }
        let mut items = Vec::new();
        for id in wanted.keys() {
            let Some(config) = self.store.config(id).await? else {
                continue;
            };
            let snapshot = self.store.snapshot(id).await?;
            let beats = self.store.instances(id).await?;
            let status = status(id.as_str(), &config, snapshot.as_ref(), &beats);
            items.push(json!({"id": id.as_str(), "status": status}));
        }
        Ok(items)
    }

    async fn apply(&self, action: &Action, leader: &Leader) -> StoreResult<()> {
        let (id, what, written) = match action {
            Action::Program(id, programme) => (id, "programmed", self.store.configure(id, programme).await?),
            Action::Reset(id, request) => (id, "reset", self.store.reset(id, leader, request).await?),
            Action::Bury(id) => (id, "deleted", self.store.tombstone(id, leader).await?),
        };
        match written {
            Written::Changed(revision) => tracing::info!(breaker = %id, revision, "{what}"),
            Written::Unchanged(_) => {}
            Written::OwnedElsewhere(owner) => tracing::warn!(breaker = %id, owner, "owned elsewhere; left alone"),
            Written::Superseded => tracing::warn!(breaker = %id, "a newer operator of the same owner is at work"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    async fn without_the_store_the_state_is_unknown() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        write(folder.path(), GOOD);
        store.set_reachable(false);
        let mut operator = operator(folder.path(), &store).await;
        operator.round().await;
        assert_eq!(operator.shared.report().items[0]["status"]["state"], "Unknown");
    }
}

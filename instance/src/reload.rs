//! The routes' sources: file and CA files, read again when they change. A bad edit keeps the good table.

use crate::connect::Endpoint;
use crate::routes::{Checked, RouteError, RouteSpec, parse_routes};
use crate::server::{Settings, Shared};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at, and what nobody needs any more is swept: idle connections to upstreams, guards.
const EVERY: Duration = Duration::from_secs(1);

/// Routes, and the files they name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sources {
    routes: Vec<RouteSpec>,
    /// They come from a file; without one their fields were flags.
    from_file: bool,
    /// By path: the content, or why there is none.
    ca: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
}

impl Sources {
    /// Reads everything.
    ///
    /// # Errors
    /// When the routes file is unreadable or invalid. A CA file's fault is the route's, told by [`Self::check`].
    pub(crate) async fn read(settings: &Settings) -> Result<Self, RouteError> {
        let routes = match &settings.routes_file {
            None => settings.routes.clone(),
            Some(file) => {
                let place = |error: &dyn std::fmt::Display| RouteError(format!("--routes {}: {error}", file.display()));
                let text = tokio::fs::read_to_string(file).await.map_err(|error| place(&error))?;
                parse_routes(&text).map_err(|error| place(&error))?
            }
        };
        let mut ca = BTreeMap::new();
        for path in routes.iter().filter_map(|route| route.ca_file.as_ref()) {
            let content = tokio::fs::read(path).await.map_err(|error| error.to_string());
            ca.insert(path.clone(), content);
        }
        Ok(Self {
            routes,
            from_file: settings.routes_file.is_some(),
            ca,
        })
    }

    /// Every route with where it leads.
    ///
    /// # Errors
    /// Which route is wrong, and how.
    pub(crate) fn check(&self, namespace: Option<&str>) -> Result<Vec<(Checked, Endpoint)>, RouteError> {
        let one = |route: &RouteSpec| {
            let checked = route.check(namespace)?;
            let ca = route.ca_file.as_deref().map(|path| self.ca(path)).transpose()?;
            let endpoint = Endpoint::new(&checked.upstream, ca).map_err(|error| match &route.ca_file {
                Some(path) => RouteError(format!("caFile: {}: {error}", path.display())),
                None => RouteError(format!("upstream: {error}")),
            })?;
            Ok((checked, endpoint))
        };
        let numbered = self.routes.iter().enumerate();
        numbered
            .map(|(index, route)| {
                one(route).map_err(|RouteError(error)| {
                    RouteError(if self.from_file {
                        format!("route {}: {error}", index + 1)
                    } else {
                        format!("--{}", error.replacen("caFile", "upstream-ca-file", 1))
                    })
                })
            })
            .collect()
    }

    fn ca(&self, path: &Path) -> Result<&[u8], RouteError> {
        match self.ca.get(path) {
            Some(Ok(content)) => Ok(content),
            Some(Err(error)) => Err(RouteError(format!("caFile: {}: {error}", path.display()))),
            None => Err(RouteError(format!("caFile: {}: not read", path.display()))),
        }
    }
}

/// Looks at the files for ever.
pub(crate) async fn watch(shared: Arc<Shared>, mut known: Sources) {
    // Said once, not every second.
    let mut complaint = None;
    loop {
        tokio::time::sleep(EVERY).await;
        shared.sweep();
        shared.forget_unrouted().await;
        let fresh = Sources::read(&shared.settings).await;
        let outcome = match fresh {
            Ok(fresh) if fresh == known => {
                complaint = None;
                continue;
            }
            Ok(fresh) => shared.route(&fresh).map(|()| fresh),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(fresh) => {
                tracing::info!(routes = fresh.routes.len(), "new routes");
                known = fresh;
                complaint = None;
            }
            Err(error) if complaint.as_ref() != Some(&error) => {
                tracing::error!(%error, "bad routes; the good ones stay");
                complaint = Some(error);
            }
            Err(_) => {}
        }
    }
}

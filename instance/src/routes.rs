//! Which request goes where, under which breaker.

use crate::forward::Target;
use http::Uri;
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use tiebar::id::ServiceId;

/// One entry of the routes file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSpec {
    /// Exact host, without port; absent: any.
    #[serde(default)]
    pub host: Option<String>,
    /// Longest prefix wins; default `/`.
    #[serde(default = "root")]
    pub path_prefix: String,
    /// The breaker's id.
    pub service: String,
    /// `http://HOST:PORT` or `h2c://HOST:PORT`.
    pub upstream: String,
    /// Take the prefix off the path.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Keep the request's `Host`.
    #[serde(default)]
    pub preserve_host: bool,
}

fn root() -> String {
    "/".to_owned()
}

/// What is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteError(pub String);

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RouteError {}

/// A checked entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checked {
    pub(crate) spec: RouteSpec,
    pub(crate) id: ServiceId,
    pub(crate) authority: String,
    pub(crate) http2: bool,
}

impl RouteSpec {
    /// One route for everything.
    #[must_use]
    pub fn single(service: &str, upstream: &str) -> Self {
        Self {
            host: None,
            path_prefix: root(),
            service: service.to_owned(),
            upstream: upstream.to_owned(),
            strip_prefix: false,
            preserve_host: false,
        }
    }

    /// Checks the entry; a bare service id takes `namespace`.
    pub(crate) fn check(&self, namespace: Option<&str>) -> Result<Checked, RouteError> {
        let full = match namespace {
            Some(namespace) if !self.service.contains('/') => format!("{namespace}/{}", self.service),
            _ => self.service.clone(),
        };
        let id = ServiceId::parse(&full).map_err(|error| RouteError(format!("service: {error}")))?;
        let wrong = || {
            RouteError(format!(
                "upstream: {:?}; wanted http://HOST:PORT or h2c://HOST:PORT",
                self.upstream
            ))
        };
        let uri: Uri = self.upstream.parse().map_err(|_| wrong())?;
        let http2 = match uri.scheme_str() {
            Some("http") => false,
            Some("h2c") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.to_string();
        if !matches!(uri.path(), "" | "/") {
            return Err(RouteError(format!(
                "upstream: {:?} has a path; wanted none",
                self.upstream
            )));
        }
        if !self.path_prefix.starts_with('/') {
            return Err(RouteError(format!(
                "pathPrefix: {:?}; wanted one that begins with /",
                self.path_prefix
            )));
        }
        Ok(Checked {
            spec: self.clone(),
            id,
            authority,
            http2,
        })
    }
}

/// Reads a routes file's text.
///
/// # Errors
/// The entry, the field and what would be right.
pub fn parse_routes(text: &str) -> Result<Vec<RouteSpec>, RouteError> {
    let routes: Vec<RouteSpec> = serde_yaml::from_str(text).map_err(|error| RouteError(error.to_string()))?;
    for (index, route) in routes.iter().enumerate() {
        route
            .check(None)
            .map_err(|error| RouteError(format!("route {}: {error}", index + 1)))?;
    }
    if routes.is_empty() {
        Err(RouteError("no routes; wanted at least one".to_owned()))
    } else {
        Ok(routes)
    }
}

/// The targets in the order in which they are tried.
#[derive(Default)]
pub(crate) struct Table(pub(crate) Vec<Arc<Target>>);

impl Table {
    pub(crate) fn new(mut targets: Vec<Arc<Target>>) -> Self {
        targets.sort_by_key(|target| {
            let spec = &target.route.spec;
            (std::cmp::Reverse(spec.path_prefix.len()), spec.host.is_none())
        });
        Self(targets)
    }

    /// The first whose host and prefix match.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<Target>> {
        let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        self.0.iter().find(|target| {
            let spec = &target.route.spec;
            spec.host
                .as_deref()
                .is_none_or(|wanted| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted)))
                && under(path, &spec.path_prefix)
        })
    }
}

/// Whether a path lies under a prefix, at a segment's border.
fn under(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_segment() {
        for (path, prefix, yes) in [
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/", true),
            ("/x", "/", true),
        ] {
            assert_eq!(under(path, prefix), yes, "{path} under {prefix}");
        }
    }

    #[test]
    fn a_bad_route_is_named_with_what_would_be_right() {
        let error = parse_routes("[{service: a, upstream: 'http://a:1'}, {service: b, upstream: 'ftp://x'}]");
        assert_eq!(
            error.unwrap_err().to_string(),
            "route 2: upstream: \"ftp://x\"; wanted http://HOST:PORT or h2c://HOST:PORT"
        );
        assert!(
            parse_routes("[{servce: a}]")
                .unwrap_err()
                .to_string()
                .contains("servce")
        );
    }
}

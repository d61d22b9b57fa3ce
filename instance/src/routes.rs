//! Which request goes where, under which breaker.

use crate::target::Target;
use http::uri::Authority;
use http::{HeaderValue, Uri};
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tiebar::id::ServiceId;
use tiebar::redis::without_password;

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
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `h2c://HOST:PORT` for HTTP/2 without TLS.
    pub upstream: String,
    /// Take the prefix off the path.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Keep the request's `Host`.
    #[serde(default)]
    pub preserve_host: bool,
    /// With https: certificates in PEM to trust instead of the public ones; read again when the file changes.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
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

/// How an upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    H2c,
    Https,
}

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// The authority as a header.
    pub(crate) host: HeaderValue,
}

/// A checked entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checked {
    pub(crate) spec: RouteSpec,
    pub(crate) id: ServiceId,
    pub(crate) upstream: Upstream,
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
            ca_file: None,
        }
    }

    /// Checks the entry; a bare service id takes `namespace`.
    pub(crate) fn check(&self, namespace: Option<&str>) -> Result<Checked, RouteError> {
        let id = full_id(&self.service, namespace).map_err(|error| RouteError(format!("service: {error}")))?;
        let upstream = Upstream::parse(&self.upstream)?;
        if self.ca_file.is_some() && upstream.scheme != Scheme::Https {
            return Err(RouteError(format!(
                "caFile: goes with an https:// upstream, and {:?} is none",
                without_password(&self.upstream)
            )));
        }
        if !self.path_prefix.starts_with('/') || self.path_prefix.contains(['?', '#']) {
            return Err(RouteError(format!(
                "pathPrefix: {:?}; wanted a path that begins with /",
                self.path_prefix
            )));
        }
        if let Some(host) = &self.host {
            let bare = Authority::try_from(host.as_str()).is_ok_and(|authority| authority.host() == host);
            if !bare {
                return Err(RouteError(format!("host: {host:?}; wanted a host name without a port")));
            }
        }
        Ok(Checked {
            spec: self.clone(),
            id,
            upstream,
        })
    }
}

impl Upstream {
    /// None when the authority is no header, which no authority is.
    pub(crate) fn new(scheme: Scheme, authority: Authority) -> Option<Self> {
        let host = HeaderValue::from_str(authority.as_str()).ok()?;
        Some(Self {
            scheme,
            authority,
            host,
        })
    }

    fn parse(text: &str) -> Result<Self, RouteError> {
        let wanted = || {
            RouteError(format!(
                "upstream: {:?}; wanted http://HOST:PORT, https://HOST:PORT or h2c://HOST:PORT",
                without_password(text)
            ))
        };
        let uri: Uri = text.parse().map_err(|_| wanted())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("h2c") => Scheme::H2c,
            _ => return Err(wanted()),
        };
        let authority = uri.authority().ok_or_else(wanted)?.clone();
        if authority.as_str().contains('@') {
            return Err(RouteError(
                "upstream: it holds credentials; wanted none, as they would show in logs".to_owned(),
            ));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(RouteError(format!("upstream: {text:?} has a path; wanted none")));
        }
        Self::new(scheme, authority).ok_or_else(wanted)
    }
}

/// A service id; a bare one takes the namespace.
///
/// # Errors
/// When it is no id.
pub fn full_id(id: &str, namespace: Option<&str>) -> Result<ServiceId, tiebar::id::InvalidServiceId> {
    match namespace {
        Some(namespace) if !id.contains('/') => ServiceId::parse(&format!("{namespace}/{id}")),
        _ => ServiceId::parse(id),
    }
}

/// Reads a routes file's text.
///
/// # Errors
/// The entry, the field and what would be right.
pub fn parse_routes(text: &str) -> Result<Vec<RouteSpec>, RouteError> {
    let routes: Vec<RouteSpec> = serde_yaml::from_str(text).map_err(|error| RouteError(error.to_string()))?;
    let mut seen = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let place = |RouteError(error)| RouteError(format!("route {}: {error}", index + 1));
        route.check(None).map_err(place)?;
        let key = (
            route.host.as_ref().map(|host| host.to_ascii_lowercase()),
            &route.path_prefix,
        );
        if let Some(first) = seen.iter().position(|seen| *seen == key) {
            return Err(place(RouteError(format!(
                "has host and pathPrefix of route {}; wanted another",
                first + 1
            ))));
        }
        seen.push(key);
    }
    if routes.is_empty() {
        Err(RouteError("no routes; wanted at least one".to_owned()))
    } else {
        Ok(routes)
    }
}

/// The targets in the order in which they are tried.
#[derive(Default)]
pub(crate) struct Table(Vec<Arc<Target>>);

impl Table {
    pub(crate) fn new(mut targets: Vec<Arc<Target>>) -> Self {
        targets.sort_by_key(|target| {
            let spec = &target.route.spec;
            (std::cmp::Reverse(spec.path_prefix.len()), spec.host.is_none())
        });
        Self(targets)
    }

    /// The first whose host and prefix match.
    pub(crate) fn find(&self, asked: Option<&Authority>, path: &str) -> Option<&Arc<Target>> {
        self.0.iter().find(|target| {
            let spec = &target.route.spec;
            spec.host
                .as_deref()
                .is_none_or(|wanted| asked.is_some_and(|asked| asked.host().eq_ignore_ascii_case(wanted)))
                && under(path, &spec.path_prefix)
        })
    }

    /// Closes connections that nobody needs.
    pub(crate) fn sweep(&self) {
        for target in &self.0 {
            target.sweep();
        }
    }
}

/// Whether a path lies under a prefix, at a segment's border.
fn under(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    // `OPTIONS *` asks about everything.
    let path = if path == "*" { "/" } else { path };
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
            "route 2: upstream: \"ftp://x\"; wanted http://HOST:PORT, https://HOST:PORT or h2c://HOST:PORT"
        );
        let error =
            parse_routes("[{service: a, upstream: 'http://a'}, {service: b, upstream: 'http://b', pathPrefix: /}]");
        assert_eq!(
            error.unwrap_err().to_string(),
            "route 2: has host and pathPrefix of route 1; wanted another"
        );
        for (route, named) in [
            ("upstream: 'http://u:p@a'", "credentials"),
            ("upstream: 'http://a/x'", "has a path"),
            ("upstream: 'http://a', caFile: x.pem", "caFile"),
            ("upstream: 'http://a', host: 'a:80'", "without a port"),
            ("upstream: 'http://a', pathPrefix: x", "begins with /"),
        ] {
            let error = parse_routes(&format!("[{{service: a, {route}}}]"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("route 1: ") && error.contains(named), "{error}");
        }
        assert!(
            parse_routes("[{servce: a}]")
                .unwrap_err()
                .to_string()
                .contains("servce")
        );
    }
}

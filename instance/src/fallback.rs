//! What a rejected caller gets instead of the rejection: a fixed answer, or another service's.
//!
//! Whoever may edit a `CircuitBreaker` could otherwise send every caller's requests anywhere, so a service is asked only
//! under a prefix that the process was started with, and never gets credentials.

use crate::connect::Endpoint;
use crate::pool::Pool;
use crate::routes::{Scheme, Upstream};
use bytes::Bytes;
use crds::FallbackType;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use std::sync::Arc;
use std::time::Duration;

/// Headers that prove who the caller is.
const CREDENTIALS: [HeaderName; 7] = [
    AUTHORIZATION,
    COOKIE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-amz-security-token"),
];

/// A service to ask instead.
pub(crate) struct Substitute {
    pub(crate) pool: Arc<Pool>,
    pub(crate) upstream: Upstream,
    /// Without a slash at its end.
    prefix: String,
}

/// What to do about a rejection.
pub(crate) enum Fallback {
    None,
    Static {
        status: StatusCode,
        content_type: HeaderValue,
        body: Bytes,
    },
    Service(Box<Substitute>),
}

impl Fallback {
    /// Of a spec; what is not allowed is said once and left out.
    pub(crate) fn new(spec: Option<&crds::Fallback>, allowed: &Allowed, idle_timeout: Duration, id: &str) -> Self {
        let Some(spec) = spec else { return Self::None };
        match (spec.r#type, &spec.r#static, &spec.service) {
            (Some(FallbackType::Static), Some(answer), _) => {
                let status = answer.http_status_code.and_then(|status| u16::try_from(status).ok());
                let content_type = answer.content_type.as_deref();
                let content_type = content_type.and_then(|text| HeaderValue::from_str(text).ok());
                Self::Static {
                    status: status
                        .and_then(|status| StatusCode::from_u16(status).ok())
                        .unwrap_or(StatusCode::OK),
                    content_type: content_type.unwrap_or_else(|| HeaderValue::from_static("text/plain; charset=utf-8")),
                    body: Bytes::from(answer.body.clone().unwrap_or_default()),
                }
            }
            (Some(FallbackType::Service), _, Some(service)) => {
                let url = service.url.as_deref().unwrap_or_default();
                match Substitute::new(url, allowed, idle_timeout) {
                    Ok(substitute) => Self::Service(Box::new(substitute)),
                    Err(error) => {
                        tracing::error!(breaker = id, url, "no fallback: {error}");
                        Self::None
                    }
                }
            }
            _ => Self::None,
        }
    }
}

impl Substitute {
    fn new(url: &str, allowed: &Allowed, idle_timeout: Duration) -> Result<Self, String> {
        let target = Place::parse(url)?;
        if !allowed.0.iter().any(|prefix| prefix.holds(&target)) {
            return Err("it is under no prefix given by --allow-fallback".to_owned());
        }
        let endpoint = Endpoint::new(&target.upstream, None)?;
        Ok(Self {
            pool: Pool::new(endpoint, idle_timeout),
            upstream: target.upstream,
            prefix: target.path,
        })
    }

    /// The caller's path under this service's; none when it would climb out.
    pub(crate) fn path(&self, path: &PathAndQuery) -> Option<PathAndQuery> {
        if climbs(path.path()) {
            return None;
        }
        format!("{}{path}", self.prefix).parse().ok()
    }
}

/// Takes from a request what proves who the caller is.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    for name in CREDENTIALS {
        headers.remove(name);
    }
}

/// Whether a path has a segment that leads upwards, however it is spelled.
fn climbs(path: &str) -> bool {
    let lower = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    !path.starts_with('/')
        || lower
            .split(['/', '\\'])
            .any(|segment| segment == ".." || segment.starts_with("..;"))
}

/// The prefixes a fallback may go to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed(Arc<Vec<Place>>);

/// A URL taken apart: a prefix, or what must lie under one.
#[derive(Debug, Clone)]
struct Place {
    upstream: Upstream,
    /// Without a slash at its end.
    path: String,
}

impl Allowed {
    /// # Errors
    /// Which prefix is wrong, and what would be right.
    pub(crate) fn parse(prefixes: &[String]) -> Result<Self, String> {
        let parse =
            |prefix: &String| Place::parse(prefix).map_err(|error| format!("--allow-fallback {prefix:?}: {error}"));
        let places: Result<Vec<Place>, String> = prefixes.iter().map(parse).collect();
        places.map(|places| Self(Arc::new(places)))
    }
}

impl Place {
    fn parse(url: &str) -> Result<Self, String> {
        let wanted = || "wanted http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]".to_owned();
        let uri: Uri = url.parse().map_err(|_| wanted())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(wanted()),
        };
        let authority = uri.authority().ok_or_else(wanted)?.clone();
        if authority.as_str().contains('@') || uri.query().is_some() || climbs(uri.path()) {
            return Err(wanted());
        }
        Ok(Self {
            upstream: Upstream::new(scheme, authority).ok_or_else(wanted)?,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port must be the same, and the path lie under this one's at a segment's border.
    fn holds(&self, other: &Self) -> bool {
        let default = if self.upstream.scheme == Scheme::Https { 443 } else { 80 };
        let place = |upstream: &Upstream| {
            let host = upstream.authority.host().to_ascii_lowercase();
            (host, upstream.authority.port_u16().unwrap_or(default))
        };
        let below = other.path.strip_prefix(&self.path);
        self.upstream.scheme == other.upstream.scheme
            && place(&self.upstream) == place(&other.upstream)
            && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(prefix: &str) -> Allowed {
        Allowed::parse(&[prefix.to_owned()]).expect("a good prefix")
    }

    #[test]
    fn a_fallback_lies_under_an_allowed_prefix_or_is_none() {
        let allowed = allowed("http://cache.svc/stale");
        for (url, yes) in [
            ("http://cache.svc/stale", true),
            ("http://CACHE.svc:80/stale/items", true),
            ("http://cache.svc/staleness", false),
            ("http://cache.svc", false),
            ("https://cache.svc/stale", false),
            ("http://cache.svc:8080/stale", false),
            ("http://cache.svc.evil/stale", false),
            ("http://cache.svc@evil/stale", false),
            ("http://cache.svc/stale/../admin", false),
            ("http://cache.svc/stale/%2E%2e/admin", false),
        ] {
            let made = Substitute::new(url, &allowed, Duration::from_secs(1));
            assert_eq!(made.is_ok(), yes, "{url}");
        }
    }

    #[test]
    fn a_caller_does_not_climb_out_of_it() {
        let substitute = Substitute::new(
            "http://cache.svc/stale/",
            &allowed("http://cache.svc"),
            Duration::from_secs(1),
        );
        let substitute = substitute.unwrap_or_else(|error| panic!("{error}"));
        let path = |path: &'static str| {
            substitute
                .path(&PathAndQuery::from_static(path))
                .map(|path| path.to_string())
        };
        assert_eq!(path("/items?id=1"), Some("/stale/items?id=1".to_owned()));
        for bad in [
            "/../admin",
            "/a/%2e%2E/%2e./admin",
            "/a\\..\\b",
            "/%2e%2e%2fadmin",
            "/..;/admin",
        ] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}

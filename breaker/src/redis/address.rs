//! `--redis URL`, taken apart: which servers, how they are found, and as whom.

use redis::{ConnectionAddr, IntoConnectionInfo as _};

/// What an address may look like, for error messages.
pub const WANTED: &str = "redis://HOST:PORT, rediss://HOST:PORT, redis+unix:///PATH, \
                          redis+sentinel://HOST:26379,…/MASTER-NAME or redis+cluster://HOST:6379,…";

/// How the server that takes the writes is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    /// It is the one named.
    Single(Place),
    /// The Sentinels at these places know it, under this name.
    Sentinel(Vec<(String, u16)>, String),
    /// Each key has its own; any of these places knows which.
    Cluster(Vec<(String, u16)>),
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(std::path::PathBuf),
}

/// A parsed address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) topology: Topology,
    pub(super) tls: bool,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("no scheme".to_owned());
        };
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match base {
            "redis" | "unix" => false,
            "rediss" => true,
            _ => return Err(unknown(scheme)),
        };
        match kind {
            "" | "unix" => Self::single(&url.replacen("redis+unix://", "unix://", 1), tls),
            "sentinel" => {
                let (access, hosts, path) = split(rest)?;
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err("no master name after the hosts".to_owned());
                }
                let hosts = places(hosts, 26_379)?;
                Self::several(Topology::Sentinel(hosts, master.to_owned()), tls, access, database)
            }
            "cluster" => {
                let (access, hosts, path) = split(rest)?;
                if !path.is_empty() && path != "0" {
                    return Err("a cluster has database 0 alone".to_owned());
                }
                Self::several(Topology::Cluster(places(hosts, 6_379)?), tls, access, "")
            }
            _ => Err(unknown(scheme)),
        }
    }

    fn single(url: &str, tls: bool) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|error| error.to_string())?;
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Place::Tcp(host.clone(), *port)
            }
            ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
            _ => return Err("unknown kind of address".to_owned()),
        };
        let settings = info.redis_settings();
        Ok(Self {
            topology: Topology::Single(place),
            tls,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        })
    }

    fn several(topology: Topology, tls: bool, access: Option<&str>, database: &str) -> Result<Self, String> {
        // The crate's own parser, for what is escaped in user and password.
        let access = access.map_or_else(String::new, |access| format!("{access}@"));
        let path = if database.is_empty() { "0" } else { database };
        let probe = Self::single(&format!("redis://{access}localhost/{path}"), tls)?;
        Ok(Self { topology, ..probe })
    }
}

/// An address as it may be shown: a password in it, before an `@` or in the query, is nobody's business.
#[must_use]
pub fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    // The last one: a password may hold an @, or a question mark, that nobody escaped.
    let (access, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    format!("{scheme}{separator}{access}{rest}{query}")
}

/// Only what looks like a scheme is repeated: in an address that is jumbled it may be the password.
fn unknown(scheme: &str) -> String {
    if scheme.chars().all(|c| c.is_ascii_alphabetic() || c == '+') {
        format!("unknown scheme {scheme:?}")
    } else {
        "no scheme".to_owned()
    }
}

/// User and password, hosts, path.
fn split(rest: &str) -> Result<(Option<&str>, &str, &str), String> {
    let (access, rest) = match rest.rsplit_once('@') {
        Some((access, rest)) => (Some(access), rest),
        None => (None, rest),
    };
    let rest = rest.split('?').next().unwrap_or(rest);
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    if hosts.is_empty() {
        return Err("no host".to_owned());
    }
    Ok((access, hosts, path))
}

fn places(hosts: &str, default_port: u16) -> Result<Vec<(String, u16)>, String> {
    hosts
        .split(',')
        .enumerate()
        .map(|(index, host)| {
            // By its place: what stands there may be a password whose `@` is missing.
            let wrong = |what: &str| format!("host {} {what}", index + 1);
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => {
                    let port = port.parse().map_err(|_| wrong("has no port number"))?;
                    (name, port)
                }
                _ => (host, default_port),
            };
            if name.is_empty() {
                return Err(wrong("has no name"));
            }
            Ok((name.trim_matches(['[', ']']).to_owned(), port))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(port: u16) -> Vec<(String, u16)> {
        vec![("a".to_owned(), port), ("b".to_owned(), 7)]
    }

    #[test]
    fn every_kind_of_address_is_understood() {
        let parsed = |url: &str| Address::parse(url).unwrap();
        assert_eq!(
            parsed("redis://h:1").topology,
            Topology::Single(Place::Tcp("h".to_owned(), 1))
        );
        assert_eq!(
            parsed("redis+unix:///run/r.sock").topology,
            Topology::Single(Place::Unix("/run/r.sock".into()))
        );
        let sentinel = parsed("rediss+sentinel://me:p%40ss@a,b:7/mymaster/2");
        assert_eq!(
            sentinel.topology,
            Topology::Sentinel(two(26_379), "mymaster".to_owned())
        );
        assert_eq!((sentinel.tls, sentinel.database), (true, 2));
        assert_eq!(
            (sentinel.username.as_deref(), sentinel.password.as_deref()),
            (Some("me"), Some("p@ss"))
        );
        assert_eq!(parsed("redis+cluster://a,b:7").topology, Topology::Cluster(two(6_379)));
        let v6 = parsed("redis+cluster://[::1]:7001,[::2]").topology;
        assert_eq!(
            v6,
            Topology::Cluster(vec![("::1".to_owned(), 7_001), ("::2".to_owned(), 6_379)])
        );
    }

    #[test]
    fn what_is_shown_holds_no_password() {
        for (url, shown) in [
            ("redis://h:1/2", "redis://h:1/2"),
            ("redis://me:secret@h:1", "redis://…@h:1"),
            ("redis://:se@cret?@h", "redis://…@h"),
            (
                "redis+unix:///run/r.sock?user=me&pass=secret",
                "redis+unix:///run/r.sock?…",
            ),
            ("rediss+sentinel://me:secret@a,b/m", "rediss+sentinel://…@a,b/m"),
            ("me:secret@h", "…@h"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, wrong) in [
            ("localhost:6379", "no scheme"),
            ("http://h", "unknown scheme"),
            ("me:secret@redis://h", "no scheme"),
            ("redis+sentinel://a,b", "no master name"),
            ("redis+sentinel:///m", "no host"),
            ("redis+cluster://a:port", "no port number"),
            ("redis+cluster://a:1,:2", "host 2 has no name"),
            ("redis+sentinel://me:secret/m", "host 1 has no port number"),
            ("redis+cluster://a/3", "database 0 alone"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(wrong), "{url}: {error}");
        }
    }
}

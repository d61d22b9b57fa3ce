//! What a good proxy does to headers.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Without those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
    HTTP2_SETTINGS,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The protocol a request asks to switch to. HTTP/2 is not among them: a caller who wants it begins with it, and one
/// that has it switched on behind a proxy's back speaks to the upstream past the breaker.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let asks = names(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let is_http = protocol.to_str().map_or(true, |text| {
        text.split(',').any(|name| {
            let name = name.trim();
            name.eq_ignore_ascii_case("h2c") || name.len() >= 4 && name.as_bytes()[..4].eq_ignore_ascii_case(b"http")
        })
    });
    (asks && !is_http).then(|| protocol.clone())
}

/// What `Connection` names.
fn names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

/// Removes what concerns one connection only: the standard ones, and those that `Connection` names. `Trailer` stays: it
/// announces what passes.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Comparing the few that are there costs a third of looking for each that there may be.
    let found = headers.keys().filter(|name| HOP_BY_HOP.contains(name));
    let found: Vec<HeaderName> = found.cloned().collect();
    if found.is_empty() {
        return;
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|te| te.to_str().ok())
        .flat_map(|te| te.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    let named: Vec<HeaderName> = names(headers).filter_map(|name| name.parse().ok()).collect();
    if found.contains(&TRANSFER_ENCODING) {
        // Beside a coding it means nothing, and whoever believed it would see another end of the message.
        headers.remove(CONTENT_LENGTH);
    }
    for name in found.into_iter().chain(named) {
        headers.remove(name);
    }
    if trailers {
        // gRPC servers insist on it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Says where a request came from.
pub(crate) fn forward(headers: &mut HeaderMap, peer: &HeaderValue, host: Option<&Authority>) {
    // Before it is `Host` no more; what it asked for, the server has done.
    headers.remove(EXPECT);
    let mut chain = Vec::new();
    for before in headers.get_all(&FORWARDED_FOR) {
        chain.extend_from_slice(before.as_bytes());
        chain.extend_from_slice(b", ");
    }
    let chain = if chain.is_empty() {
        peer.clone()
    } else {
        chain.extend_from_slice(peer.as_bytes());
        HeaderValue::from_maybe_shared(Bytes::from(chain)).unwrap_or_else(|_| peer.clone())
    };
    headers.insert(FORWARDED_FOR, chain);
    if let Some(host) = host
        && !headers.contains_key(&FORWARDED_HOST)
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        headers.insert(FORWARDED_HOST, host);
    }
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_does_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("proxy-authorization", "Basic x"),
            ("x-public", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-public"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn the_caller_is_appended_to_the_whole_chain() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.2"));
        let host = Authority::from_static("inventory:80");
        forward(&mut headers, &HeaderValue::from_static("127.0.0.1"), Some(&host));
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 127.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "inventory:80");
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn no_caller_switches_to_http2_past_the_breaker() {
        for (protocol, passes) in [
            ("websocket", true),
            ("h2c", false),
            ("websocket, H2C", false),
            ("HTTP/2.0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade, HTTP2-Settings"));
            headers.insert(UPGRADE, HeaderValue::from_static(protocol));
            assert_eq!(upgrade(&headers).is_some(), passes, "{protocol}");
        }
    }
}

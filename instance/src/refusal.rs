//! Requests that are wrong in themselves, refused before any breaker hears of them.
//!
//! hyper has already refused what is no HTTP (bad lines, chunks, lengths, folded headers), and resolves
//! `Transfer-Encoding` with `Content-Length` as RFC 9112 allows: the length is dropped and the connection closed after
//! the answer, so that no upstream sees both.

use http::header::{EXPECT, HOST, HeaderName, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What is wrong, for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) text: &'static str,
}

/// Checks a request and finds whom it is for: the target's authority, else `Host`.
///
/// # Errors
/// The answer to give.
pub(crate) fn check<B>(request: &Request<B>) -> Result<Option<Authority>, Refused> {
    let refuse = |status, text| Err(Refused { status, text });
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here\n");
    }
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "the only transfer coding known here is chunked\n",
        );
    }
    if let Some(expected) = headers.get(EXPECT)
        && !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return refuse(
            StatusCode::EXPECTATION_FAILED,
            "the only expectation known here is 100-continue\n",
        );
    }
    if headers.contains_key(HTTP2_SETTINGS) && request.version() >= Version::HTTP_2 {
        return refuse(StatusCode::BAD_REQUEST, "HTTP2-Settings is a header of HTTP/1.1\n");
    }
    let Ok(host) = host(headers) else {
        return refuse(StatusCode::BAD_REQUEST, "bad Host\n");
    };
    let target = request.uri().authority();
    if target.is_some_and(|target| target.as_str().contains('@')) {
        return refuse(StatusCode::BAD_REQUEST, "bad authority\n");
    }
    match (target, host) {
        (Some(target), Some(host)) if request.version() >= Version::HTTP_2 && *target != host => {
            refuse(StatusCode::BAD_REQUEST, "Host contradicts :authority\n")
        }
        // In HTTP/1.1 the target's own authority wins, and Host is ignored.
        (Some(target), _) => Ok(Some(target.clone())),
        (None, None) if request.version() == Version::HTTP_11 => {
            refuse(StatusCode::BAD_REQUEST, "HTTP/1.1 needs a Host\n")
        }
        (None, host) => Ok(host),
    }
}

/// The one `Host` there may be.
fn host(headers: &HeaderMap) -> Result<Option<Authority>, ()> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err(());
    }
    parse(host).map(Some)
}

fn parse(host: &HeaderValue) -> Result<Authority, ()> {
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| ())?;
    let text = authority.as_str();
    let port = text.rsplit_once(':').map(|(_, port)| port);
    let bad_port = port.is_some_and(|port| !port.ends_with(']') && authority.port_u16().is_none());
    if text.contains(['@', ',']) || authority.host().is_empty() || bad_port {
        return Err(());
    }
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn a_host_is_one_name_with_or_without_a_port() {
        for good in ["a", "a.b:80", "127.0.0.1:1", "[::1]", "[::1]:80"] {
            let found = check(&request(&[("host", good)]));
            assert_eq!(
                found.map(|found| found.map(|host| host.to_string())),
                Ok(Some(good.to_owned()))
            );
        }
        for bad in ["", "a b", "a/b", "u@a", "a,b", "a:x", "a:99999", ":80", "a?b", "[::1"] {
            assert!(check(&request(&[("host", bad)])).is_err(), "{bad:?}");
        }
        assert!(check(&request(&[])).is_err(), "no host at all");
        assert!(check(&request(&[("host", "a"), ("host", "a")])).is_err(), "two hosts");
    }

    #[test]
    fn codings_and_expectations_that_nobody_knows_are_refused() {
        for (name, value, status) in [
            ("transfer-encoding", "gzip, chunked", 501),
            ("expect", "the unexpected", 417),
        ] {
            let refused = check(&request(&[("host", "a"), (name, value)]));
            assert_eq!(refused.map_err(|refused| refused.status.as_u16()), Err(status));
        }
    }
}

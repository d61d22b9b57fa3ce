//! What callers may ask of the proxy.

use std::time::Duration;

/// Bounds on callers, and on idle connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls at once; more are rejected.
    pub max_in_flight: usize,
    /// Bytes of a request's line and headers.
    pub max_header_bytes: usize,
    /// Headers in a request.
    pub max_headers: usize,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout: Duration,
    /// A connection without a request is closed after so long.
    pub idle_timeout: Duration,
    /// A request's body may pause for so long before there is a response; gRPC's may pause for ever.
    pub body_timeout: Duration,
    /// An idle connection to an upstream is closed after so long.
    pub upstream_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: 10_000,
            max_header_bytes: 64 * 1_024,
            max_headers: 100,
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            upstream_idle_timeout: Duration::from_secs(4),
        }
    }
}

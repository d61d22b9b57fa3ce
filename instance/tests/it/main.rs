//! The proxy from outside: real listeners, HTTP in and out. One binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod binary;
mod fallbacks;
mod grpc;
mod headers;
mod hostile;
mod http2;
#[path = "../../../breaker/tests/support/mutate.rs"]
mod mutate;
mod probes;
mod random;
mod rejections;
mod routes;
mod streams;
mod support;
mod tls;
mod tunnels;
mod upstreams;
mod verdicts;

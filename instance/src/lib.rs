//! The proxy: guards every call with the shared breaker, for any language.
//!
//! On hyper directly. Rejected: a web framework in front of the traffic, which costs a fifth of the CPU per request.

mod admin;
mod forward;
mod grpc;
mod headers;
mod rejection;
mod routes;
mod server;

pub use routes::{RouteError, RouteSpec, parse_routes};
pub use server::{Instance, Settings};

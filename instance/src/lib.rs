//! The proxy: guards every call with the shared breaker, for any language.
//!
//! A request passes `connection` (whose it is, how long it may take), `server` (is it sound, where does it go), `target`
//! (may it go, what came of it) and `exchange` (to the upstream and back), all on one thread (`workers`). On hyper
//! directly. Rejected: a web framework in front of the traffic, which costs a fifth of the CPU per request.

mod activity;
mod admin;
mod answers;
mod body;
mod call;
mod connect;
mod connection;
mod drain;
mod exchange;
mod fallback;
mod grpc;
mod headers;
mod histogram;
mod limits;
mod link;
mod metrics;
mod pool;
mod refusal;
mod rejection;
mod reload;
mod routes;
mod server;
mod store_watch;
mod target;
mod tunnel;
mod upload;
mod workers;

pub use limits::Limits;
pub use routes::{RouteError, RouteSpec, full_id, parse_routes};
pub use server::{Instance, Settings, Starting};
pub use store_watch::{StoreMeasures, Watched};

//! The unreliable service: the dependency that circuit breakers are tried against.
//!
//! Any path answers by the current [`FaultProfile`]: a share of requests fails, hangs or has its connection reset, the
//! others succeed, all after a latency. The profile is settable while it runs, through a [`Handle`] or over HTTP:
//!
//! | request | effect |
//! |---|---|
//! | `GET /_faults` | the current profile |
//! | `PUT /_faults` | replaces it; absent fields are 0 (`errorStatus` 500) |
//! | `PATCH /_faults` | replaces the fields given |
//! | `GET /_stats` | what was answered since the last reset ([`Stats`]) |
//! | `DELETE /_stats` | starts counting anew |
//!
//! Speaks HTTP/1.1 and h2c (prior knowledge) on one port. A request of content type `application/grpc` gets gRPC
//! manners: HTTP 200, and `grpc-status` 0 or 14 (UNAVAILABLE) in the trailers.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use upstream::{FaultProfile, Upstream};
//!
//! let upstream = Upstream::bind("127.0.0.1:0", FaultProfile::default()).await?;
//! let handle = upstream.handle();
//! println!("listening on {}", upstream.local_addr());
//! let server = tokio::spawn(upstream.run(std::future::pending()));
//! handle.set_faults(FaultProfile { error_percent: 100, ..FaultProfile::HEALTHY }).expect("within its ranges");
//! # server.await.expect("the server does not panic");
//! # Ok(())
//! # }
//! ```

mod connection;
mod faults;
mod handle;
mod server;
mod service;
mod stats;

pub use faults::{FaultProfile, InvalidProfile, LATENCY_MS_MAX};
pub use handle::Handle;
pub use server::{DRAIN_LIMIT, Upstream};
pub use stats::Stats;

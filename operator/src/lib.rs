//! The operator: `CircuitBreaker` documents into the store, the store's state back.
//!
//! The documents come from Kubernetes ([`cluster`]) or from files ([`file_mode`]). What to write into the store
//! (`plan`) and what to report (`status`) is one rule for both.

mod acl;
mod actions;
#[cfg(feature = "kubernetes")]
pub mod cluster;
mod conditions;
pub mod eviction;
pub mod evidence;
mod explain;
pub mod file_mode;
mod gauges;
mod health;
mod http;
mod metrics;
mod plan;
mod programmer;
mod source;
mod status;

pub use acl::acl;
pub use explain::explain;
pub use source::{FileError, Reading, read};

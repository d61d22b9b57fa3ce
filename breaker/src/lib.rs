//! Tiebar: one circuit breaker per dependency, shared by every replica of every caller.
//!
//! `PROTOCOL.md` beside this crate describes the stored state and the decisions taken on it.

#[cfg(feature = "cli")]
pub mod cli;
pub mod duration;
pub mod guard;
pub mod id;
#[cfg(feature = "tower")]
pub mod layer;
pub mod machine;
pub mod memory;
pub mod policy;
#[cfg(feature = "redis")]
pub mod redis;
pub mod state;
pub mod store;

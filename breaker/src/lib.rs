//! Tiebar: one circuit breaker per dependency, shared by every replica of every caller.
//!
//! `PROTOCOL.md` beside this crate describes the stored state and the decisions taken on it.

pub mod id;

//! The operator: `CircuitBreaker` documents into the store, the store's state back.
//!
//! Today from files. Kubernetes will be another source of the same documents.

mod actions;
mod conditions;
mod explain;
pub mod file_mode;
mod http;
mod plan;
mod programmer;
mod source;
mod status;

pub use explain::explain;
pub use source::{FileError, Reading, read};

//! The `CircuitBreaker` resource: its types, its defaults, what is valid, and the rules made from it.
#![cfg_attr(
    not(feature = "kubernetes"),
    allow(
        dead_code,
        unused_imports,
        reason = "the schema's half of each rule is unused without the schema"
    )
)]

mod bounds;
mod constraints;
mod document;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod rules;
#[cfg(feature = "kubernetes")]
mod schema;
mod spec;
pub mod status;
mod stored;
#[cfg(feature = "testing")]
pub mod testing;
mod validate;
mod warnings;

pub use document::{Document, DocumentError, parse_documents};
#[cfg(feature = "kubernetes")]
pub use kubernetes::{crd, yaml};
pub use rules::{Codes, FailureConditions};
#[cfg(feature = "kubernetes")]
pub use spec::CircuitBreaker;
pub use spec::{
    Backoff, Call, CircuitBreakerSpec, Conditions, ErrorKind, Fallback, FallbackType, ForcedState, HalfOpen, Mode,
    Open, OverrideSpec, Recovery, Rejection, Service, SlidingWindow, Static, StorePolicy, Trip, WindowType,
};
pub use status::CircuitBreakerStatus;
pub use stored::{Notes, Stored};
pub use validate::{Problem, Resolved, resolve};

//! The `CircuitBreaker` resource: its types, its defaults, what is valid, and the rules made from it.

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

//! The `CircuitBreaker` resource: its types, its defaults, what is valid, and the rules made from it.

mod document;
mod rules;
mod spec;
mod stored;
mod validate;

pub use document::{Document, DocumentError, parse_documents};
pub use rules::{Codes, FailureConditions};
pub use spec::{
    Backoff, Call, CircuitBreakerSpec, Conditions, ErrorKind, Fallback, FallbackType, ForcedState, HalfOpen, Mode,
    Open, OverrideSpec, Recovery, Rejection, Service, SlidingWindow, Static, StorePolicy, Trip, WindowType,
};
pub use stored::{Notes, Stored};
pub use validate::{Problem, Resolved, resolve};

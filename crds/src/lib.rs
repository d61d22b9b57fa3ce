//! The `CircuitBreaker` resource.

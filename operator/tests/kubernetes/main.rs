//! The operator as a process, as its service account, on a real API server and a real Redis. Most tests share an API
//! server and keep apart by namespace, each with a Redis and operators of its own.

mod claims;
mod deletion;
mod faults;
mod leaders;
mod life;
mod rights;
mod slow;
mod support;
mod writes;

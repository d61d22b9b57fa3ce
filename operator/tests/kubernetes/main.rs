//! The operator as a process, on a real API server and a real Redis.

mod life;
mod support;

//! What the black-box tests stand on: the real binaries, a real redis-server, and waiting with a bound.
//!
//! Everything listens on port 0 or a socket file in a folder of its own, and ends with the value that stands for it. The
//! tests see what a user sees: HTTP, logs, exit codes, keys. Rejected: linking the parts into the test, which is what
//! `tiebar-local` does and which hides whatever goes wrong between processes.

mod binaries;
mod ensemble;
mod fault;
mod fault_link;
mod fleet;
mod http_client;
mod process;
mod redis_server;
mod terminal;
mod wait;

pub use binaries::binary;
pub use ensemble::{Dashboard, Ensemble, Seen, Settings, Traffic};
pub use fault::{Fault, Reach};
pub use fault_link::{FaultLink, Target, Trouble};
pub use fleet::{Fleet, FleetBuilder, Instance, Operator, Upstream, WALK_THROUGH, document};
pub use http_client::{Answer, Metrics, get, send, try_get};
pub use process::{Ended, Process, Signal, run};
pub use redis_server::RedisServer;
pub use terminal::Terminal;
pub use wait::{PATIENCE, eventually, holds};

//! `make bench`: ours beside others', interleaved in one run, as ratios. Prints a table and writes `target/bench.json`.
//!
//! Rejected: criterion, which measures one thing after the other, so that a machine that slows down in between decides
//! the ratio. Here contenders take turns and the median turn counts.
#![allow(missing_docs, reason = "a program")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod in_process;
mod measure;
mod propagation;
mod report;
mod store;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(support::RedisServer::start());
    let mut rows = in_process::rows(&runtime, &server);
    rows.extend(runtime.block_on(store::rows(&server)));
    rows.extend(runtime.block_on(propagation::rows(&server)));
    report::finish(&rows);
}

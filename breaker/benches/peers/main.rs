//! `make bench`: ours beside others', interleaved in one run, as ratios. Prints a table and writes `target/bench.json`.
//! With parts of groups' names as arguments (`cargo bench --bench peers -- process prop`) those groups alone, and no file.
//!
//! Rejected: criterion, which measures one thing after the other, so that a machine that slows down in between decides
//! the ratio. Here contenders take turns and the median turn counts.
#![allow(missing_docs, reason = "a program")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod footprint;
mod growth;
mod in_process;
mod measure;
mod programs;
mod propagation;
mod proxy;
mod report;
mod shared;
mod store;
mod witness;

fn main() {
    tracing::subscriber::set_global_default(witness::Witness).expect("the first");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |group: &str| wanted.is_empty() || wanted.iter().any(|part| group.contains(part.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(support::RedisServer::start());
    let mut rows = Vec::new();
    let begin = |group: &str| {
        let wanted = wants(group);
        if wanted {
            eprintln!("{group} …");
        }
        wanted
    };
    // What is shared is compared with what the two groups before it find.
    let (in_process, propagation, shared) = (begin("in-process"), begin("propagation"), begin("shared"));
    let closed = (in_process || shared).then(|| {
        let (found, closed) = in_process::rows(&runtime, &server);
        rows.extend(found);
        closed
    });
    let trips = (propagation || shared).then(|| {
        let trips = runtime.block_on(propagation::measure(&server));
        rows.extend(propagation::rows(&trips));
        trips
    });
    if let (true, Some(closed), Some(trips)) = (shared, closed, &trips) {
        let peers = shared::peers(&server);
        rows.extend(in_process::beside_gobreaker(closed, &peers));
        rows.extend(runtime.block_on(shared::rows(&server, closed, trips, &peers)));
    }
    if begin("store") {
        rows.extend(runtime.block_on(store::rows(&server)));
    }
    if begin("growth") {
        rows.extend(runtime.block_on(growth::real(&server)));
        rows.extend(growth::simulated());
    }
    if begin("proxy") {
        rows.extend(runtime.block_on(proxy::rows(&server)));
    }
    if begin("footprint") {
        rows.extend(footprint::rows(&server));
    }
    report::finish(rows, wanted.is_empty());
}

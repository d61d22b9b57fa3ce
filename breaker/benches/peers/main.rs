//! `make bench`: ours beside others', interleaved in one run, as ratios. Prints a table and writes `target/bench.json`.
//! With a group's name as argument (`cargo bench --bench peers -- proxy`) that group alone, and no file.
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
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wants = |group: &str| wanted.as_deref().is_none_or(|wanted| wanted == group);
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
    let (in_process, shared) = (begin("in-process"), begin("shared"));
    if in_process || shared {
        let (found, closed) = in_process::rows(&runtime, &server);
        rows.extend(found);
        let trips = runtime.block_on(propagation::measure(&server));
        rows.extend(propagation::rows(&trips));
        if shared {
            let peers = shared::peers(&server);
            rows.extend(in_process::beside_gobreaker(closed, &peers));
            rows.extend(runtime.block_on(shared::rows(&server, closed, &trips, &peers)));
        }
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
    report::finish(rows, wanted.is_none());
}

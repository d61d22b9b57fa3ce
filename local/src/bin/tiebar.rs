//! `tiebar`: every program in one file, for the image. Which one runs is decided by the name it is called by; the image has
//! a link for each.
//!
//! The programs share most of their code, so that one file is a third of the six and is linked once. Rejected:
//! subcommands, which every page of documentation would have to tell twice; moving each `main` into its library for this
//! alone.

#[path = "../../../instance/src/main.rs"]
mod instance_program;
#[path = "../../../loadgen/src/main.rs"]
mod loadgen_program;
#[path = "../main.rs"]
mod local_program;
#[path = "../../../operator/src/main.rs"]
mod operator_program;
#[path = "../../../ui/src/main.rs"]
mod ui_program;
#[path = "../../../upstream/src/main.rs"]
mod upstream_program;

use mimalloc::MiMalloc;
use std::path::Path;
use std::process::ExitCode;

/// The image is linked with musl, whose allocator has one lock for all threads and costs a sixth of the proxy's CPU.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

type Program = (&'static str, fn() -> ExitCode);

const PROGRAMS: [Program; 6] = [
    ("tiebar-instance", instance_program::main),
    ("tiebar-loadgen", loadgen_program::main),
    ("tiebar-local", local_program::main),
    ("tiebar-operator", operator_program::main),
    ("tiebar-ui", ui_program::main),
    ("tiebar-upstream", upstream_program::main),
];

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    if let Some((_, program)) = PROGRAMS.iter().find(|(program, _)| name == *program) {
        return program();
    }
    let names: Vec<&str> = PROGRAMS.iter().map(|(program, _)| *program).collect();
    eprintln!(
        "error: called as {}; wanted one of {}",
        name.display(),
        names.join(", ")
    );
    ExitCode::from(2)
}

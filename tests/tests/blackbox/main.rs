//! Black-box tests: one binary, so that the programs are built once and linked once.

mod counting;
mod faults;
mod flags;
mod isolation;
mod loadgen;
mod local;
mod loss;
mod operator_files;
mod outage;
mod probes;
mod security;
mod stampede;
mod startup;
mod trip;

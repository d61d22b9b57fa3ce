//! Black-box tests: one binary, so that the programs are built once and linked once.

mod trip;

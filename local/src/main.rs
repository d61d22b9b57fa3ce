//! Tiebar.
fn main() {}

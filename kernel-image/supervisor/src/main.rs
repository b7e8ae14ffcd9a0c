//! The `kernelbox-supervisor` binary.
fn main() {}

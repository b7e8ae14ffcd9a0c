//! The `kernelbox` binary.
fn main() {}

//! A path in the workspace; what must hold is said where it is called.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| kernelbox_supervisor::fuzzing::path(input));

//! An answer that may be calls of tools; what must hold is said where it is called.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| kernelbox_gateway::fuzzing::calls(input));

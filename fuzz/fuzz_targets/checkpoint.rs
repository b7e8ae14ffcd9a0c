//! A checkpoint to restore; what must hold is said where it is called.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kernelbox_supervisor::fuzzing::checkpoint(input));

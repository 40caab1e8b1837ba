//! Fuzzes `refit_proto::fuzzing::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refit_proto::fuzzing::wire(data));

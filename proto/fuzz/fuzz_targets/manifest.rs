//! Fuzzes `refit_proto::fuzzing::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refit_proto::fuzzing::manifest(data));

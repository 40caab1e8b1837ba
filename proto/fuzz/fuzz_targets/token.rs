//! Fuzzes `refit_proto::fuzzing::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refit_proto::fuzzing::token(data));

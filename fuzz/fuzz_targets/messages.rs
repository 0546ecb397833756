//! `cargo +nightly fuzz run messages --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::messages(data));

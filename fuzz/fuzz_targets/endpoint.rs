//! `cargo +nightly fuzz run endpoint --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::endpoint(data));

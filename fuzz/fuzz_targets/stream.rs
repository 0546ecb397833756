//! `cargo +nightly fuzz run stream --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::stream(data));

//! `cargo +nightly fuzz run frames --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::frames(data));

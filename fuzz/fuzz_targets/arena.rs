//! `cargo +nightly fuzz run arena --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::arena(data));

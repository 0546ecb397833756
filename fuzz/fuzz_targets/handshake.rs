//! `cargo +nightly fuzz run handshake --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::handshake(data));

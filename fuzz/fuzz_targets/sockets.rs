//! `cargo +nightly fuzz run sockets --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::sockets(data));

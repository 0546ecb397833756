//! `cargo +nightly fuzz run lane --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::lane(data));

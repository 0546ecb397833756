//! `cargo +nightly fuzz run slot --features fuzzing`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmrpc_fuzz::slot(data));

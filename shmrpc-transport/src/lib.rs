//! How shmrpc moves messages: lanes of shared-memory rings, arenas for what does not fit a slot, futexes for whoever
//! sleeps, and a Unix socket where two processes meet.
//!
//! This crate knows nothing of services and methods; the crate `shmrpc` does. It is where all unsafe code lives.
//! Modules are declared in the order of a call's way, and a module uses only those declared after it.

#[cfg(not(loom))]
pub mod rendezvous;
#[cfg(not(loom))]
pub mod callers;
// unsafe: hands out a value behind a flag.
pub mod exclusive;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
pub mod connection;
#[cfg(not(loom))]
pub mod stream;
#[cfg(not(loom))]
pub mod descriptors;
pub mod life;
#[cfg(not(loom))]
pub mod places;
pub mod shm;
mod ladder;
// unsafe: hands out typed references to bytes that were validated; encodes into memory that is lent.
#[cfg(not(loom))]
pub mod message;
// unsafe: system calls.
pub mod sys;
#[cfg(not(loom))]
pub mod tls;
#[cfg(not(loom))]
pub mod peers;
pub mod slot;
// unsafe: a prefetch.
pub mod sync;

#[cfg(not(target_endian = "little"))]
compile_error!("shmrpc reads archives in place as native numbers and needs a little-endian machine");
#[cfg(not(target_os = "linux"))]
compile_error!("shmrpc needs Linux: futexes, memfds and seals");

#[cfg(not(loom))]
pub use rkyv;

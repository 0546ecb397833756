//! The shared-memory transport, in the order of a call's way.

#[cfg(not(loom))]
pub mod rendezvous;
#[cfg(not(loom))]
pub mod callers;
#[cfg(not(loom))]
// unsafe: hands out a value behind a flag.
mod exclusive;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
pub mod connection;
pub mod producer;
pub mod consumer;
mod ladder;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
mod ledger;
#[cfg(not(loom))]
pub mod memory;
pub mod arena;

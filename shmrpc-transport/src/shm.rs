//! Rings, segments and arenas in shared memory.

pub mod producer;
pub mod consumer;
#[cfg(not(loom))]
pub mod segment;
pub mod release;
#[cfg(not(loom))]
pub(crate) mod ledger;
#[cfg(not(loom))]
pub mod memory;
pub mod arena;

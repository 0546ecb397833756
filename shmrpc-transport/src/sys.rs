//! The system's edge: futexes, sockets with descriptors, the watcher thread.

pub mod futex;
pub(crate) mod membarrier;
#[cfg(not(loom))]
pub(crate) mod watcher;
#[cfg(not(loom))]
pub(crate) mod socket;
// unsafe: takes a descriptor out of what is being dropped; asks a socket what waits in it.
#[cfg(not(loom))]
pub(crate) mod beside;
#[cfg(not(loom))]
pub(crate) mod closing;
#[cfg(not(loom))]
pub(crate) mod inside;
#[cfg(not(loom))]
pub(crate) mod process;
#[cfg(not(loom))]
pub(crate) mod lease;
#[cfg(not(loom))]
pub mod fork;
#[cfg(not(loom))]
pub mod shortage;
#[cfg(not(loom))]
pub mod thread;

//! What a handler may know about a call, and a client about its connection.

use std::fmt;
use std::time::Duration;

use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::shm::memory::Memory;

/// What a handler may know about the call it serves. A parameter `ctx: &Context` is not sent.
#[derive(Debug)]
pub struct Context {
    peer: PeerInfo,
    /// That of the call being served, as it travels.
    pub(crate) timeout_ms: u32,
}

impl Context {
    /// Calls of `peer`.
    pub(crate) fn new(peer: PeerInfo) -> Self {
        Self { peer, timeout_ms: 0 }
    }

    /// Who calls.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// How long the caller said that it would wait, counted from when it sent the call; `None` means for ever.
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout_ms != 0).then(|| Duration::from_millis(self.timeout_ms.into()))
    }
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Rings in shared memory.
    Shm,
}

/// Which transport a client uses, and why.
#[derive(Debug, Clone)]
pub struct TransportInfo {
    pub(crate) transport: Transport,
    pub(crate) endpoint: String,
    pub(crate) reason: String,
    pub(crate) reads_in_place: bool,
    pub(crate) memory: Memory,
    pub(crate) peer_memory: Memory,
    pub(crate) peer: PeerInfo,
}

impl TransportInfo {
    /// How messages travel.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The endpoint that was connected to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Why this transport, in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether large results are read in the server's memory, because the server is in our trust set.
    pub fn reads_in_place(&self) -> bool {
        self.reads_in_place
    }

    /// What this client's messages lie in.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// What the server's messages lie in.
    pub fn peer_memory(&self) -> Memory {
        self.peer_memory
    }

    /// The server's process.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }
}

impl fmt::Display for TransportInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how =
            if self.reads_in_place { "large results read in place" } else { "large results copied once" };
        write!(
            out,
            "shared memory ({} here, {} there) to process {} at {}, {how}: {}",
            self.memory,
            self.peer_memory,
            self.peer.pid(),
            self.endpoint,
            self.reason
        )
    }
}

//! What a sweep varies: what the two sides do, and what their messages lie in.

use std::path::Path;

use shmrpc::prelude::*;
use shmrpc::{ClientBuilder, ServerBuilder, Transport};

/// What is done while one side dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// Calls of every kind on two lanes; then the client goes, and the idle server shuts down.
    Calls,
    /// Both arenas grow and shrink; the server shuts down with calls in flight and an idle lane.
    Drain,
    /// Blobs and descriptors go both ways, and blobs are kept, one of them beyond its client's end.
    Handed,
}

/// Transport, trust and memory, alike on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Large messages are read in place, in a memfd.
    InPlace,
    /// Nobody is trusted, so all messages are copied.
    Copied,
    /// Large messages are read in place, in POSIX shared memory.
    PosixShm,
    /// Lanes are Unix sockets; large messages are read in place, in a memfd.
    Frames,
}

/// What a sweep goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) story: Story,
    pub(crate) ground: Ground,
}

impl Plan {
    /// The plain one is the first.
    pub(crate) const ALL: [Self; 12] = [
        Self { story: Story::Calls, ground: Ground::InPlace },
        Self { story: Story::Drain, ground: Ground::InPlace },
        Self { story: Story::Handed, ground: Ground::InPlace },
        Self { story: Story::Calls, ground: Ground::Copied },
        Self { story: Story::Drain, ground: Ground::Copied },
        Self { story: Story::Handed, ground: Ground::Copied },
        Self { story: Story::Calls, ground: Ground::PosixShm },
        Self { story: Story::Drain, ground: Ground::PosixShm },
        Self { story: Story::Handed, ground: Ground::PosixShm },
        Self { story: Story::Calls, ground: Ground::Frames },
        Self { story: Story::Drain, ground: Ground::Frames },
        Self { story: Story::Handed, ground: Ground::Frames },
    ];

    /// Where it stands in [`Plan::ALL`]: what a child is told.
    pub(crate) fn number(self) -> usize {
        Self::ALL.iter().position(|plan| *plan == self).unwrap()
    }
}

impl Ground {
    pub(crate) const ALL: [Self; 4] = [Self::InPlace, Self::Copied, Self::PosixShm, Self::Frames];

    fn trust(self) -> Peers {
        if self == Self::Copied { Peers::Nobody } else { Peers::SameUser }
    }

    pub(crate) fn transport(self) -> Transport {
        if self == Self::Frames { Transport::Uds } else { Transport::Shm }
    }

    /// Where the server of a test listens that has this place.
    pub(crate) fn endpoint(self, place: &Path) -> String {
        let scheme = if self == Self::Frames { "uds" } else { "shm" };
        format!("{scheme}:{}", place.join("s").display())
    }

    fn memory(self) -> Memory {
        if self == Self::PosixShm { Memory::PosixShm } else { Memory::Memfd }
    }

    pub(crate) fn client<C: Client>(self, client: ClientBuilder<C>) -> ClientBuilder<C> {
        client.trust(self.trust()).memory(self.memory())
    }

    pub(crate) fn server(self, server: ServerBuilder) -> ServerBuilder {
        server.trust(self.trust()).memory(self.memory())
    }
}

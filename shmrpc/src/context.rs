//! What a handler may know about a call, and a client about its connection.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shmrpc_transport::connection::{ArchivedOnWire, BadBlob, Blob, BlobMut, Connection};
use shmrpc_transport::descriptors::{ArchivedNth, Descriptors};
use shmrpc_transport::message::{EncodeError, Number};
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::sys::futex::Until;

use crate::arg::Rejected;
use crate::descriptor::not_among;

/// What a handler may know about the call it serves. A parameter `ctx: &Context` is not sent.
#[derive(Debug)]
pub struct Context {
    connection: Arc<Connection>,
    /// That of the call being served, as it travels.
    pub(crate) timeout_ms: u32,
    /// Those that came with the call and that its handler does not have yet.
    pub(crate) descriptors: Mutex<Descriptors>,
}

impl Context {
    /// Calls over `connection`.
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::clone(connection), timeout_ms: 0, descriptors: Mutex::default() }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Who calls: a process of this host, or an address of a network.
    pub fn peer(&self) -> &PeerInfo {
        self.connection.peer()
    }

    /// Memory for a result of `length` numbers: filled in place, and where memory is shared with the caller not copied on
    /// its way. What it holds at first is unspecified. Where no such memory can be had now, it is memory of the heap, and
    /// copied.
    ///
    /// # Panics
    /// If the caller takes no message as large, whoever said how large it is to be, or if the heap has no room for it: the call
    /// fails with [`CallError::Panicked`](crate::CallError::Panicked), and says why.
    pub fn blob<T: Number + Default>(&self, length: usize) -> BlobMut<T> {
        let now = &mut Until::after(Duration::ZERO);
        let blob = self.connection.blob(length, now).or_else(|error| match error {
            EncodeError::TooLarge { .. } => Err(error),
            _ => BlobMut::on_the_heap(length),
        });
        blob.unwrap_or_else(|error| panic!("{error}"))
    }

    /// How long the caller said that it would wait, counted from when it sent the call; `None` means for ever.
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout_ms != 0).then(|| Duration::from_millis(self.timeout_ms.into()))
    }
}

/// A blob, where it arrived.
///
/// # Errors
/// [`Rejected`] if it cannot be had.
pub fn blob<T: Number>(archived: &ArchivedOnWire, context: &Context) -> Result<Blob<T>, Rejected> {
    context.connection().receive_blob(archived).map_err(|bad| match bad {
        BadBlob::NoRoom(_) => Rejected::Room(bad.to_string()),
        BadBlob::Block(_) | BadBlob::Length { .. } => Rejected::Type(bad.to_string()),
    })
}

/// A descriptor that came with the call.
///
/// # Errors
/// [`Rejected`] if it did not, or was taken already.
pub fn descriptor(at: &ArchivedNth, context: &Context) -> Result<OwnedFd, Rejected> {
    let mut came = context.descriptors.lock();
    came.take(at).ok_or_else(|| Rejected::Type(not_among(at, &came)))
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Rings in shared memory.
    Shm,
    /// Unix sockets. Large messages lie in shared memory, where it can be had.
    Uds,
    /// TCP connections.
    Tcp,
    /// TCP connections under TLS.
    Tls,
    /// Pipes inside this process.
    Inproc,
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Shm => "shared memory",
            Self::Uds => "Unix sockets",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Inproc => "pipes inside the process",
        })
    }
}

/// Which transport a client uses, and why.
#[derive(Debug, Clone)]
pub struct TransportInfo {
    pub(crate) transport: Transport,
    pub(crate) endpoint: String,
    pub(crate) reason: String,
    pub(crate) reads_in_place: bool,
    pub(crate) memory: Option<[Memory; 2]>,
    pub(crate) peer: PeerInfo,
    pub(crate) times_connected: u64,
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

    /// What this client's large messages lie in; `None` if no memory is shared.
    pub fn memory(&self) -> Option<Memory> {
        self.memory.map(|[own, _]| own)
    }

    /// What the server's large messages lie in; `None` if no memory is shared.
    pub fn peer_memory(&self) -> Option<Memory> {
        self.memory.map(|[_, peer]| peer)
    }

    /// Who serves: a process of this host, or an address of a network.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// How often the client has connected, this time included: 1, as long as its first connection lives.
    pub fn times_connected(&self) -> u64 {
        self.times_connected
    }
}

impl fmt::Display for TransportInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.transport)?;
        if let Some([here, there]) = self.memory {
            write!(out, " ({here} here, {there} there)")?;
        }
        write!(out, " to {} at {}", self.peer, self.endpoint)?;
        let how = if self.reads_in_place { "read in place" } else { "copied once" };
        write!(out, ", large results {how}: {}", self.reason)?;
        match self.times_connected {
            1 => Ok(()),
            times => write!(out, "; connected {times} times"),
        }
    }
}

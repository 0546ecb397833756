//! Remote procedure calls between processes, at the speed of the cache line.
//!
//! A trait becomes a client and a server. Arguments are written with rkyv straight into shared memory that the other
//! process reads; futexes wake whoever sleeps.
//!
//! ```
//! use shmrpc::prelude::*;
//!
//! #[derive(Debug, Clone, PartialEq)]
//! #[shmrpc::message]
//! pub struct Entry {
//!     pub key: String,
//!     pub value: Vec<u8>,
//! }
//!
//! #[shmrpc::service]
//! pub trait Kv {
//!     fn put(&self, key: &str, value: &[u8]) -> u64;
//!     fn last(&self) -> Option<Entry>;
//! }
//!
//! #[derive(Default)]
//! struct Store(std::sync::Mutex<Vec<Entry>>);
//!
//! impl Kv for Store {
//!     fn put(&self, key: &str, value: &[u8]) -> u64 {
//!         let mut entries = self.0.lock().unwrap();
//!         entries.push(Entry { key: key.to_owned(), value: value.to_owned() });
//!         entries.len() as u64
//!     }
//!     fn last(&self) -> Option<Entry> {
//!         self.0.lock().unwrap().last().cloned()
//!     }
//! }
//!
//! # let folder = std::env::temp_dir().join(format!("shmrpc-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let endpoint = format!("shm:{}/kv", folder.display());
//! // In one process ...
//! let server = shmrpc::Server::builder()
//!     .service(KvServer::new(Store::default()))
//!     .listen(&endpoint)
//!     .start()?;
//!
//! // ... and in another.
//! let kv = KvClient::connect(&endpoint)?;
//! assert_eq!(kv.put("a", b"1")?, 1);
//! assert_eq!(kv.last()?.unwrap().key, "a");
//! # drop(server);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The way of a call
//!
//! client stub → encode into the ring → publish → wake if asleep → copy or view → validate → dispatch → handler →
//! encode the reply into the other ring → publish → wake → validate → return.
//!
//! # Trust
//!
//! A peer in the `trust` set (by default: the same user) is inside our memory-safety boundary for one thing only: the
//! bytes of a large message (above 4 KiB) while it is read in place. Everything else is defended against everyone. A peer
//! that chose [`Memory::PosixShm`] for its side has to be trusted, because it can end our process by cutting it short.
//!
//! # Descriptors
//!
//! A parameter `OwnedFd` is moved to the other process, and so is a result `OwnedFd` or `Result<OwnedFd, E>`; the caller may
//! pass whatever owns one. They go over `shm:`, `uds:` and `inproc:`. Over a network such a call is refused before anything is
//! sent ([`CallError::NotEncoded`]); a result is lost ([`CallError::BadReply`]).
//!
//! ```no_run
//! use std::fs::File;
//! use shmrpc::prelude::*;
//!
//! #[shmrpc::service]
//! pub trait Files {
//!     fn open(&self, path: &str) -> Result<OwnedFd, String>;
//!     fn append(&self, file: OwnedFd, text: &str) -> u64;
//! }
//!
//! let files = FilesClient::connect("shm:files")?;
//! let file = File::from(files.open("notes")?);
//! files.append(file.try_clone()?, "seen")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It is closed by its sender once the call was sent, and also if it was not: clone what is to stay. What arrived and was not
//! taken by a handler or a caller is closed, too. What a peer sends is what it likes: reading it may block, and a file that is
//! mapped may be cut short by whoever else has it. Descriptors of one client that wait for their handlers are a sixteenth of
//! what the server may have open at most; calls with more of them fail with [`CallError::Overloaded`].

#![forbid(unsafe_code)]

mod client;
mod server;
mod channel;
mod link;
mod dial;
mod greeting;
mod dispatch;
mod context;
mod error;
mod endpoint;
mod blob;
mod descriptor;
#[doc(hidden)]
pub mod arg;
mod elements;
mod schema;

#[doc(hidden)]
pub mod private;

pub use client::{Client, ClientBuilder};
pub use context::{Context, Transport, TransportInfo};
pub use dispatch::Service;
pub use endpoint::{Endpoint, EndpointError};
pub use error::{CallError, ConnectError, Outcome, ServeError};
pub use schema::{Describe, Schema};
pub use server::{BoundServer, Server, ServerBuilder, ServerHandle, serve};
pub use shmrpc_macros::{message, service};
pub use shmrpc_transport::connection::{Blob, BlobMut};
pub use shmrpc_transport::message::{Number, View};
pub use shmrpc_transport::peers::{PeerCredentials, PeerInfo, Peers};
pub use shmrpc_transport::rendezvous::net::HostPort;
pub use shmrpc_transport::shm::memory::Memory;
pub use shmrpc_transport::tls::TlsError;
#[cfg(feature = "tls")]
pub use shmrpc_transport::tls::{Pem, Tls};

/// A value as it lies in a message: what a handler sees of a `&Archived<T>` parameter, and a [`View`] derefs to.
pub type Archived<T> = shmrpc_transport::rkyv::Archived<T>;

/// A type that can be a parameter or a result of a method: plain data, or a type with `#[shmrpc::message]`.
///
/// `#[shmrpc::message]` implements it, as it is for the types of the standard library that can travel; nobody
/// implements it by hand. Not for whatever has a [`Schema`] and rkyv's traits: rustc would then name those where a
/// type is no message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a shmrpc message",
    label = "cannot be sent to another process",
    note = "if it is your own struct or enum, add `#[shmrpc::message]` to it",
    note = "in place of any other type, send plain data: `u64` for `usize`, `String` for a path, `Duration` for an `Instant` \
        or a `SystemTime`, an enum of your own for an error; a file or a socket goes as an `OwnedFd`, which is a parameter or a \
        result of its own"
)]
pub trait Message:
    Schema + private::Declared + shmrpc_transport::rkyv::Archive + for<'a> private::Sent<'a>
{
}

/// Everything that a service, its server and its clients need.
pub mod prelude {
    pub use std::os::fd::OwnedFd;

    pub use crate::{
        Archived, Blob, BlobMut, CallError, Client, ConnectError, Context, Memory, Outcome, Peers, Server,
        ServerHandle, View,
    };
}

//! How two processes meet: a Unix socket, a hello each way, and the memory that they pass.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connection::{self, Connection, Events, Limits, Parts};
use super::segment::{BASE_LEN, MAX_LANES, Segment, SegmentError};
use crate::peers::{PeerInfo, Peers};
use crate::slot::{Header, Kind};
use crate::sys::futex::Until;
use crate::sys::process;
use crate::sys::socket::{self, Frame, FrameReader, Socket};
use crate::sys::watcher::{Source, Token, Watcher};

pub use bound::Bound;
pub use hello::{Hello, HelloError, VERSION};
pub use listener::{Host, Listener};

mod listener;
mod bound;
mod hello;

/// The largest message that relative pointers of 32 bits can span, with room to spare.
const LARGEST: u64 = (1 << 31) - (1 << 16);

/// Who may talk, whose large messages are read in place, and how large messages may be.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Users that may be at the other end.
    pub allow: Peers,
    /// Users whose large messages are read in place. Whoever is in here is inside our memory-safety boundary while
    /// such a message is read.
    pub trust: Peers,
    /// Bytes of a message that we take.
    pub max_message: u64,
    /// Lanes that a connection may have (server).
    pub lanes: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { allow: Peers::SameUser, trust: Peers::SameUser, max_message: 64 << 20, lanes: MAX_LANES }
    }
}

/// A peer could not be reached, or would not talk.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// Nobody listens there.
    #[error("nobody listens at {path}: {error}; is the server running, and as the same user?")]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The peer is not in our `allow` set.
    #[error("the peer at {path} is user {uid}, and only {allow} may talk; widen `allow` if that is wanted")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// The peer's user.
        uid: u32,
        /// Who may talk.
        allow: String,
    },
    /// The peer said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The hello was no hello.
    #[error("the peer's hello is not usable: {0}")]
    Hello(#[from] HelloError),
    /// Memory could not be shared.
    #[error("shared memory cannot be set up: {0}")]
    Segment(#[from] SegmentError),
    /// The peer did not answer in time.
    #[error("the server did not answer within {0:?}")]
    TimedOut(Duration),
    /// The system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The connection ended during the hello.
    #[error("the connection ended during the hello: {0}")]
    Ended(String),
}

/// What a caller of [`connect`] gets.
#[derive(Debug)]
pub struct Met {
    /// The connection, watched from now on.
    pub connection: Arc<Connection>,
    /// What the server's application said in its hello.
    pub application: Vec<u8>,
}

/// Connects to the server that listens at `path`.
///
/// # Errors
/// [`MeetError`] says what is wrong and where.
pub fn connect(
    path: &Path,
    policy: &Policy,
    application: &[u8],
    timeout: Duration,
    events: Box<dyn Events>,
) -> Result<Met, MeetError> {
    let mut until = Until::after(timeout);
    let stream = socket::connect(path, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => MeetError::TimedOut(timeout),
        _ => MeetError::Nobody { path: path.to_owned(), error },
    })?;
    let socket =
        Socket::new(stream).map_err(|error| MeetError::System { what: "cannot set up the socket", error })?;
    let (own_base, fd) = Segment::create(BASE_LEN)?;
    let hello = Hello::new(policy.max_message, MAX_LANES, application.to_vec());
    if let Err(error) = socket.send(Header::new(Kind::Hello), &hello.to_bytes(), &[fd.as_raw_fd()]) {
        // A server that refuses before it reads leaves its reason behind; fall through to read it.
        tracing::debug!(%error, "the hello was not taken");
    }
    drop(fd);
    let mut reader = FrameReader::default();
    let frame = loop {
        match reader.next(&socket) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(MeetError::Ended(error.to_string())),
        }
        match socket.wait_readable(until.left()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(MeetError::TimedOut(timeout));
            }
            Err(error) => return Err(MeetError::System { what: "cannot wait for the hello", error }),
        }
    };
    let peer = identify(&socket, &mut reader).map_err(|reason| MeetError::Ended(reason.into()))?;
    if !policy.allow.contains(peer.credentials()) {
        return Err(MeetError::NotAllowed {
            path: path.to_owned(),
            uid: peer.uid(),
            allow: policy.allow.to_string(),
        });
    }
    let theirs = open_hello(&frame)?;
    let peer_base = accept_base(&mut reader, &theirs)?;
    let limits = Limits {
        lanes: theirs.lanes().min(MAX_LANES),
        send_max: theirs.max_message().min(LARGEST),
        receive_max: policy.max_message.min(LARGEST),
    };
    let trusted = policy.trust.contains(peer.credentials());
    let parts = Parts { limits, peer, trusted, own_base, peer_base, socket, reader, events };
    let connection = Connection::new(parts);
    connection::watch(&connection)
        .map_err(|error| MeetError::System { what: "cannot watch the socket", error })?;
    Ok(Met { connection, application: theirs.into_application() })
}

/// Who sent the hello that `reader` holds, by the kernel's word.
fn identify(socket: &Socket, reader: &mut FrameReader) -> Result<PeerInfo, &'static str> {
    socket.stop_asking_who();
    let credentials = reader.sender()?;
    let pidfd = match reader.take_pidfd() {
        Some(pidfd) => Some(pidfd),
        // Before Linux 6.5: by the id, which may have gone to another process if the peer has ended since. Then the
        // socket is what tells of its end.
        None => process::open(credentials.pid).ok(),
    };
    if pidfd.as_ref().is_some_and(process::has_ended) {
        return Err("the peer's process has ended");
    }
    Ok(PeerInfo::new(credentials, pidfd))
}

fn watch(source: Arc<dyn Source>) -> io::Result<Token> {
    Watcher::get()?.watch(source)
}

fn open_hello(frame: &Frame) -> Result<Hello, MeetError> {
    match frame.header.kind {
        Kind::Hello => Ok(Hello::from_bytes(&frame.payload)?),
        Kind::Failure => Err(MeetError::Refused(String::from_utf8_lossy(&frame.payload).into_owned())),
        other => Err(MeetError::Ended(format!("it began with {other:?}"))),
    }
}

fn accept_base(reader: &mut FrameReader, hello: &Hello) -> Result<Segment, MeetError> {
    let fd = reader.take_descriptor().ok_or(HelloError::NoMemory)?;
    if hello.base_len() != BASE_LEN as u64 {
        return Err(HelloError::Geometry { found: hello.base_len(), expected: BASE_LEN as u64 }.into());
    }
    Ok(Segment::accept(fd, hello.base_len())?)
}

//! How two processes meet: a Unix socket, a hello each way, and the memory that they pass.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::{self, Connection, Death, Events, Limits, Parts};
use super::segment::{BASE_LEN, MAX_LANES, Segment, SegmentError};
use crate::peers::{PeerInfo, Peers};
use crate::slot::{Header, Kind};
use crate::sys::fork::Generation;
use crate::sys::futex::Until;
use crate::sys::process;
use crate::sys::socket::{Frame, FrameReader, ReadError, Socket};
use crate::sys::watcher::{Next, Source, Token, Watcher};

pub use hello::{Hello, HelloError, VERSION};

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
    let stream =
        UnixStream::connect(path).map_err(|error| MeetError::Nobody { path: path.to_owned(), error })?;
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
    let credentials = reader.credentials().ok_or("the hello came without credentials")?;
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

/// Says whether a peer is welcome, and takes over its connection.
pub trait Host: Send + Sync {
    /// What we answer to the peer's application, and who takes the connection's events; or why the peer is refused.
    ///
    /// # Errors
    /// The reason, for the peer to read.
    fn welcome(&self, peer: &PeerInfo, application: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), String>;
    /// The connection stands.
    fn connected(&self, connection: &Arc<Connection>);
}

/// Peers that have connected and not yet said hello, at most.
const ARRIVING_MAX: usize = 256;
/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A listening socket, watched until dropped.
pub struct Listener {
    path: PathBuf,
    token: Token,
    lock: File,
    process: Generation,
}

impl Listener {
    /// Listens at `path`. A socket that a dead server left there is replaced; a live server's never.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::AddrInUse`] if a server lives there.
    pub fn bind(path: &Path, policy: Policy, host: Arc<dyn Host>) -> io::Result<Self> {
        let lock = lock(path)?;
        remove_socket(path)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let mode = if policy.allow == Peers::SameUser { 0o600 } else { 0o666 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        let arriving = Arc::new(Mutex::new(0));
        let door = Door { listener, policy, host, arriving };
        let token = watch(Arc::new(door))?;
        Ok(Self { path: path.to_owned(), token, lock, process: Generation::current() })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // A forked child: its parent listens on.
            return;
        }
        if let Ok(watcher) = Watcher::get() {
            watcher.unwatch(self.token);
        }
        for path in [self.path.clone(), lock_path(&self.path)] {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(?path, %error, "was not there to be removed");
            }
        }
        // Not left to the closing of the file: a forked child may hold it open too.
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the lock was not ours any more");
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Listener").field("path", &self.path).finish_non_exhaustive()
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Takes the lock that the server of `path` holds while it lives.
fn lock(path: &Path) -> io::Result<File> {
    let lock_path = lock_path(path);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&lock_path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => {
                let text =
                    format!("a server already listens at {}; stop it or choose another name", path.display());
                io::Error::new(io::ErrorKind::AddrInUse, text)
            }
        })?;
        // The server that held it may have removed the file before it let go: then ours is nobody's lock.
        let same = match (fs::metadata(&lock_path), file.metadata()) {
            (Ok(named), Ok(held)) => named.ino() == held.ino() && named.dev() == held.dev(),
            _ => false,
        };
        if same {
            return Ok(file);
        }
    }
}

fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} exists and is no socket; remove it or choose another name", path.display()),
        )),
    }
}

/// The listening socket as the watcher sees it.
struct Door {
    listener: UnixListener,
    policy: Policy,
    host: Arc<dyn Host>,
    arriving: Arc<Mutex<usize>>,
}

impl Source for Door {
    fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn ready(&self) -> Next {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(error) => {
                    // Out of descriptors, most likely: leave the rest in the backlog, and do not spin on them.
                    tracing::warn!(%error, "cannot accept a peer");
                    std::thread::sleep(Duration::from_millis(10));
                    return Next::Keep;
                }
            };
            if let Err(error) = self.let_in(stream) {
                tracing::debug!(%error, "a peer was not let in");
            }
        }
    }
}

impl Door {
    fn let_in(&self, stream: UnixStream) -> io::Result<()> {
        let socket = Socket::new(stream)?;
        let mut count = self.arriving.lock();
        if *count >= ARRIVING_MAX {
            return refuse(&socket, "too many peers are saying hello; try again");
        }
        *count += 1;
        drop(count);
        let arriving = Arriving {
            place: Place(Arc::clone(&self.arriving)),
            fd: socket.as_fd().try_clone_to_owned()?,
            state: Mutex::new(Some((socket, FrameReader::default()))),
            policy: self.policy.clone(),
            host: Arc::clone(&self.host),
            deadline: Instant::now() + HELLO_TIMEOUT,
        };
        watch(Arc::new(arriving)).map(drop)
    }
}

fn refuse(socket: &Socket, reason: &str) -> io::Result<()> {
    socket.send(Header::new(Kind::Failure), reason.as_bytes(), &[])
}

/// One place among the arriving; given back when dropped.
struct Place(Arc<Mutex<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
    }
}

/// A peer that has connected and not yet said hello.
struct Arriving {
    /// A second descriptor of the socket: the watcher needs one that lives as long as this source.
    fd: std::os::fd::OwnedFd,
    state: Mutex<Option<(Socket, FrameReader)>>,
    policy: Policy,
    host: Arc<dyn Host>,
    deadline: Instant,
    place: Place,
}

impl Source for Arriving {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn expired(&self) -> Next {
        if let Some((socket, _)) = self.state.lock().take() {
            drop(refuse(&socket, "no hello came in time"));
        }
        Next::Done
    }

    fn ready(&self) -> Next {
        let _ = &self.place;
        let Some((socket, mut reader)) = self.state.lock().take() else { return Next::Done };
        let frame = match reader.next(&socket) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                *self.state.lock() = Some((socket, reader));
                return Next::Keep;
            }
            Err(ReadError::Closed) => return Next::Done,
            Err(error) => {
                drop(refuse(&socket, &error.to_string()));
                return Next::Done;
            }
        };
        match self.greet(&frame, &socket, &mut reader) {
            Ok(greeted) => self.install(greeted, socket, reader),
            Err(error) => {
                tracing::debug!(%error, "a peer was refused");
                let reason = match error {
                    MeetError::Refused(reason) => reason,
                    other => other.to_string(),
                };
                drop(refuse(&socket, &reason));
                Next::Done
            }
        }
    }
}

/// What became of a hello.
struct Greeted {
    limits: Limits,
    peer: PeerInfo,
    own_base: Segment,
    peer_base: Segment,
    events: Box<dyn Events>,
}

impl Arriving {
    fn greet(&self, frame: &Frame, socket: &Socket, reader: &mut FrameReader) -> Result<Greeted, MeetError> {
        let peer = identify(socket, reader).map_err(|reason| MeetError::Refused(reason.into()))?;
        if !self.policy.allow.contains(peer.credentials()) {
            return Err(MeetError::Refused(format!(
                "user {} may not talk to this server, only {}",
                peer.uid(),
                self.policy.allow
            )));
        }
        let theirs = open_hello(frame)?;
        let peer_base = accept_base(reader, &theirs)?;
        let send_max = theirs.max_message();
        let (application, events) =
            self.host.welcome(&peer, &theirs.into_application()).map_err(MeetError::Refused)?;
        let (own_base, fd) = Segment::create(BASE_LEN)?;
        let lanes = self.policy.lanes.min(MAX_LANES);
        let hello = Hello::new(self.policy.max_message, lanes, application);
        socket
            .send(Header::new(Kind::Hello), &hello.to_bytes(), &[fd.as_raw_fd()])
            .map_err(|error| MeetError::System { what: "cannot answer the hello", error })?;
        let limits = Limits {
            lanes,
            send_max: send_max.min(LARGEST),
            receive_max: self.policy.max_message.min(LARGEST),
        };
        Ok(Greeted { limits, peer, own_base, peer_base, events })
    }

    fn install(&self, greeted: Greeted, socket: Socket, reader: FrameReader) -> Next {
        let Greeted { limits, peer, own_base, peer_base, events } = greeted;
        let trusted = self.policy.trust.contains(peer.credentials());
        let parts = Parts { limits, peer, trusted, own_base, peer_base, socket, reader, events };
        let connection = Connection::new(parts);
        self.host.connected(&connection);
        if let Err(error) = connection::watch(&connection) {
            connection.die(Death { reason: format!("it cannot be watched: {error}"), peer_closed: false });
        }
        Next::Done
    }
}

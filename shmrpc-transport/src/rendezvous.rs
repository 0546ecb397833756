//! How two processes meet: a Unix socket, a hello each way, and the memory that they pass.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{self, Bases, Carrier, Connection, Death, Dial, Events, Limits, Parts};
use crate::message::Budget;
use crate::peers::{PeerCredentials, PeerInfo, Peers};
use crate::shm::ledger::{Account, Route};
use crate::shm::memory::{Memory, MemoryError, Witness};
use crate::shm::segment::{BASE_LEN, Handout, MAX_LANES, Segment};
use crate::slot::{Header, Kind};
use crate::sys::futex::Until;
use crate::sys::process;
use crate::sys::shortage::{explain, is_shortage};
use crate::sys::socket::{Frame, FrameReader, NoSocket, ReadError, Socket};
use crate::sys::watcher::{Source, Token, Watcher};

pub use bound::Bound;
pub use hello::{Hello, HelloError, VERSION};
pub use listener::{Host, Listener};
pub use refusal::Refusal;
use refusal::{in_no_directory, no_address, no_host, nobody};

pub mod net;
pub mod inside;
mod listener;
mod door;
mod arrivals;
mod bound;
mod refusal;
mod hello;

/// What is wrong with an answer that does not go with what was asked for over a network.
const ANSWER: &str = "its lanes are no further connections";
/// Bytes from which on a message over a Unix socket lies in shared memory, unless somebody says otherwise. The report's
/// group `memfd` measures both ways: memory is faster for all that is larger than what a lane always has room for.
const MEMORY_FROM: u64 = 4 << 10;
/// The largest message that relative pointers of 32 bits can span, with room to spare.
const LARGEST: u64 = (1 << 31) - (1 << 16);
/// How long another host may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(25);
/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may talk, whose large messages are read in place, and how large messages may be.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Users that may be at the other end.
    pub allow: Peers,
    /// Users whose large messages are read in place. Whoever is in here is inside our memory-safety boundary while
    /// such a message is read.
    pub trust: Peers,
    /// What our memory is made of.
    pub memory: Memory,
    /// Bytes from which on a message of ours over a Unix socket lies in shared memory. [`u64::MAX`]: this side shares no
    /// memory, and there are no rings.
    pub memory_from: u64,
    /// What lanes are to be made of, if it can be had.
    pub carrier: Carrier,
    /// Whether messages may have descriptors (client). If not, lanes over Unix sockets are faster where the kernel can refuse
    /// them (Linux 6.16).
    pub descriptors: bool,
    /// Whether plain TCP may leave this host.
    pub plain_tcp: bool,
    /// How long another host may be silent until it counts as gone.
    pub max_silence: Duration,
    /// Bytes of a message that we take.
    pub max_message: u64,
    /// Bytes of our memory for messages that one process may hold, over all of its connections. If `None`: four times
    /// what both sides take as a message, and 4 MiB at least.
    pub max_lent: Option<u64>,
    /// Bytes that all peers may have together (server), if that is bounded.
    pub budget: Option<Budget>,
    /// Lanes that a connection may have (server).
    pub lanes: u32,
    /// How long a peer may take to say hello (server).
    pub hello_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow: Peers::SameUser,
            trust: Peers::SameUser,
            memory: Memory::default(),
            memory_from: MEMORY_FROM,
            carrier: Carrier::Rings,
            descriptors: true,
            plain_tcp: false,
            max_silence: MAX_SILENCE,
            max_message: 64 << 20,
            max_lent: None,
            budget: None,
            lanes: MAX_LANES,
            hello_timeout: HELLO_TIMEOUT,
        }
    }
}

impl Policy {
    fn shares_memory(&self) -> bool {
        self.memory_from != u64::MAX
    }

    /// What a process may hold that takes messages of `max_message` bytes.
    fn lent_max(&self, max_message: u64) -> u64 {
        // What a peer takes is its own word; it must not make us keep ready more than we would take.
        let bound = max_message.min(self.max_message).min(LARGEST);
        self.max_lent.unwrap_or_else(|| bound.saturating_mul(4).max(4 << 20))
    }

    /// The account of a process that wants one more connection.
    fn account(&self, peer: &PeerInfo, route: &Route, lent_max: u64) -> Result<Arc<Account>, MeetError> {
        let account = Account::of(peer, route, self.budget.as_ref());
        account.may_connect(lent_max).map_err(|full| MeetError::StillHeld { full: full.to_string() })?;
        Ok(account)
    }

    /// Whether the peer is in the trust set. It has to be, if the memory of either side, ours first, is not sealed.
    fn trusts(
        &self,
        peer: &PeerCredentials,
        sides: Option<[(&'static str, Memory); 2]>,
    ) -> Result<bool, MeetError> {
        let trusted = self.trust.contains(peer);
        let Some(sides @ [(by, _), _]) = sides else { return Ok(trusted) };
        match sides.into_iter().find(|(_, memory)| !memory.is_sealed()) {
            Some((owner, memory)) if !trusted => {
                let (trust, uid) = (self.trust.to_string(), peer.uid);
                Err(MeetError::Unsealed { owner, memory, by, trust, uid })
            }
            _ => Ok(trusted),
        }
    }
}

/// A peer could not be reached, or would not talk.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// Nobody listens there, or nobody whom we may reach.
    #[error("{}", nobody(path, error))]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody answers at a host.
    #[error("{}", no_host(at, error))]
    NoHost {
        /// Host and port.
        at: String,
        /// What the system said.
        error: io::Error,
    },
    /// None of a host's addresses did.
    #[error("{}", no_address(at, each))]
    NoAddress {
        /// Host and port.
        at: String,
        /// What is wrong with each.
        each: Vec<(SocketAddr, MeetError)>,
    },
    /// Nobody in this process has the name.
    #[error("no server of this process listens at `inproc:{name}`")]
    NoName {
        /// The name.
        name: String,
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
    /// The peer said no, for now.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The peer said no, and will as long as both are what they are.
    #[error("the server refused: {0}")]
    Unwelcome(String),
    /// The hello was no hello.
    #[error("the peer's hello is not usable: {0}")]
    Hello(#[from] HelloError),
    /// Memory could not be shared.
    #[error("shared memory cannot be set up: {0}")]
    Memory(#[from] MemoryError),
    /// Memory that cannot be sealed, between sides of which one does not trust the other.
    #[error(
        "the {owner}'s memory is {memory}, which cannot be sealed, so it is for peers that trust each other; the {by} trusts {trust}, and at its other end is user {uid}: widen the {by}'s `.trust(..)`, or give the {owner} `.memory(Memory::Memfd)`"
    )]
    Unsealed {
        /// Whose memory it is: "client" or "server".
        owner: &'static str,
        /// What it is made of.
        memory: Memory,
        /// Who does not trust the other: "client" or "server".
        by: &'static str,
        /// Whom that side trusts.
        trust: String,
        /// The other side's user.
        uid: u32,
    },
    /// The peer has not let go of the memory of earlier connections.
    #[error(
        "too much memory of ended connections is still mapped by the other end ({full}); it has to let go first"
    )]
    StillHeld {
        /// How much of how much.
        full: String,
    },
    /// There is no TLS with the peer.
    #[error("{reason}")]
    Tls {
        /// What is wrong.
        reason: String,
        /// Whether time alone does not mend it: one does not believe the other, or the port is a plain one.
        is_lasting: bool,
    },
    /// The peer did not answer in time.
    #[error("the server did not answer within {0:?}")]
    TimedOut(Duration),
    /// The system refused.
    #[error("{what}: {}", explain(error))]
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
    /// Why no memory is shared, lanes are not made of what was asked for, or earlier addresses of a host did not do; else empty.
    pub reason: String,
}

/// Connects to the server that listens at `path`. Where memory cannot be shared, without it.
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
    let attempt = Attempt { path, policy, application, timeout };
    let unwanted = !policy.shares_memory();
    let (parts, theirs, reason) = match attempt.meet(policy.shares_memory(), &mut until) {
        Ok((parts, theirs)) => (parts, theirs, unwanted.then(|| "this client was told to share none".into())),
        Err(Miss::Other(error)) => return Err(error),
        Err(Miss::NoMemory(error)) => {
            tracing::warn!(%error, "no memory is shared");
            let (parts, theirs) = attempt.meet(false, &mut until).map_err(|miss| match miss {
                Miss::Other(error) => error,
                Miss::NoMemory(error) => error.into(),
            })?;
            (parts, theirs, Some(format!("this client can share none: {error}")))
        }
    };
    let reason = reason.unwrap_or(theirs.reason);
    let connection = Connection::new(parts, events);
    if let Err(error) = connection::watch(&connection) {
        connection.die(Death { reason: "it cannot be watched".into(), peer_closed: false });
        return Err(MeetError::System { what: "cannot watch the socket", error });
    }
    Ok(Met { connection, application: theirs.application, reason })
}

/// What a client does to meet a server over a Unix socket.
struct Attempt<'a> {
    path: &'a Path,
    policy: &'a Policy,
    application: &'a [u8],
    timeout: Duration,
}

/// Why an attempt failed.
enum Miss {
    /// This side cannot share memory. Without, it may do.
    NoMemory(MemoryError),
    Other(MeetError),
}

impl<E: Into<MeetError>> From<E> for Miss {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl Attempt<'_> {
    fn meet(&self, share: bool, until: &mut Until) -> Result<(Parts, Hello), Miss> {
        let Self { path, policy, application, timeout } = *self;
        let socket = Socket::connect(path, until.left()).map_err(|none| match none {
            NoSocket::Ours(error) => MeetError::System { what: "cannot set up a socket", error },
            NoSocket::There(error) => {
                let lacks = in_no_directory(path).map(|lack| io::Error::new(error.kind(), lack));
                MeetError::Nobody { path: path.to_owned(), error: lacks.unwrap_or(error) }
            }
            NoSocket::TimedOut => MeetError::TimedOut(timeout),
        })?;
        let own = match share {
            true => Some(Segment::create(BASE_LEN, policy.memory).map_err(Miss::NoMemory)?),
            false => None,
        };
        let mut hello = Hello::new(policy.max_message, MAX_LANES, policy.memory, application.to_vec());
        hello.carrier = if share { policy.carrier } else { Carrier::Streams };
        hello.base_len = if share { BASE_LEN as u64 } else { 0 };
        let own = self.say(&socket, &hello, own, until)?;
        let mut reader = FrameReader::default();
        let frame = hear(&socket, &mut reader, timeout, until)?;
        let (who, peer) = identify(&socket, &mut reader).map_err(MeetError::Ended)?;
        if !policy.allow.contains(&who) {
            let (path, allow) = (path.to_owned(), policy.allow.to_string());
            return Err(MeetError::NotAllowed { path, uid: who.uid, allow }.into());
        }
        let theirs = open_hello(&frame)?;
        if theirs.base_len == 0 && reader.take_descriptor().is_some() {
            return Err(HelloError::Unwanted.into());
        }
        let shared = own.filter(|_| theirs.base_len > 0);
        match (theirs.carrier, hello.carrier, shared.is_some()) {
            (Carrier::Rings, Carrier::Streams, _) => {
                Err(HelloError::Answer("it has rings, and streams were asked for"))
            }
            (Carrier::Rings, _, false) => Err(HelloError::Answer("it has rings, and no memory")),
            _ if theirs.base_len > 0 && !share => Err(HelloError::Answer("it shares memory, and we do not")),
            _ => Ok(()),
        }?;
        let lent_max = policy.lent_max(theirs.max_message);
        let memory = shared.is_some().then_some([policy.memory, theirs.memory]);
        let sides = memory.map(|[own, theirs]| [("client", own), ("server", theirs)]);
        let trusted = policy.trusts(&who, sides)?;
        let bases = match shared {
            None => None,
            Some((mut own, witness)) => {
                let peers = accept_base(&mut reader, &theirs).map_err(|error| match error {
                    MeetError::Memory(error) if error.is_ours() => Miss::NoMemory(error),
                    other => Miss::Other(other),
                })?;
                let route = Route { path: path.to_owned(), listening: false };
                let account = policy.account(&peer, &route, lent_max)?;
                own.charge(account.lend_base(BASE_LEN as u64, witness));
                Some(Bases { account, own, peer: peers })
            }
        };
        let limits = Limits {
            lanes: theirs.lanes.min(MAX_LANES),
            carrier: theirs.carrier,
            send_max: theirs.max_message.min(LARGEST),
            receive_max: policy.max_message.min(LARGEST),
            lent_max,
            memory,
            memory_from: policy.memory_from,
        };
        let dial = Dial::over_unix(theirs.carrier, policy.descriptors);
        let (peer_is_client, budget) = (false, None);
        let parts = Parts { limits, peer, peer_is_client, trusted, bases, budget, dial, socket, reader };
        Ok((parts, theirs))
    }

    /// Sends the hello, with our memory.
    fn say(
        &self,
        socket: &Socket,
        hello: &Hello,
        own: Option<(Segment, Handout)>,
        until: &mut Until,
    ) -> Result<Option<(Segment, Option<Witness>)>, MeetError> {
        let fds: Vec<_> = own.iter().map(|(_, handout)| handout.descriptor.as_raw_fd()).collect();
        let sent = socket.send(Header::new(Kind::Hello), &hello.to_bytes(), &fds, || until.left());
        if let Err(error) = sent {
            if is_shortage(&error) {
                return Err(MeetError::System { what: "cannot send the hello", error });
            }
            // A server that refuses before it reads leaves its reason behind; whoever reads finds it.
            tracing::debug!(%error, "the hello was not taken");
        }
        Ok(own.map(|(segment, Handout { descriptor: _, witness })| (segment, witness)))
    }
}

/// Waits for the server's first frame.
fn hear(
    socket: &Socket,
    reader: &mut FrameReader,
    timeout: Duration,
    until: &mut Until,
) -> Result<Frame, MeetError> {
    loop {
        match reader.next(socket) {
            Ok(Some(frame)) => return Ok(frame),
            // A server that sends a byte now and then may always have one more.
            Ok(None) if until.is_over() => return Err(MeetError::TimedOut(timeout)),
            Ok(None) => {}
            Err(ReadError::BadHeader(bad)) => {
                return Err(MeetError::Ended(format!(
                    "the other end does not speak shmrpc: bad frame: {bad}"
                )));
            }
            Err(ReadError::Severed(broken)) => return Err(broken.into()),
            Err(error) => return Err(MeetError::Ended(error.to_string())),
        }
        match socket.wait_readable(until.left()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(MeetError::TimedOut(timeout));
            }
            Err(error) => return Err(MeetError::System { what: "cannot wait for the hello", error }),
        }
    }
}

/// Who sent the hello that `reader` holds, by the kernel's word.
fn identify(socket: &Socket, reader: &mut FrameReader) -> Result<(PeerCredentials, PeerInfo), String> {
    socket.stop_asking_who();
    let credentials = reader.sender()?;
    let pidfd = match reader.take_pidfd() {
        Some(pidfd) => Some(pidfd),
        // Before Linux 6.5: by the id, which may have gone to another process if the peer has ended since. Then the
        // socket is what tells of its end.
        None => match credentials.pid.map(process::open).transpose() {
            Err(error) if is_shortage(&error) => {
                return Err(format!("there is no descriptor for the peer's process: {}", explain(&error)));
            }
            opened => opened.ok().flatten(),
        },
    };
    if pidfd.as_ref().is_some_and(process::has_ended) {
        return Err("the peer's process has ended".into());
    }
    Ok((credentials, PeerInfo::new(credentials, pidfd)))
}

fn watch(source: Arc<dyn Source>) -> io::Result<Token> {
    Watcher::get()?.watch(source)
}

fn open_hello(frame: &Frame) -> Result<Hello, MeetError> {
    match frame.header.kind {
        Kind::Failure
            if frame.header == (Header { call_id: frame.header.call_id.min(1), ..plain(frame.header) }) =>
        {
            Err(Refusal { reason: frame.text(), is_lasting: frame.header.call_id == 1 }.into())
        }
        _ => read_hello(frame.header, &frame.payload),
    }
}

/// A hello, and nothing else.
fn read_hello(header: Header, payload: &[u8]) -> Result<Hello, MeetError> {
    if header != plain(header) {
        return Err(MeetError::Ended(format!("it began with fields that mean nothing there: {header:?}")));
    }
    match header.kind {
        Kind::Hello => Ok(Hello::from_bytes(payload)?),
        other => Err(MeetError::Ended(format!("it began with {other:?}"))),
    }
}

/// The header of a frame that has its payload and no more.
fn plain(header: Header) -> Header {
    Header { length: header.length, ..Header::new(header.kind) }
}

fn accept_base(reader: &mut FrameReader, hello: &Hello) -> Result<Segment, MeetError> {
    let fd = reader.take_descriptor().ok_or(HelloError::NoMemory)?;
    if hello.base_len != BASE_LEN as u64 {
        return Err(HelloError::Geometry { found: hello.base_len, expected: BASE_LEN as u64 }.into());
    }
    let from = fd.from();
    let fd = fd.keep().ok_or(HelloError::NoMemory)?;
    Ok(Segment::accept(fd, from, hello.base_len, hello.memory)?)
}

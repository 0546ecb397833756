//! The side that listens, and the peers that are saying hello.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;

use super::arrivals::{Arrivals, MADE_ROOM, Seat};
use super::bound::{Bound, Name};
use super::door::{self, Door};
use super::{
    Hello, HelloError, LARGEST, MeetError, Policy, Refusal, accept_base, identify, open_hello, watch,
};
use crate::connection::{self, Bases, Carrier, Connection, Dial, Events, Limits, Parts};
use crate::peers::PeerInfo;
use crate::places::Places;
use crate::shm::ledger::Route;
use crate::shm::memory::MemoryError;
use crate::shm::segment::{BASE_LEN, Handout, MAX_LANES, Segment};
use crate::slot::{Header, Kind};
use crate::sys::closing::Facing;
use crate::sys::fork::{Generation, Inherited};
use crate::sys::shortage::explain;
use crate::sys::socket::{Frame, FrameReader, ReadError, Socket};
use crate::sys::watcher::{Next, Source, Token, Watcher};

/// Says whether a peer is welcome, and takes over its connection.
pub trait Host: Send + Sync {
    /// What we answer to the peer's application, and who takes the connection's events; or why the peer is refused.
    ///
    /// # Errors
    /// The reason, for the peer to read.
    fn welcome(&self, peer: &PeerInfo, application: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal>;
    /// The connection stands.
    fn connected(&self, connection: &Arc<Connection>);
}

/// A fresh socket takes any answer at once, and the watcher waits for nobody.
const NO_WAIT: fn() -> Option<Duration> = || Some(Duration::ZERO);

/// A listening socket, watched until dropped.
#[derive(Debug)]
pub struct Listener {
    token: Token,
    process: Generation,
    name: Name,
}

impl Listener {
    /// Serves a name from now on, in this process and in none that it forks.
    ///
    /// # Errors
    /// The system's.
    pub fn start(mut bound: Bound, policy: Policy, host: Arc<dyn Host>) -> io::Result<Self> {
        bound.keep()?;
        let Bound { socket, name } = bound;
        let route = Route { path: name.path().to_owned(), listening: true };
        let arrivals = Arrivals::new(Places::new, policy.hello_timeout);
        let entrance = Entrance { socket, route, policy, host, arrivals };
        let token = watch(Arc::new(Door::new(entrance)?))?;
        Ok(Self { token, process: Generation::current(), name })
    }

    /// Takes the name at `path` and serves it.
    ///
    /// # Errors
    /// Those of [`Bound::at`] and [`Listener::start`].
    pub fn bind(path: &Path, policy: Policy, host: Arc<dyn Host>) -> io::Result<Self> {
        Self::start(Bound::at(path, &policy.allow)?, policy, host)
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        self.name.path()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not in a forked child: its parent listens on. Else the watcher lets go first, and then the name.
        if self.process.is_current()
            && let Ok(watcher) = Watcher::get()
        {
            watcher.unwatch(self.token);
        }
    }
}

/// The listening socket, and who says hello there.
struct Entrance {
    socket: Inherited<UnixListener>,
    route: Route,
    policy: Policy,
    host: Arc<dyn Host>,
    arrivals: Arc<Arrivals<Weak<Arriving>>>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // Nobody more comes, and with those who did goes what they have sent already.
        if let Err(error) = shutdown(self.socket.as_raw_fd(), Shutdown::Read) {
            tracing::debug!(%error, "the listening socket stays open for a moment");
        }
        while let Ok((stream, _)) = self.socket.accept() {
            drop(Facing::new(stream));
        }
    }
}

impl door::Entrance for Entrance {
    type Peer = UnixStream;

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().map(|(stream, _)| stream)
    }

    fn turn_away(&self, peer: UnixStream, reason: &str) {
        turned_away(refuse(&Socket::of_stranger(peer), &reason.into()));
    }

    fn let_in(&self, peer: UnixStream) {
        let socket = Socket::of_stranger(peer);
        // First: who comes in floods gets no further, and costs little.
        let place = match self.arrivals.room(socket.who_connected()) {
            Ok((place, None)) => place,
            Ok((place, Some(other))) => {
                if let Some(other) = other.upgrade() {
                    other.make_room();
                }
                place
            }
            Err(full) => return turned_away(refuse(&socket, &format!("{full}; try again").into())),
        };
        if let Err(error) = socket.prepare() {
            return turned_away(Err(error));
        }
        let fd = match socket.second() {
            Ok(fd) => Arc::new(fd),
            Err(error) => return turned_away(refuse(&socket, &not_watched(&error).into())),
        };
        let arriving = Arc::new_cyclic(|own| Arriving {
            _seat: self.arrivals.seat(place, Arc::clone(&fd) as Arc<_>, Weak::clone(own)).awaited(),
            fd,
            token: OnceLock::new(),
            route: self.route.clone(),
            state: Mutex::new(Some((socket, FrameReader::default()))),
            policy: self.policy.clone(),
            host: Arc::clone(&self.host),
            // Without end, if that is no time that the clock can tell.
            deadline: Instant::now().checked_add(self.policy.hello_timeout),
        });
        match watch(Arc::clone(&arriving) as Arc<dyn Source>) {
            Ok(token) => drop(arriving.token.set(token)),
            Err(error) => arriving.refuse(&not_watched(&error)),
        }
    }
}

fn not_watched(error: &io::Error) -> String {
    format!("it cannot watch another socket: {}", explain(error))
}

fn turned_away(refused: io::Result<()>) {
    if let Err(error) = refused {
        tracing::debug!(%error, "a peer was turned away without a reason");
    }
}

fn refuse(socket: &Socket, refusal: &Refusal) -> io::Result<()> {
    socket.send(refusal.header(), refusal.reason.as_bytes(), &[], NO_WAIT)
}

/// A peer that has connected and not yet said hello.
struct Arriving {
    /// A second descriptor of the socket: the watcher needs one that lives as long as this source.
    fd: Arc<Facing<OwnedFd>>,
    token: OnceLock<Token>,
    state: Mutex<Option<(Socket, FrameReader)>>,
    route: Route,
    policy: Policy,
    host: Arc<dyn Host>,
    deadline: Option<Instant>,
    _seat: Seat<Weak<Self>>,
}

impl Source for Arriving {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expired(&self) -> Next {
        self.refuse("no hello came in time");
        Next::Done
    }

    fn ready(&self) -> Next {
        let Some((socket, mut reader)) = self.state.lock().take() else { return Next::Done };
        let frame = match reader.next(&socket) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                *self.state.lock() = Some((socket, reader));
                return Next::Keep;
            }
            Err(ReadError::Closed) => return Next::Done,
            Err(error) => {
                drop(refuse(&socket, &error.to_string().into()));
                return Next::Done;
            }
        };
        match self.greet(&frame, &socket, &mut reader) {
            Ok((agreed, events)) => self.install(agreed, events, socket, reader),
            Err(error) => {
                tracing::debug!(%error, "a peer was refused");
                drop(refuse(&socket, &error.into()));
                Next::Done
            }
        }
    }
}

impl Arriving {
    fn refuse(&self, reason: &str) {
        if let Some((socket, _)) = self.state.lock().take() {
            turned_away(refuse(&socket, &reason.into()));
        }
    }

    /// For another one. Called by the watcher, as all else here.
    fn make_room(&self) {
        self.refuse(MADE_ROOM);
        if let (Some(token), Ok(watcher)) = (self.token.get(), Watcher::get()) {
            watcher.unwatch(*token);
        }
    }

    fn greet(
        &self,
        frame: &Frame,
        socket: &Socket,
        reader: &mut FrameReader,
    ) -> Result<(Agreed, Box<dyn Events>), MeetError> {
        let (who, peer) = identify(socket, reader).map_err(MeetError::Refused)?;
        if !self.policy.allow.contains(&who) {
            let (uid, allow) = (who.uid, &self.policy.allow);
            return Err(MeetError::Unwelcome(format!(
                "user {uid} may not talk to this server, only {allow}"
            )));
        }
        let theirs = open_hello(frame)?;
        let share = self.share(&theirs, reader)?;
        let (share, lacking) = match share {
            Ok(share) => (Some(share), None),
            Err(lacking) => (None, Some(lacking)),
        };
        let memory = share.is_some().then_some([self.policy.memory, theirs.memory]);
        let sides = memory.map(|[own, theirs]| [("server", own), ("client", theirs)]);
        let trusted = self.policy.trusts(&who, sides)?;
        let carrier = match (theirs.carrier, self.policy.carrier, &lacking) {
            (Carrier::Rings, Carrier::Rings, None) => Carrier::Rings,
            _ => Carrier::Streams,
        };
        // What is lacking comes first: only with memory there could be rings.
        let reason = match (lacking, theirs.carrier == carrier) {
            (Some(lacking), _) => lacking,
            (None, true) => String::new(),
            (None, false) => "the server listens there with `uds:`".into(),
        };
        let (application, events) = self.host.welcome(&peer, &theirs.application)?;
        let lent_max = self.policy.lent_max(theirs.max_message);
        let lanes = self.policy.lanes.min(MAX_LANES);
        let mut hello = Hello::new(self.policy.max_message, lanes, self.policy.memory, application);
        (hello.carrier, hello.reason) = (carrier, reason);
        hello.base_len = if share.is_some() { BASE_LEN as u64 } else { 0 };
        let (bases, descriptor) = match share {
            None => (None, None),
            Some(Share { mut own, handout: Handout { descriptor, witness }, peers }) => {
                let account = self.policy.account(&peer, &self.route, lent_max)?;
                own.charge(account.lend_base(BASE_LEN as u64, witness));
                (Some(Bases { account, own, peer: peers }), Some(descriptor))
            }
        };
        let fds: Vec<_> = descriptor.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
        socket
            .send(Header::new(Kind::Hello), &hello.to_bytes(), &fds, NO_WAIT)
            .map_err(|error| MeetError::System { what: "cannot answer the hello", error })?;
        let limits = Limits {
            lanes,
            carrier,
            send_max: theirs.max_message.min(LARGEST),
            receive_max: self.policy.max_message.min(LARGEST),
            lent_max,
            memory,
            memory_from: self.policy.memory_from,
        };
        Ok((Agreed { limits, peer, trusted, bases }, events))
    }

    /// The memory of both sides; or why none is shared, if that is no fault of the peer's.
    fn share(&self, theirs: &Hello, reader: &mut FrameReader) -> Result<Result<Share, String>, MeetError> {
        if theirs.base_len == 0 && reader.take_descriptor().is_some() {
            return Err(HelloError::Unwanted.into());
        }
        if theirs.base_len == 0 {
            return Ok(Err("the client shares no memory".into()));
        }
        let peers = match accept_base(reader, theirs) {
            Ok(peers) => peers,
            Err(MeetError::Memory(error)) if error.is_ours() => return Ok(Err(none_to_share(&error))),
            Err(error) => return Err(error),
        };
        if !self.policy.shares_memory() {
            return Ok(Err("the server was told to share none".into()));
        }
        Ok(match Segment::create(BASE_LEN, self.policy.memory) {
            Ok((own, handout)) => Ok(Share { own, handout, peers }),
            Err(error) => Err(none_to_share(&error)),
        })
    }

    fn install(&self, agreed: Agreed, events: Box<dyn Events>, socket: Socket, reader: FrameReader) -> Next {
        let Agreed { limits, peer, trusted, bases } = agreed;
        let (peer_is_client, budget, dial) = (true, self.policy.budget.clone(), Dial::No);
        let parts = Parts { limits, peer, peer_is_client, trusted, bases, budget, dial, socket, reader };
        let connection = Connection::new(parts, events);
        self.host.connected(&connection);
        if let Err(error) = connection::watch(&connection) {
            connection.give_up(not_watched(&error));
        }
        Next::Done
    }
}

fn none_to_share(error: &MemoryError) -> String {
    tracing::warn!(%error, "no memory is shared with a client");
    format!("the server can share none: {error}")
}

/// The memory of both sides.
struct Share {
    own: Segment,
    handout: Handout,
    peers: Segment,
}

/// What became of a hello.
struct Agreed {
    limits: Limits,
    peer: PeerInfo,
    trusted: bool,
    bases: Option<Bases>,
}

//! The side that listens, and the peers that are saying hello.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bound::{Bound, Name};
use super::{
    Hello, HelloError, LARGEST, MeetError, Policy, Refusal, accept_base, identify, open_hello, watch,
};
use crate::connection::{self, Bases, Carrier, Connection, Dial, Events, Limits, Parts};
use crate::peers::PeerInfo;
use crate::places::{Limit, Place, Places};
use crate::shm::ledger::Route;
use crate::shm::memory::MemoryError;
use crate::shm::segment::{BASE_LEN, Handout, MAX_LANES, Segment};
use crate::slot::{Header, Kind};
use crate::sys::closing::Facing;
use crate::sys::fork::{Generation, Inherited};
use crate::sys::shortage::{descriptor_limit, explain};
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

/// Peers that have connected and not yet said hello, at most: of all, and of one process.
const ARRIVING: Limit = Limit { of_all: 256, of_one: 32 };

/// The same if descriptors are few: each takes up to four, and together they may have a quarter.
pub(super) fn arriving(descriptors: usize) -> Limit {
    let of_all = (descriptors / 16).clamp(2, ARRIVING.of_all);
    Limit { of_all, of_one: (of_all / 2).min(ARRIVING.of_one) }
}

/// Peers that are let in before others have their turn.
const AT_ONCE: usize = 32;
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
        let spare = Mutex::new(Some(spare_descriptor()?));
        let (arriving, rests_until) = (Places::new(arriving(descriptor_limit())), Mutex::default());
        let route = Route { path: name.path().to_owned(), listening: true };
        let token = watch(Arc::new(Door { socket, route, policy, host, arriving, spare, rests_until }))?;
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

/// The listening socket as the watcher sees it.
struct Door {
    socket: Inherited<UnixListener>,
    route: Route,
    policy: Policy,
    host: Arc<dyn Host>,
    arriving: Arc<Places>,
    /// Given up for a moment when there is no other, to tell a peer why it is not let in.
    spare: Mutex<Option<OwnedFd>>,
    rests_until: Mutex<Option<Instant>>,
}

/// How long nobody is let in when not even the spare descriptor is left.
const REST: Duration = Duration::from_millis(100);

fn spare_descriptor() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}

/// Opens the spare descriptor again. It is an error if there is none to be had: until there is one nobody is let in, who
/// would take its place, and could not be told anything.
fn regain(spare: &mut Option<OwnedFd>) -> io::Result<()> {
    if spare.is_none() {
        match spare_descriptor() {
            Err(error) if lacks_descriptors(&error) => return Err(error),
            opened => *spare = opened.ok(),
        }
    }
    Ok(())
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}

impl Drop for Door {
    fn drop(&mut self) {
        // With them goes what they have sent already.
        while let Ok((stream, _)) = self.socket.accept() {
            drop(Facing::new(stream));
        }
    }
}

impl Source for Door {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        *self.rests_until.lock()
    }

    fn expired(&self) -> Next {
        let lacking = regain(&mut self.spare.lock()).is_err();
        *self.rests_until.lock() = lacking.then(|| Instant::now() + REST);
        if lacking { Next::Rest } else { Next::Resume }
    }

    fn ready(&self) -> Next {
        for _ in 0..AT_ONCE {
            let let_in = match self.socket.accept() {
                Ok((stream, _)) => self.let_in(stream),
                Err(error) => self.turn_away(error),
            };
            match let_in {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(error) => {
                    // The rest stays in the backlog for a while, and nobody spins on it.
                    tracing::warn!(error = explain(&error), "cannot accept peers");
                    *self.rests_until.lock() = Some(Instant::now() + REST);
                    return Next::Rest;
                }
            }
        }
        Next::Keep
    }
}

impl Door {
    /// Tells the next peer why it is not let in, if what is lacking is a descriptor; else the error stays.
    fn turn_away(&self, error: io::Error) -> io::Result<()> {
        let mut spare = self.spare.lock();
        if !lacks_descriptors(&error) || spare.take().is_none() {
            return Err(error);
        }
        let reason = format!("it cannot take another connection: {}", explain(&error));
        let turned = self.socket.accept().map(|(stream, _)| {
            tracing::warn!(reason, "a peer was turned away");
            turned_away(Socket::new(stream).and_then(|socket| refuse(&socket, &reason.into())));
        });
        // What the peer had sent is closed elsewhere, and with it the socket, which may take a while.
        regain(&mut spare)?;
        turned
    }

    /// Only what concerns all peers is an error.
    fn let_in(&self, stream: UnixStream) -> io::Result<()> {
        let socket = match Socket::new(stream) {
            Ok(socket) => socket,
            Err(error) => {
                turned_away(Err(error));
                return Ok(());
            }
        };
        let fd = match socket.second() {
            Ok(fd) => fd,
            Err(error) => {
                turned_away(refuse(&socket, &not_watched(&error).into()));
                return Ok(());
            }
        };
        let place = match self.arriving.take(socket.who_connected(), "peers are saying hello") {
            Ok(place) => place,
            Err(full) => {
                turned_away(refuse(&socket, &format!("{full}; try again").into()));
                return Ok(());
            }
        };
        let arriving = Arriving {
            place,
            fd,
            route: self.route.clone(),
            state: Mutex::new(Some((socket, FrameReader::default()))),
            policy: self.policy.clone(),
            host: Arc::clone(&self.host),
            deadline: Instant::now() + self.policy.hello_timeout,
        };
        let arriving = Arc::new(arriving);
        if let Err(error) = watch(Arc::clone(&arriving) as Arc<dyn Source>)
            && let Some((socket, _)) = arriving.state.lock().take()
        {
            turned_away(refuse(&socket, &not_watched(&error).into()));
        }
        Ok(())
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
    fd: Facing<OwnedFd>,
    state: Mutex<Option<(Socket, FrameReader)>>,
    route: Route,
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
            drop(refuse(&socket, &"no hello came in time".into()));
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
        let parts =
            Parts { limits, peer, peer_is_client: true, trusted, bases, dial: Dial::No, socket, reader };
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

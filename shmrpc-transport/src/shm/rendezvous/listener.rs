//! The side that listens, and the peers that are saying hello.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bound::{Bound, Name};
use super::{Hello, LARGEST, MeetError, Policy, accept_base, identify, open_hello, watch};
use crate::peers::PeerInfo;
use crate::shm::connection::{self, Connection, Death, Events, Limits, Parts};
use crate::shm::segment::{BASE_LEN, MAX_LANES, Segment};
use crate::slot::{Header, Kind};
use crate::sys::fork::{Generation, Inherited};
use crate::sys::socket::{Frame, FrameReader, ReadError, Socket};
use crate::sys::watcher::{Next, Source, Token, Watcher};

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
        let arriving = Arc::new(Mutex::new(0));
        let token = watch(Arc::new(Door { socket, policy, host, arriving }))?;
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
    policy: Policy,
    host: Arc<dyn Host>,
    arriving: Arc<Mutex<usize>>,
}

impl Source for Door {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn ready(&self) -> Next {
        loop {
            let stream = match self.socket.accept() {
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

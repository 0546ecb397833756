//! How two processes meet over TCP: a hello each way, and one more connection for each lane. On a network nobody is
//! trusted, and no memory is shared.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::hello::Token;
use super::listener::arriving;
use super::{ANSWER, Hello, HelloError, Host, LARGEST, MeetError, Met, Policy, hear, open_hello, watch};
use crate::connection::{self, Carrier, Connection, Death, Dial, Events, Limits, Parts, Redial};
use crate::message::{Message, Pool};
use crate::peers::{Party, PeerInfo};
use crate::places::Places;
use crate::shm::segment::MAX_LANES;
use crate::slot::{BadHeader, Header, Kind};
use crate::stream::{Cut, Reader, Stream};
use crate::sys::fork::{Generation, Inherited};
use crate::sys::futex::Until;
use crate::sys::shortage::{descriptor_limit, explain, explain_thread};
use crate::sys::socket::{FrameReader, MAX_CONTROL, Socket, clip, frame};
use crate::sys::watcher::{Next, Source, Token as Watched, Watcher};

/// Connections that are let in before others have their turn.
const AT_ONCE: usize = 32;
/// How long nobody is let in when the system lacks something.
const REST: Duration = Duration::from_millis(100);

/// A host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port; 0 to listen at any.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl HostPort {
    /// All addresses that the name has. What the system is asked may take long; the time is ours.
    fn resolve(&self, until: &mut Until) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let (say, said) = std::sync::mpsc::channel();
        let name = (self.host.clone(), self.port);
        let thread = std::thread::Builder::new().name("shmrpc-resolver".into());
        thread.spawn(move || say.send(name.to_socket_addrs().map(Vec::from_iter)))?;
        let answer = match until.left() {
            Some(left) => said.recv_timeout(left).map_err(|_| io::ErrorKind::TimedOut),
            None => said.recv().map_err(|_| io::ErrorKind::NotFound),
        };
        let found: Vec<SocketAddr> = answer??;
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }

    /// Refuses what leaves this host, unless it was asked for.
    fn check(&self, addresses: &[SocketAddr], plain: bool) -> io::Result<()> {
        match addresses.iter().find(|address| !plain && !address.ip().to_canonical().is_loopback()) {
            None => Ok(()),
            Some(beyond) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{} is not an address of this host alone, and whoever is on the way can read and change what goes over plain TCP; if that is wanted, say `.allow_plain_tcp()` on the builder",
                    beyond.ip()
                ),
            )),
        }
    }
}

/// TCP ports that are listened on, and not served yet.
#[derive(Debug)]
pub struct Ports {
    listeners: Vec<Inherited<TcpListener>>,
    addresses: Vec<SocketAddr>,
}

impl Ports {
    /// Listens at every address of the host. With port 0, the system chooses one for all of them.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(at: &HostPort, policy: &Policy) -> io::Result<Self> {
        let wanted = at.resolve(&mut Until::never())?;
        at.check(&wanted, policy.plain_tcp)?;
        let (mut listeners, mut addresses, mut failed) = (Vec::new(), Vec::<SocketAddr>::new(), None);
        for mut address in wanted {
            if let (0, Some(first)) = (at.port, addresses.first()) {
                address.set_port(first.port());
            }
            match TcpListener::bind(address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    addresses.push(listener.local_addr()?);
                    listeners.push(Inherited::new(listener));
                }
                // A name of both kinds, where the system has one.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if listeners.is_empty() => Err(error),
            _ => Ok(Self { listeners, addresses }),
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves from now on, in this process and in none that it forks.
    ///
    /// # Errors
    /// The system's.
    pub fn start(self, policy: Policy, host: Arc<dyn Host>) -> io::Result<NetListener> {
        let arriving = Places::new(arriving(descriptor_limit()));
        let hall = Arc::new(Hall { policy, host, arriving, connections: Mutex::default() });
        let mut listener = NetListener { tokens: Vec::new(), process: Generation::current() };
        for mut socket in self.listeners {
            socket.keep()?;
            let door = Door { socket, hall: Arc::clone(&hall), rests_until: Mutex::default() };
            listener.tokens.push(watch(Arc::new(door))?);
        }
        Ok(listener)
    }
}

/// TCP ports that are served, until dropped.
#[derive(Debug)]
pub struct NetListener {
    tokens: Vec<Watched>,
    process: Generation,
}

impl Drop for NetListener {
    fn drop(&mut self) {
        if self.process.is_current()
            && let Ok(watcher) = Watcher::get()
        {
            self.tokens.iter().for_each(|token| watcher.unwatch(*token));
        }
    }
}

/// What all ports of one endpoint share.
struct Hall {
    policy: Policy,
    host: Arc<dyn Host>,
    arriving: Arc<Places>,
    connections: Mutex<HashMap<Token, Weak<Connection>>>,
}

/// One listening socket, as the watcher sees it.
struct Door {
    socket: Inherited<TcpListener>,
    hall: Arc<Hall>,
    rests_until: Mutex<Option<Instant>>,
}

impl Source for Door {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        *self.rests_until.lock()
    }

    fn expired(&self) -> Next {
        *self.rests_until.lock() = None;
        Next::Resume
    }

    fn ready(&self) -> Next {
        for _ in 0..AT_ONCE {
            match self.socket.accept() {
                Ok((stream, address)) => self.let_in(stream, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
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
    /// A peer says hello to a thread of its own, which may have to wait for it.
    fn let_in(&self, stream: TcpStream, address: SocketAddr) {
        let stream = match arrived(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, %address, "a peer was gone at once");
                return;
            }
        };
        let place = match self.hall.arriving.take(Party::at(address.ip()), "peers are saying hello") {
            Ok(place) => place,
            Err(full) => return refuse(&stream.0, &format!("{full}; try again")),
        };
        let hall = Arc::clone(&self.hall);
        let thread = std::thread::Builder::new().name("shmrpc-hello".into());
        let started = thread.spawn(move || {
            hall.greet(stream, address);
            drop(place);
        });
        if let Err(error) = started {
            tracing::warn!(error = explain_thread(&error), %address, "a peer was turned away");
        }
    }
}

/// A connection from both of its sides: as a stream, and as a socket that the watcher may read.
struct Arrived(Stream, TcpStream);

fn arrived(stream: TcpStream) -> io::Result<Arrived> {
    stream.set_nodelay(true)?;
    // Not inherited from the listener on Linux; said for the reader.
    stream.set_nonblocking(false)?;
    let socket = stream.try_clone()?;
    Ok(Arrived(Stream::socket(OwnedFd::from(stream), true)?, socket))
}

fn refuse(stream: &Stream, reason: &str) {
    if let Ok(bytes) = frame(Header::new(Kind::Failure), clip(reason).as_bytes()) {
        stream.send_now(&bytes);
        stream.end_sending();
    }
}

impl Hall {
    fn greet(self: &Arc<Self>, arrived: Arrived, address: SocketAddr) {
        let Arrived(stream, socket) = arrived;
        let (mut reader, mut message) = (Reader::default(), Message::empty());
        let pool = Pool::new(MAX_CONTROL as u64);
        let until = &mut Until::after(self.policy.hello_timeout);
        let first = reader.next_from(&stream, &mut message, MAX_CONTROL as u64, &pool, until);
        let hello = match first {
            Ok(Header { kind: Kind::Hello, .. }) => {
                Hello::from_bytes(message.private_bytes()).map_err(|error| error.to_string())
            }
            Ok(Header { kind, .. }) => Err(format!("it began with {kind:?}")),
            Err(Cut::Pause(pause)) => Err(format!("no hello came: {pause}")),
            Err(Cut::Header(BadHeader::Stamp { found, .. })) if looks_like_tls(found) => {
                Err("this port speaks plain TCP, and the client TLS; connect with `tcp:`".into())
            }
            Err(error) => Err(format!("the other end does not speak shmrpc: {error}")),
        };
        let refused = match hello {
            Err(reason) => Err((stream, reason)),
            Ok(hello) if hello.token == Token::default() => {
                let met = self.meet(&hello, &stream, socket, address, reader.into_rest());
                met.map_err(|reason| (stream, reason))
            }
            Ok(hello) => self.join(&hello, stream),
        };
        if let Err((stream, reason)) = refused {
            tracing::debug!(reason, %address, "a peer was refused");
            refuse(&stream, &reason);
        }
    }

    /// A further lane of a connection.
    fn join(&self, hello: &Hello, stream: Stream) -> Result<(), (Stream, String)> {
        let known = self.connections.lock().get(&hello.token).and_then(Weak::upgrade);
        let Some(connection) = known.filter(|connection| connection.death().is_none()) else {
            return Err((stream, "there is no such connection any more".into()));
        };
        match stream.unsliced() {
            Ok(stream) => connection.lane_asked(hello.lane, stream),
            Err(error) => tracing::debug!(%error, "a lane was gone at once"),
        }
        Ok(())
    }

    /// A new connection.
    fn meet(
        self: &Arc<Self>,
        theirs: &Hello,
        stream: &Stream,
        socket: TcpStream,
        address: SocketAddr,
        rest: Vec<u8>,
    ) -> Result<(), String> {
        let peer = PeerInfo::remote(address);
        let (application, events) = self.host.welcome(&peer, &theirs.application)?;
        let lanes = self.policy.lanes.min(MAX_LANES);
        let mut hello = Hello::new(self.policy.max_message, lanes, self.policy.memory, application);
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        getrandom::fill(&mut hello.token).map_err(|error| format!("there is no random number: {error}"))?;
        let socket = Socket::tcp(socket).map_err(|error| error.to_string())?;
        let limits = Limits {
            lanes,
            carrier: Carrier::Streams,
            send_max: theirs.max_message.min(LARGEST),
            receive_max: self.policy.max_message.min(LARGEST),
            lent_max: 0,
            memory: None,
            memory_from: u64::MAX,
        };
        let reader = FrameReader::after(rest);
        let parts = Parts {
            limits,
            peer,
            peer_is_client: true,
            trusted: false,
            bases: None,
            dial: Dial::No,
            socket,
            reader,
        };
        let connection = Connection::new(parts, events);
        {
            let mut connections = self.connections.lock();
            connections.retain(|_, connection| connection.upgrade().is_some_and(|it| it.death().is_none()));
            connections.insert(hello.token, Arc::downgrade(&connection));
        }
        self.host.connected(&connection);
        let bytes = frame(Header::new(Kind::Hello), &hello.to_bytes()).map_err(|error| error.to_string())?;
        stream.send_now(&bytes);
        if let Err(error) = connection::watch(&connection) {
            connection.give_up(format!("it cannot be watched: {}", explain(&error)));
        }
        Ok(())
    }
}

/// Whether the first four bytes begin a TLS record of a handshake.
fn looks_like_tls(first: u32) -> bool {
    first.to_le_bytes().starts_with(&[22, 3])
}

/// Connects to the server that listens at `at`.
///
/// # Errors
/// [`MeetError`] says what is wrong and where.
pub fn connect(
    at: &HostPort,
    policy: &Policy,
    application: &[u8],
    timeout: Duration,
    events: Box<dyn Events>,
) -> Result<Met, MeetError> {
    let mut until = Until::after(timeout);
    let (stream, address) = dial(at, policy, &mut until).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => MeetError::TimedOut(timeout),
        _ => MeetError::NoHost { at: at.to_string(), error },
    })?;
    let system = |what| move |error| MeetError::System { what, error };
    let socket = Socket::tcp(stream).map_err(system("cannot set up a socket"))?;
    let mut hello = Hello::new(policy.max_message, MAX_LANES, policy.memory, application.to_vec());
    (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
    socket
        .send(Header::new(Kind::Hello), &hello.to_bytes(), &[], || until.left())
        .map_err(system("cannot send the hello"))?;
    let mut reader = FrameReader::default();
    let frame = hear(&socket, &mut reader, timeout, &mut until)?;
    let theirs = open_hello(&frame)?;
    if theirs.carrier != Carrier::Streams || theirs.base_len > 0 || theirs.token == Token::default() {
        return Err(HelloError::Answer(ANSWER).into());
    }
    let limits = Limits {
        lanes: theirs.lanes.min(MAX_LANES),
        carrier: Carrier::Streams,
        send_max: theirs.max_message.min(LARGEST),
        receive_max: policy.max_message.min(LARGEST),
        lent_max: 0,
        memory: None,
        memory_from: u64::MAX,
    };
    let dial = Dial::Again(Box::new(Again { address, token: theirs.token }));
    let peer = PeerInfo::remote(address);
    let parts =
        Parts { limits, peer, peer_is_client: false, trusted: false, bases: None, dial, socket, reader };
    let connection = Connection::new(parts, events);
    if let Err(error) = connection::watch(&connection) {
        connection.die(Death { reason: "it cannot be watched".into(), peer_closed: false });
        return Err(MeetError::System { what: "cannot watch the socket", error });
    }
    Ok(Met { connection, application: theirs.application, reason: String::new() })
}

/// Connects to the first address of the host that answers.
fn dial(at: &HostPort, policy: &Policy, until: &mut Until) -> io::Result<(TcpStream, SocketAddr)> {
    let addresses = at.resolve(until)?;
    at.check(&addresses, policy.plain_tcp)?;
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match dial_one(address, until) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn dial_one(address: SocketAddr, until: &mut Until) -> io::Result<TcpStream> {
    let stream = match until.left() {
        Some(left) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
        Some(left) => TcpStream::connect_timeout(&address, left)?,
        None => TcpStream::connect(address)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How a client has one more lane: it connects once more and repeats the token.
struct Again {
    address: SocketAddr,
    token: Token,
}

impl Redial for Again {
    fn dial(&self, lane: u32, until: &mut Until) -> io::Result<Stream> {
        let stream = dial_one(self.address, until)?;
        let stream = Stream::socket(OwnedFd::from(stream), true)?;
        let mut hello = Hello::new(0, 0, crate::shm::memory::Memory::default(), Vec::new());
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        (hello.token, hello.lane) = (self.token, lane);
        let bytes = frame(Header::new(Kind::Hello), &hello.to_bytes())?;
        stream.send(&bytes, until).map_err(|(_, pause)| io::Error::other(pause))?;
        Ok(stream)
    }
}

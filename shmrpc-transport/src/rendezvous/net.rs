//! How two processes meet over TCP, plain or under TLS: a hello each way, and one more connection for each lane. On a network
//! nobody is trusted, and no memory is shared.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::net::if_::if_nametoindex;

use super::door::Door;
use super::hello::Token;
use super::{ANSWER, Hello, HelloError, Host, LARGEST, MeetError, Met, Policy, hear, open_hello, watch};
use crate::connection::{self, Carrier, Connection, Death, Dial, Events, Limits, Parts, Redial};
use crate::peers::PeerInfo;
use crate::shm::memory::Memory;
use crate::shm::segment::MAX_LANES;
use crate::slot::{Header, Kind};
use crate::stream::{Pause, Stream};
use crate::sys::fork::{Generation, Inherited};
use crate::sys::futex::Until;
use crate::sys::socket::{FrameReader, Socket, frame, keep_alive};
use crate::sys::watcher::{Token as Watched, Watcher};
use crate::tls::{Acceptor, Connector, Link};
use hall::{Entrance, Hall};

mod hall;

/// A host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets; behind it, if it is of one link alone, `%` and the
    /// interface that leads there, by its name or number.
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
        let scope = match address {
            SocketAddr::V6(address) if address.scope_id() != 0 => format!("%{}", address.scope_id()),
            _ => String::new(),
        };
        Self { host: format!("{}{scope}", address.ip()), port: address.port() }
    }
}

impl HostPort {
    /// The host as others know it, too: without the interface of this one.
    pub fn host_alone(&self) -> &str {
        self.scoped().map_or(&self.host, |_| self.host.split('%').next().unwrap_or_default())
    }

    /// An address of one link, and the interface that leads there.
    fn scoped(&self) -> Option<(Ipv6Addr, &str)> {
        let (address, interface) = self.host.split_once('%')?;
        Some((address.parse().ok()?, interface))
    }

    /// All addresses that the name has. What the system is asked may take long; the time is ours.
    fn resolve(&self, until: &mut Until) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        if let Some((address, interface)) = self.scoped() {
            return Ok(vec![SocketAddrV6::new(address, self.port, 0, number_of(interface)?).into()]);
        }
        let (say, said) = std::sync::mpsc::channel();
        let name = (self.host.clone(), self.port);
        let thread = std::thread::Builder::new().name("shmrpc-resolver".into());
        thread.spawn(move || say.send(name.to_socket_addrs().map(Vec::from_iter)))?;
        let answer = match until.left() {
            Some(left) => said.recv_timeout(left).map_err(|_| io::ErrorKind::TimedOut),
            None => said.recv().map_err(|_| io::ErrorKind::NotFound),
        };
        let found = each_once(answer?.map_err(|error| unknown(&error.to_string()))?);
        if found.is_empty() { Err(unknown("the system has no address for it")) } else { Ok(found) }
    }

    /// Refuses what leaves this host, unless it was asked for.
    fn check(&self, addresses: &[SocketAddr], plain: bool) -> io::Result<()> {
        match addresses.iter().find(|address| !plain && !address.ip().to_canonical().is_loopback()) {
            None => Ok(()),
            Some(beyond) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{} is not an address of this host alone, and whoever is on the way can read and change what goes over plain TCP; use `tls:`, or if plain TCP is wanted, say `.allow_plain_tcp()` on the builder",
                    beyond.ip()
                ),
            )),
        }
    }
}

/// Without repetitions: a name may stand twice in the system's files.
fn each_once(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses
}

/// A name for which the system has no address.
fn unknown(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{why}; is the name right? `getent ahosts NAME` asks the system the same"),
    )
}

/// How often the system may choose a port for a host of several addresses.
const CHOICES: u32 = 16;

/// The number that an interface has here. One is as good as its name.
fn number_of(interface: &str) -> io::Result<u32> {
    match if_nametoindex(interface) {
        Ok(number) => Ok(number),
        Err(errno) => interface.parse().ok().filter(|number| *number != 0).ok_or_else(|| {
            let words =
                format!("there is no network interface `{interface}` here ({errno}); `ip link` lists them");
            io::Error::new(io::ErrorKind::InvalidInput, words)
        }),
    }
}

/// TCP ports that are listened on, and not served yet.
#[derive(Debug)]
pub struct Ports {
    listeners: Vec<Inherited<TcpListener>>,
    addresses: Vec<SocketAddr>,
    tls: Option<Acceptor>,
}

impl Ports {
    /// Listens at every address of the host, for plain TCP or for TLS. With port 0, the system chooses one for all of them.
    ///
    /// # Errors
    /// The system's.
    pub fn bind(at: &HostPort, policy: &Policy, tls: Option<Acceptor>) -> io::Result<Self> {
        let wanted = at.resolve(&mut Until::never())?;
        at.check(&wanted, policy.plain_tcp || tls.is_some())?;
        let bound = bind_all(&wanted, TcpListener::bind)?;
        let addresses = bound.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        bound.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        Ok(Self { listeners: bound.into_iter().map(Inherited::new).collect(), addresses, tls })
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
        let hall = Hall::new(policy, host, self.tls);
        let mut listener = NetListener { tokens: Vec::new(), process: Generation::current() };
        for mut socket in self.listeners {
            socket.keep()?;
            listener.tokens.push(watch(Arc::new(Door::new(Entrance::new(socket, &hall))?))?);
        }
        Ok(listener)
    }
}

/// Listens at all addresses, on one port. The one that the system chooses for the first address may be somebody's at another;
/// then it chooses again.
fn bind_all(
    wanted: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    let is_chosen = wanted.iter().all(|address| address.port() == 0);
    let mut more = 1..if is_chosen { CHOICES } else { 1 };
    loop {
        match bind_once(wanted, &mut bind) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && more.next().is_some() => {}
            bound => return bound,
        }
    }
}

fn bind_once(
    wanted: &[SocketAddr],
    mut bind: impl FnMut(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    let (mut bound, mut port, mut failed) = (Vec::new(), 0, None);
    for mut address in wanted.iter().copied() {
        if address.port() == 0 {
            address.set_port(port);
        }
        match bind(address) {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                bound.push(listener);
            }
            // A name of both kinds, where the system has one.
            Err(error) if is_of_no_kind_here(&error) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match failed {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Whether the system has no such addresses, be it that it knows nothing of their kind (`ipv6.disable=1`).
fn is_of_no_kind_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
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

/// Connects to the server that listens at `at`, over plain TCP or TLS.
///
/// # Errors
/// [`MeetError`] says what is wrong and where.
pub fn connect(
    at: &HostPort,
    policy: &Policy,
    tls: Option<&Connector>,
    application: &[u8],
    timeout: Duration,
    events: Box<dyn Events>,
) -> Result<Met, MeetError> {
    let (Greeted { address, certificate, socket, reader, theirs }, failed) =
        greet_any(at, policy, tls, application, timeout)?;
    let limits = Limits {
        lanes: theirs.lanes.min(MAX_LANES),
        carrier: Carrier::Streams,
        send_max: theirs.max_message.min(LARGEST),
        receive_max: policy.max_message.min(LARGEST),
        lent_max: 0,
        memory: None,
        memory_from: u64::MAX,
    };
    let dial = Dial::Again(Box::new(Again {
        address,
        silence: policy.max_silence,
        token: theirs.token,
        tls: tls.cloned(),
    }));
    let peer = PeerInfo::remote(address, certificate);
    let (peer_is_client, trusted, bases, budget) = (false, false, None, None);
    let parts = Parts { limits, peer, peer_is_client, trusted, bases, budget, dial, socket, reader };
    let connection = Connection::new(parts, events);
    if let Err(error) = connection::watch(&connection) {
        connection.die(Death { reason: "it cannot be watched".into(), peer_closed: false });
        return Err(MeetError::System { what: "cannot watch the socket", error });
    }
    let failed: Vec<_> = failed.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    Ok(Met { connection, application: theirs.application, reason: failed.join("; ") })
}

/// Addresses that did not do, and why.
type Failed = Vec<(SocketAddr, MeetError)>;

/// A server that has said hello.
struct Greeted {
    address: SocketAddr,
    certificate: Option<Arc<[u8]>>,
    socket: Socket,
    reader: FrameReader,
    theirs: Hello,
}

/// Says hello at one address of the host after the other, until one answers. They share the time. Says which did not do before it.
fn greet_any(
    at: &HostPort,
    policy: &Policy,
    tls: Option<&Connector>,
    application: &[u8],
    timeout: Duration,
) -> Result<(Greeted, Failed), MeetError> {
    let mut until = Until::after(timeout);
    let no_host = |error| no_host(at, timeout, error);
    let addresses = at.resolve(&mut until).map_err(no_host)?;
    at.check(&addresses, policy.plain_tcp || tls.is_some()).map_err(no_host)?;
    let mut failed = Vec::new();
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for (left, address) in (1..=count).rev().zip(addresses) {
        let share = until.left().map_or(timeout, |time| time / left);
        let error = match dial_one(address, policy.max_silence, &mut Until::after(share)) {
            Ok(stream) => match greet(address, stream, policy, tls, application, share) {
                Ok(greeted) => return Ok((greeted, failed)),
                Err(error) => error,
            },
            Err(error) => no_host(error),
        };
        tracing::debug!(%at, %address, %error, "an address did not do");
        failed.push((address, error));
    }
    Err(none_of(at, failed).unwrap_or(MeetError::TimedOut(timeout)))
}

/// Why no address of a host did. `None` if the time of all was over.
fn none_of(at: &HostPort, mut failed: Failed) -> Option<MeetError> {
    match failed.len() {
        0 | 1 => failed.pop().map(|(_, error)| error),
        _ if failed.iter().all(|(_, error)| matches!(error, MeetError::TimedOut(_))) => None,
        _ => Some(MeetError::NoAddress { at: at.to_string(), each: failed }),
    }
}

fn no_host(at: &HostPort, timeout: Duration, error: io::Error) -> MeetError {
    match error.kind() {
        io::ErrorKind::TimedOut => MeetError::TimedOut(timeout),
        _ => MeetError::NoHost { at: at.to_string(), error },
    }
}

fn greet(
    address: SocketAddr,
    stream: TcpStream,
    policy: &Policy,
    tls: Option<&Connector>,
    application: &[u8],
    timeout: Duration,
) -> Result<Greeted, MeetError> {
    let mut until = Until::after(timeout);
    let (socket, certificate) = match tls {
        None => (Socket::tcp(stream, policy.max_silence), None),
        Some(connector) => {
            let link = shake_hands(connector, stream, &mut until).map_err(|pause| no_tls(pause, timeout))?;
            let certificate = link.certificate();
            (Socket::tls(link, policy.max_silence), certificate)
        }
    };
    let socket = socket.map_err(|error| MeetError::System { what: "cannot set up a socket", error })?;
    let mut hello = Hello::new(policy.max_message, MAX_LANES, policy.memory, application.to_vec());
    (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
    if let Err(error) = socket.send(Header::new(Kind::Hello), &hello.to_bytes(), &[], || until.left()) {
        // A server that refuses before it reads leaves its reason behind; whoever reads finds it.
        tracing::debug!(%error, "the hello was not taken");
    }
    let mut reader = FrameReader::default();
    let frame = hear(&socket, &mut reader, timeout, &mut until)?;
    let theirs = open_hello(&frame)?;
    if theirs.carrier != Carrier::Streams || theirs.base_len > 0 || theirs.token == Token::default() {
        return Err(HelloError::Answer(ANSWER).into());
    }
    Ok(Greeted { address, certificate, socket, reader, theirs })
}

fn dial_one(address: SocketAddr, silence: Duration, until: &mut Until) -> io::Result<TcpStream> {
    let stream = match until.left() {
        Some(left) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
        Some(left) => TcpStream::connect_timeout(&address, left)?,
        None => TcpStream::connect(address)?,
    };
    // A port of this host at which nobody listens may be the one that the system chose for us: then we met ourselves.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    keep_alive(stream.as_fd(), silence)?;
    Ok(stream)
}

/// The handshake of TLS, for a client.
fn shake_hands(connector: &Connector, stream: TcpStream, until: &mut Until) -> Result<Arc<Link>, Pause> {
    let link = Arc::new(connector.connect(stream)?);
    Stream::tls(Arc::clone(&link))?.shake_hands(until)?;
    Ok(link)
}

fn no_tls(pause: Pause, timeout: Duration) -> MeetError {
    match pause {
        Pause::TimedOut => MeetError::TimedOut(timeout),
        Pause::Severed(broken) => broken.into(),
        pause => MeetError::Tls { reason: pause.to_string(), is_lasting: false },
    }
}

/// How a client has one more lane: it connects once more and repeats the token.
struct Again {
    address: SocketAddr,
    silence: Duration,
    token: Token,
    tls: Option<Connector>,
}

impl Redial for Again {
    fn dial(&self, lane: u32, until: &mut Until) -> io::Result<Stream> {
        let socket = dial_one(self.address, self.silence, until)?;
        let failed = |pause| match pause {
            Pause::TimedOut => io::ErrorKind::TimedOut.into(),
            pause => io::Error::other(pause),
        };
        let stream = match &self.tls {
            None => Stream::socket(OwnedFd::from(socket), true)?,
            Some(connector) => Stream::tls(shake_hands(connector, socket, until).map_err(failed)?)?,
        };
        let mut hello = Hello::new(0, 0, Memory::default(), Vec::new());
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        (hello.token, hello.lane) = (self.token, lane);
        let bytes = frame(Header::new(Kind::Hello), &hello.to_bytes())?;
        stream.send(&bytes, until).map_err(|(_, pause)| failed(pause))?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests;

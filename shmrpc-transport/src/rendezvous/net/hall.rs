//! The side that listens on a network: peers that are saying hello, each to a thread of its own, and the connections that
//! their further lanes belong to.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};

use nix::poll::PollFlags;
use parking_lot::Mutex;

use super::super::arrivals::{Arrivals, MADE_ROOM, Seat};
use super::super::door::{self, no_descriptor};
use super::super::hello::Token;
use super::super::{Hello, Host, LARGEST, Policy, Refusal, read_hello};
use crate::connection::{self, Carrier, Connection, Dial, Limits, Parts};
use crate::message::{Message, Pool};
use crate::peers::{Party, PeerInfo};
use crate::places::Places;
use crate::shm::segment::MAX_LANES;
use crate::slot::{BadHeader, Header, Kind};
use crate::stream::{Cut, Pause, Reader, Stream, wait};
use crate::sys::fork::Inherited;
use crate::sys::futex::Until;
use crate::sys::shortage::{explain, explain_thread};
use crate::sys::socket::{FrameReader, MAX_CONTROL, Socket, clip, frame, keep_alive};
use crate::tls::{Acceptor, Broken, Link};

/// What a peer of TLS is told that there is no place for, or that makes room, before any handshake: the alert `internal_error` (RFC 8446, 6.2).
const NO_PLACE: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// What all ports of one endpoint share.
pub(super) struct Hall {
    policy: Policy,
    host: Arc<dyn Host>,
    /// How a peer becomes one under TLS, if that is what is spoken here.
    tls: Option<Acceptor>,
    arrivals: Arc<Arrivals<Desk>>,
    connections: Mutex<HashMap<Token, Weak<Connection>>>,
}

/// One listening socket.
pub(super) struct Entrance {
    socket: Inherited<TcpListener>,
    hall: Arc<Hall>,
}

/// Where a thread hears one peer, and whoever comes in its place.
#[derive(Clone)]
struct Desk(SyncSender<Newcomer>);

/// A peer that has connected and not yet said hello.
struct Newcomer {
    stream: TcpStream,
    /// The same socket, by which the peer may be told to make room.
    second: Arc<TcpStream>,
    address: SocketAddr,
    seat: Seat<Desk>,
}

impl Entrance {
    pub(super) fn new(socket: Inherited<TcpListener>, hall: &Arc<Hall>) -> Self {
        Self { socket, hall: Arc::clone(hall) }
    }

    /// A new desk, and the thread at it, which may have to wait for those that it hears.
    fn desk(&self) -> io::Result<Desk> {
        // One is heard, and one may have come in its place.
        let (send, come) = sync_channel::<Newcomer>(1);
        let hall = Arc::clone(&self.hall);
        let thread = std::thread::Builder::new().name("shmrpc-hello".into());
        // It ends when nobody can come any more: the last one has left its seat, and the desk with it.
        thread.spawn(move || come.iter().for_each(|newcomer| hall.hear(newcomer)))?;
        Ok(Desk(send))
    }
}

impl door::Entrance for Entrance {
    type Peer = (TcpStream, SocketAddr);

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn accept(&self) -> io::Result<Self::Peer> {
        self.socket.accept()
    }

    /// A peer says hello to a thread: one of its own, or that of a peer that makes room.
    fn let_in(&self, (stream, address): Self::Peer) {
        let second = match stream.try_clone() {
            Ok(second) => Arc::new(second),
            Err(error) => return self.turn_away((stream, address), &no_descriptor(&error)),
        };
        let (place, desk) = match self.hall.arrivals.room(Party::at(address.ip())) {
            Ok(room) => room,
            Err(full) => return self.turn_away((stream, address), &format!("{full}; try again")),
        };
        let desk = match desk.map_or_else(|| self.desk(), Ok) {
            Ok(desk) => desk,
            Err(error) => {
                let reason = format!("it has no thread to hear a hello: {}", explain_thread(&error));
                tracing::warn!(reason, %address, "a peer was turned away");
                return self.turn_away((stream, address), &reason);
            }
        };
        let seat = self.hall.arrivals.seat(place, Arc::clone(&second) as Arc<_>, desk.clone());
        let sent = desk.0.try_send(Newcomer { stream, second, address, seat });
        if let Err(TrySendError::Full(newcomer) | TrySendError::Disconnected(newcomer)) = sent {
            self.turn_away(
                (newcomer.stream, address),
                "it is not done with others that came before; try again",
            );
        }
    }

    fn turn_away(&self, (stream, _): Self::Peer, reason: &str) {
        match Stream::socket(OwnedFd::from(stream), true) {
            Ok(stream) if self.hall.tls.is_some() => {
                stream.send_now(&NO_PLACE);
                stream.end_sending();
            }
            Ok(stream) => refuse(&stream, &reason.into()),
            Err(error) => tracing::debug!(%error, "a peer was turned away without a reason"),
        }
    }
}

/// A connection from both of its sides: as a stream, and as a socket that the watcher may read.
struct Arrived {
    stream: Stream,
    control: Control,
}

enum Control {
    Plain(Arc<TcpStream>),
    Tls(Arc<Link>),
}

impl Control {
    /// The handshake of TLS, if that is spoken here.
    fn shake_hands(&self, seat: &Seat<Desk>, until: &mut Until) -> Result<(), Pause> {
        let Self::Tls(link) = self else { return Ok(()) };
        while !link.shake_hands()? {
            self.wait(seat, until)?;
        }
        Ok(())
    }

    /// Takes some bytes from `stream`, which is the same socket. A byte now and then earns no more time.
    fn receive(
        &self,
        stream: &Stream,
        room: &mut [u8],
        seat: &Seat<Desk>,
        until: &mut Until,
    ) -> Result<usize, Pause> {
        while !until.is_over() {
            match stream.receive_now(room) {
                Err(Pause::TimedOut) => self.wait(seat, until)?,
                received => return received,
            }
        }
        Err(Pause::TimedOut)
    }

    /// Waits for the peer, who may have to make room meanwhile, and at no other time.
    fn wait(&self, seat: &Seat<Desk>, until: &mut Until) -> Result<(), Pause> {
        let (socket, what) = match self {
            Self::Plain(socket) => (socket.as_fd(), PollFlags::POLLIN),
            Self::Tls(link) => (link.as_fd(), link.wanted()),
        };
        seat.wait(|| wait(socket, what, until))
    }
}

/// What can be said to a peer with which there is no session.
fn refuse_handshake(link: &Link, pause: &Pause, seat: &Seat<Desk>) -> io::Result<()> {
    let made_room = seat.leave().is_none();
    let tls = "this port speaks TLS, and the client plain TCP; connect with `tls:`";
    match pause {
        Pause::Severed(Broken::Plain) => match bytes_of(&Refusal::lasting(tls.into())) {
            Some(bytes) => link.say_plainly(&bytes),
            None => Ok(()),
        },
        // Once this side has answered, the other one believes no alert that is not encrypted.
        _ if made_room && !link.has_answered() => link.say_plainly(&NO_PLACE),
        _ => Ok(()),
    }
}

fn refuse(stream: &Stream, refusal: &Refusal) {
    if let Some(bytes) = bytes_of(refusal) {
        stream.send_now(&bytes);
        stream.end_sending();
    }
}

fn bytes_of(refusal: &Refusal) -> Option<Vec<u8>> {
    frame(refusal.header(), clip(&refusal.reason).as_bytes()).ok()
}

impl Hall {
    pub(super) fn new(policy: Policy, host: Arc<dyn Host>, tls: Option<Acceptor>) -> Arc<Self> {
        // Whoever comes to another endpoint of the server has places there: nobody else needs half of these.
        let arrivals = Arrivals::new(Places::of_networks_alone, policy.hello_timeout);
        Arc::new(Self { policy, host, tls, arrivals, connections: Mutex::default() })
    }

    fn hear(self: &Arc<Self>, newcomer: Newcomer) {
        let Newcomer { stream, second, address, seat } = newcomer;
        match self.arrived(stream, second) {
            Ok(arrived) => self.greet(arrived, address, &seat),
            Err(error) => tracing::debug!(%error, %address, "a peer was gone at once"),
        }
    }

    fn arrived(&self, stream: TcpStream, second: Arc<TcpStream>) -> Result<Arrived, Pause> {
        stream.set_nodelay(true)?;
        keep_alive(stream.as_fd(), self.policy.max_silence)?;
        // Not inherited from the listener on Linux; said for the reader.
        stream.set_nonblocking(false)?;
        let Some(acceptor) = &self.tls else {
            let control = Control::Plain(second);
            return Ok(Arrived { stream: Stream::socket(OwnedFd::from(stream), true)?, control });
        };
        let link = Arc::new(acceptor.accept(stream)?);
        Ok(Arrived { stream: Stream::tls(Arc::clone(&link))?, control: Control::Tls(link) })
    }

    /// The handshake of TLS, if that is spoken here, and a hello, all in the time of one.
    fn greet(self: &Arc<Self>, arrived: Arrived, address: SocketAddr, seat: &Seat<Desk>) {
        let Arrived { stream, control } = arrived;
        let until = &mut Until::after(self.policy.hello_timeout);
        if let Err(pause) = control.shake_hands(seat, until) {
            tracing::debug!(%pause, %address, "a peer was refused");
            if let Control::Tls(link) = &control
                && let Err(error) = refuse_handshake(link, &pause, seat)
            {
                tracing::debug!(%error, %address, "a peer was refused without a reason");
            }
            return;
        }
        let certificate = match &control {
            Control::Tls(link) => link.certificate(),
            Control::Plain(_) => None,
        };
        let peer = PeerInfo::remote(address, certificate);
        let (mut reader, mut message) = (Reader::default(), Message::empty());
        let pool = Pool::new(MAX_CONTROL as u64);
        let first = reader.next(&mut message, MAX_CONTROL as u64, &pool, |room| {
            control.receive(&stream, room, seat, until)
        });
        let Some(_place) = seat.leave() else {
            tracing::debug!(%address, "a peer made room for another one");
            return refuse(&stream, &MADE_ROOM.into());
        };
        let hello = match first {
            Ok(header) => read_hello(header, message.private_bytes()).map_err(Refusal::from),
            Err(Cut::Pause(pause)) => Err(format!("no hello came: {pause}").into()),
            Err(Cut::Header(BadHeader::Stamp { found, .. })) if looks_like_tls(found) => {
                Err(Refusal::lasting(
                    "this port speaks plain TCP, and the client TLS; connect with `tcp:`".into(),
                ))
            }
            Err(error) => Err(format!("the other end does not speak shmrpc: {error}").into()),
        };
        let refused = match hello {
            Err(reason) => Err((stream, reason)),
            Ok(hello) if hello.token == Token::default() => {
                let met = self.meet(&hello, &stream, control, peer, reader.into_rest());
                met.map_err(|reason| (stream, reason))
            }
            // What is said before the answer would be lost.
            Ok(_) if !reader.is_empty() => {
                Err((stream, "the hello of a lane is to be answered before anything else is said".into()))
            }
            Ok(hello) => self.join(&hello, &peer, stream).map_err(|refused| *refused),
        };
        if let Err((stream, refusal)) = refused {
            tracing::debug!(?refusal, %address, "a peer was refused");
            refuse(&stream, &refusal);
        }
    }

    /// A further lane of a connection. Under TLS the token is not enough: it has to be the same client.
    fn join(&self, hello: &Hello, peer: &PeerInfo, stream: Stream) -> Result<(), Box<(Stream, Refusal)>> {
        let known = self.connections.lock().get(&hello.token).and_then(Weak::upgrade);
        let Some(connection) = known.filter(|connection| connection.death().is_none()) else {
            return Err(Box::new((stream, "there is no such connection any more".into())));
        };
        if connection.peer().certificate() != peer.certificate() {
            return Err(Box::new((stream, "that connection is of a client with another certificate".into())));
        }
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
        control: Control,
        peer: PeerInfo,
        rest: Vec<u8>,
    ) -> Result<(), Refusal> {
        let (application, events) = self.host.welcome(&peer, &theirs.application)?;
        let lanes = self.policy.lanes.min(MAX_LANES);
        let mut hello = Hello::new(self.policy.max_message, lanes, self.policy.memory, application);
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        getrandom::fill(&mut hello.token).map_err(|error| format!("there is no random number: {error}"))?;
        let socket = match control {
            Control::Plain(socket) => {
                let socket = Arc::into_inner(socket).ok_or("somebody else has its socket")?;
                Socket::tcp(socket, self.policy.max_silence)
            }
            Control::Tls(link) => Socket::tls(link, self.policy.max_silence),
        };
        let socket = socket.map_err(|error| error.to_string())?;
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
            budget: self.policy.budget.clone(),
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::super::arrivals;
    use super::super::super::door::Entrance as _;
    use super::*;
    use crate::connection::Events;
    use crate::places::Limit;
    use crate::sys::shortage::descriptor_limit;

    struct Nobody;

    impl Host for Nobody {
        fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
            Err("nobody is welcome".into())
        }
        fn connected(&self, _: &Arc<Connection>) {}
    }

    /// Other endpoints of the server have places of their own.
    #[test]
    fn peers_of_networks_have_all_places() {
        let hall = Hall::new(Policy::default(), Arc::new(Nobody), None);
        let hosts = (1..).map(|host| Party::at(Ipv4Addr::from_bits(host).into()));
        let inside: Vec<_> = hosts.map_while(|host| hall.arrivals.room(host).ok()).collect();
        assert_eq!(inside.len(), arrivals::limit(descriptor_limit()).of_all);
    }

    /// Else whoever comes next would find no chair there, and the one who made room would have done so for nobody.
    #[test]
    fn whoever_waits_at_a_desk_makes_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let arrivals =
            Arrivals::within(Places::of_networks_alone(Limit { of_all: 4, of_one: 1 }), Duration::ZERO);
        let (policy, host) = (Policy::default(), Arc::new(Nobody));
        let hall = Arc::new(Hall { policy, host, tls: None, arrivals, connections: Mutex::default() });
        let entrance = Entrance::new(Inherited::new(listener), &hall);
        // A desk whose thread is not done with the first one.
        let (send, come) = sync_channel(1);
        let (place, _) = hall.arrivals.room(Party::at(at.ip())).unwrap();
        let (_far, near) = UnixStream::pair().unwrap();
        let first = hall.arrivals.seat(place, Arc::new(near), Desk(send)).awaited();
        let comes = || {
            let far = TcpStream::connect(at).unwrap();
            entrance.let_in(entrance.accept().unwrap());
            far
        };
        let _second = comes();
        assert!(first.leave().is_none(), "it made room");
        let _third = comes();
        let second = come.try_recv().unwrap();
        assert!(second.seat.leave().is_some(), "it made room for somebody who was turned away");
        assert!(come.try_recv().is_err());
    }
}

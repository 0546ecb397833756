//! Between hosts: what becomes of a connection, and of its lanes, that a client has left because its server had closed it.
//! The server is played by hand, so each lane says what it says when it is to.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, getsockname};
use shmrpc_transport::callers::{Callers, Lease};
use shmrpc_transport::connection::{Carrier, Connection, Events, LaneStream};
use shmrpc_transport::lane::Outgoing;
use shmrpc_transport::rendezvous::{Hello, Policy, net};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{HEADER, Header, Kind};
use shmrpc_transport::sys::futex::Until;

const BOUND: Duration = Duration::from_secs(30);

struct Client;

impl Events for Client {
    fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
        Err("a client serves nothing".into())
    }
    fn closed(&self, _: &Connection) {}
}

struct Server(TcpListener);

impl Server {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Lets a client in. Its connection, and the other end of that.
    fn meet(&self) -> (Arc<Connection>, TcpStream) {
        let at = self.0.local_addr().unwrap().into();
        thread::scope(|scope| {
            let far = scope.spawn(|| {
                let mut hello = Hello::new(1 << 20, 64, Memory::Memfd, Vec::new());
                (hello.carrier, hello.base_len, hello.token) = (Carrier::Streams, 0, [7; 16]);
                self.answer(Header::new(Kind::Hello), &hello.to_bytes())
            });
            let met = net::connect(&at, &Policy::default(), None, &[], BOUND, Box::new(Client)).unwrap();
            (met.connection, far.join().unwrap())
        })
    }

    /// One more lane, and the other end of it.
    fn lane<'c>(&self, callers: &'c Callers) -> (Lease<'c>, TcpStream) {
        thread::scope(|scope| {
            let open = Header { call_id: 1, ..Header::new(Kind::LaneOpen) };
            let far = scope.spawn(move || self.answer(open, &[]));
            (callers.lease(&mut Until::after(BOUND)).unwrap(), far.join().unwrap())
        })
    }

    /// Whoever comes says hello, and is told this.
    fn answer(&self, header: Header, payload: &[u8]) -> TcpStream {
        let (mut far, _) = self.0.accept().unwrap();
        far.set_read_timeout(Some(BOUND)).unwrap();
        assert_eq!(receive(&mut far), Kind::Hello);
        let header = Header { length: payload.len().try_into().unwrap(), ..header };
        far.write_all(&[&header.to_frame()[..], payload].concat()).unwrap();
        far
    }
}

/// The kind of the next frame.
fn receive(far: &mut TcpStream) -> Kind {
    let mut head = [0; HEADER];
    far.read_exact(&mut head).unwrap();
    let header = Header::from_frame(&head).unwrap();
    far.read_exact(&mut vec![0; header.length as usize]).unwrap();
    header.kind
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "never came: {what}");
        thread::yield_now();
    }
}

/// Whether this process has a socket that is bound to the address.
fn is_held(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    numbers
        .filter_map(|number| number.to_str()?.parse().ok())
        .any(|number| getsockname::<SockaddrIn>(number) == Ok(SockaddrIn::from(address)))
}

/// Nobody calls there any more, so nobody would notice that they have ended.
#[test]
fn lanes_at_rest_are_let_go_of_once_the_next_connection_is_there() {
    let server = Server::new();
    let (left, control) = server.meet();
    let callers = Callers::new(Arc::clone(&left), ());
    let (leases, lanes): (Vec<_>, Vec<_>) = (0..3).map(|_| server.lane(&callers)).unzip();
    leases.into_iter().for_each(Lease::end);
    drop(control);
    until("the client knows", || left.is_going_away());
    let (next, _control) = server.meet();
    callers.replace(next, ());
    assert!(left.death().is_some_and(|death| death.peer_closed), "{left:?}");
    for lane in lanes {
        let near = lane.peer_addr().unwrap();
        until("the client lets go of a lane", || !is_held(near));
    }
}

/// It is told that no more comes. A server that lives says goaway then, and with its last lane the connection ends.
#[test]
fn a_lane_that_is_left_with_something_under_way_says_its_last() {
    let server = Server::new();
    let (left, control) = server.meet();
    let callers = Callers::new(Arc::clone(&left), ());
    let (mut lease, mut lane) = server.lane(&callers);
    let request = Outgoing { method: 0, value: &7_u32, recursive: false, descriptors: None, discard: None };
    lease.seat().unwrap().lane.send(request, &mut Until::after(BOUND)).unwrap();
    lease.end();
    drop(control);
    until("the client knows", || left.is_going_away());
    let (next, _control) = server.meet();
    callers.replace(next, ());
    assert_eq!(left.death(), None);
    assert_eq!(receive(&mut lane), Kind::OneWay);
    assert_eq!(lane.read(&mut [0]).unwrap(), 0, "more came");
    assert_eq!(left.death(), None, "it was not told, but cut");
    lane.write_all(&Header { call_id: 1, ..Header::new(Kind::GoAway) }.to_frame()).unwrap();
    callers.finish(&mut Until::after(BOUND));
    assert!(left.death().is_some_and(|death| death.peer_closed), "{left:?}");
}

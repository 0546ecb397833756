//! Who makes room for others is told, if there is a way to.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use shmrpc_transport::connection::{Connection, Events};
use shmrpc_transport::peers::PeerInfo;
use shmrpc_transport::rendezvous::net::Ports;
use shmrpc_transport::rendezvous::{Host, Policy, Refusal};
use shmrpc_transport::tls::Acceptor;

use crate::raw::{Link, failure, port};
use crate::support::authority::Authority;
use crate::support::{BOUND, until};

struct Nobody;

impl Host for Nobody {
    fn welcome(&self, _: &PeerInfo, _: &[u8]) -> Result<(Vec<u8>, Box<dyn Events>), Refusal> {
        Err("nobody is welcome".into())
    }
    fn connected(&self, _: &Arc<Connection>) {}
}

/// The alert `internal_error`: clients say that there was no place.
const NO_PLACE: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// But not between the server's answer in the handshake and the client's next word (ARCHITECTURE.md, "TLS").
#[test]
fn whoever_makes_room_is_told() {
    let authority = Authority::new();
    let policy = Policy { hello_timeout: Duration::from_secs(3600), ..Policy::default() };
    let acceptor = Acceptor::new(Some(&authority.tls("127.0.0.1"))).unwrap();
    let ports = Ports::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into(), &policy, Some(acceptor)).unwrap();
    let endpoint = format!("tls:{}", ports.addresses()[0]);
    let _listener = ports.start(policy, Arc::new(Nobody)).unwrap();
    let dial = || {
        let socket = TcpStream::connect(("127.0.0.1", port(&endpoint))).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    };
    let (mut silent, mut begun) = (dial(), dial());
    begun.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252]).unwrap();
    let alice = authority.sign("alice");
    let link = || Link::connect(&endpoint, &authority, Some(&alice)).socket;
    let (mut answered, mut shaken) = (link(), link());
    answered.conn.write_tls(&mut answered.sock).unwrap();
    shaken.flush().unwrap();
    let others = RefCell::new(Vec::new());
    until("they make room", || {
        // Nobody makes room who has just come, and nobody says when.
        std::thread::sleep(Duration::from_millis(5));
        others.borrow_mut().push(dial());
        [&silent, &begun, &shaken.sock].into_iter().all(has_heard)
    });
    for socket in [&mut silent, &mut begun] {
        let mut alert = [0; NO_PLACE.len()];
        socket.read_exact(&mut alert).unwrap();
        assert_eq!(alert, NO_PLACE);
    }
    let mut answer = Vec::new();
    answered.sock.read_to_end(&mut answer).unwrap();
    assert!(!answer.windows(NO_PLACE.len()).any(|bytes| bytes == NO_PLACE), "that is nothing to a client");
    assert_eq!(failure(&mut shaken), "it said no hello yet, and its place was wanted; try again");
}

/// Whether something has come, or the end.
fn has_heard(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let heard = socket.peek(&mut [0]).is_ok();
    socket.set_nonblocking(false).unwrap();
    heard
}

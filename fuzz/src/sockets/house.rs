//! A real server, the one that follows it, and their honest clients.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use shmrpc::{Endpoint, ServeError, Server, ServerHandle};

use super::Ground;
use super::end::End;
use super::service::{Here, MixClient, MixServer};
use crate::wire::{BOUND, MAX_MESSAGE};

/// Honest calls of each sort while one server follows another.
const MEANWHILE: usize = 8;

/// One guest at a time.
pub(super) static HOUSE: LazyLock<Mutex<House>> = LazyLock::new(|| Mutex::new(House::new()));

pub(super) struct House {
    /// Always, but while one follows another.
    server: Option<ServerHandle>,
    /// In the abstract namespace: nothing is left behind.
    unix: String,
    tcp: SocketAddr,
    honest: [MixClient; 2],
}

impl House {
    fn new() -> Self {
        let unix = format!("shmrpc-fuzz-{}", std::process::id());
        // An address of its own: at another one somebody might get the port while one server follows another.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let server = open(&unix, (Ipv4Addr::new(127, a, b, c), 0).into());
        let tcp = server.endpoints().iter().find_map(|endpoint| match endpoint {
            Endpoint::Tcp(at) => Some(SocketAddr::new(at.host.parse().unwrap(), at.port)),
            _ => None,
        });
        let tcp = tcp.unwrap();
        let ways = [format!("uds:@{unix}"), format!("tcp:{tcp}")];
        let honest = ways.map(|way| MixClient::builder().timeout(BOUND).connect(way).unwrap());
        Self { server: Some(server), unix, tcp, honest }
    }

    /// The honest clients lose nothing.
    pub(super) fn serves(&self, with: u32) {
        serves(&self.honest, with);
    }

    pub(super) fn dial(&self, ground: Ground) -> End {
        match ground {
            Ground::Tcp => TcpStream::connect(self.tcp).unwrap().into(),
            Ground::Uds | Ground::Memory => {
                let at = UnixAddr::from_abstract_name(&self.unix).unwrap();
                UnixStream::connect_addr(&at).unwrap().into()
            }
        }
    }

    /// The server begins to drain, and another one follows it at its addresses. Honest calls that are made meanwhile all
    /// succeed, here or there. Returns what becomes of the first server.
    pub(super) fn drain(&mut self, with: u32) -> JoinHandle<Result<(), ServeError>> {
        let Self { server, unix, tcp, honest } = self;
        let old = server.take().expect("a server");
        std::thread::scope(|scope| {
            scope.spawn(|| (0..MEANWHILE).for_each(|_| serves(honest, with)));
            let old = std::thread::spawn(move || old.shutdown(BOUND));
            *server = Some(open(unix, *tcp));
            old
        })
    }

    /// Waits until nobody but the honest clients is there.
    pub(super) fn is_left(&self) {
        let server = self.server.as_ref().expect("a server");
        let end = Instant::now() + BOUND;
        while server.connections() > self.honest.len() {
            assert!(Instant::now() < end, "a connection stays");
            std::thread::yield_now();
        }
    }
}

/// Serves at both addresses, when nobody else does any more.
fn open(unix: &str, tcp: SocketAddr) -> ServerHandle {
    let server = Server::builder().service(MixServer::new(Here)).max_message(MAX_MESSAGE);
    let server = server.listen(format!("uds:@{unix}")).listen(format!("tcp:{tcp}"));
    server.wait_for_endpoints(BOUND).start().unwrap()
}

fn serves(honest: &[MixClient], with: u32) {
    for client in honest {
        assert_eq!(client.add(with, 7), Ok(u64::from(with) + 7));
        assert_eq!(client.text("honest").as_deref(), Ok("honest"));
    }
}

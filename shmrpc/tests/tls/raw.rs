//! Peers that are none of ours: rustls alone, and frames by hand.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use shmrpc::Memory;
use shmrpc_transport::connection::Carrier;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::rkyv;
use shmrpc_transport::slot::{HEADER, Header, Kind};

use crate::support::BOUND;
use crate::support::authority::{Authority, Identity};

pub(crate) fn port(endpoint: &str) -> u16 {
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}

/// A client.
pub(crate) struct Link {
    pub(crate) socket: StreamOwned<ClientConnection, TcpStream>,
}

fn identity(own: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(&own.chain).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(&own.key).unwrap())
}

impl Link {
    pub(crate) fn connect(endpoint: &str, authority: &Authority, own: Option<&Identity>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority.pem).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match own.map(identity) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1").unwrap());
        let socket = TcpStream::connect(("127.0.0.1", port(endpoint))).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { socket: StreamOwned::new(session.unwrap(), socket) }
    }

    /// Says hello to a service, and returns the token of the connection.
    pub(crate) fn meet(&mut self, service: &str) -> [u8; 16] {
        let question = (service.to_owned(), Vec::<(String, bool, u64, String)>::new());
        let question = rkyv::to_bytes::<rkyv::rancor::Error>(&question).unwrap().to_vec();
        let mut hello = Hello::new(1 << 20, 64, Memory::Memfd, question);
        (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
        self.socket.write_all(&frame(&hello)).unwrap();
        let (kind, payload) = receive(&mut self.socket);
        assert_eq!(kind, Kind::Hello, "{}", String::from_utf8_lossy(&payload));
        Hello::from_bytes(&payload).unwrap().token
    }

    /// Asks for the first lane of another connection.
    pub(crate) fn lane(&mut self, token: [u8; 16]) -> Result<(), String> {
        self.lane_at(token, 0)
    }

    /// Asks for a lane of another connection.
    pub(crate) fn lane_at(&mut self, token: [u8; 16], number: u32) -> Result<(), String> {
        self.socket.write_all(&hello(token, number)).unwrap();
        match receive(&mut self.socket) {
            (Kind::LaneOpen, _) => Ok(()),
            (_, reason) => Err(String::from_utf8_lossy(&reason).into_owned()),
        }
    }
}

/// The first frame of a further lane.
pub(crate) fn hello(token: [u8; 16], lane: u32) -> Vec<u8> {
    let mut hello = Hello::new(0, 0, Memory::Memfd, Vec::new());
    (hello.carrier, hello.base_len) = (Carrier::Streams, 0);
    (hello.token, hello.lane) = (token, lane);
    frame(&hello)
}

fn frame(hello: &Hello) -> Vec<u8> {
    let payload = hello.to_bytes();
    let header = Header { length: payload.len().try_into().unwrap(), ..Header::new(Kind::Hello) };
    [&header.to_frame()[..], &payload].concat()
}

fn receive(from: &mut impl Read) -> (Kind, Vec<u8>) {
    let mut head = [0; HEADER];
    from.read_exact(&mut head).unwrap();
    let header = Header::from_frame(&head).unwrap();
    let mut payload = vec![0; header.length as usize];
    from.read_exact(&mut payload).unwrap();
    (header.kind, payload)
}

/// Why a server has refused.
pub(crate) fn failure(socket: &mut impl Read) -> String {
    let (kind, payload) = receive(socket);
    assert_eq!(kind, Kind::Failure);
    String::from_utf8(payload).unwrap()
}

/// Reads until the other end has closed.
pub(crate) fn closed(socket: &mut TcpStream) {
    socket.set_read_timeout(Some(BOUND)).unwrap();
    loop {
        match socket.read(&mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return super::end(&error),
        }
    }
}

/// A server for one client, which asks for no certificate, and how its handshake ended.
pub(crate) fn listen_once(own: &Identity) -> (String, JoinHandle<io::Error>) {
    let (endpoint, listener, config) = listen(own);
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        shake_hands(socket, &config)
    });
    (endpoint, server)
}

/// The same for one client after another, as long as the process lives.
pub(crate) fn listen_always(own: &Identity) -> String {
    let (endpoint, listener, config) = listen(own);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            drop(shake_hands(socket.unwrap(), &config));
        }
    });
    endpoint
}

fn listen(own: &Identity) -> (String, TcpListener, Arc<ServerConfig>) {
    let (chain, key) = identity(own);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tls:127.0.0.1:{}", listener.local_addr().unwrap().port());
    (endpoint, listener, Arc::new(config))
}

fn shake_hands(socket: TcpStream, config: &Arc<ServerConfig>) -> io::Error {
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let session = ServerConnection::new(Arc::clone(config)).unwrap();
    StreamOwned::new(session, socket).read(&mut [0]).unwrap_err()
}

//! The same inside the encrypted streams of TLS: the tap has certificates of the authority that both sides believe, so that it
//! is the server to clients and a client to the server, and has every byte that their peers decrypt.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use shmrpc::prelude::*;

use crate::poison::service::{PaddedClient, UnknownClient};
use crate::poison::wire::{Way, talk};
use crate::support::authority::{Authority, Identity};
use crate::{ONE_AT_A_TIME, assert_none, call_all, leaks, lend, lend_large, receive_large, send_large};

/// Who the tap is to either side.
struct Keys {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Keys {
    fn of(authority: &Authority) -> Self {
        let own = authority.sign("127.0.0.1");
        let provider = || Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let (chain, key) = identity(&own);
        let server = server.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority.pem).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let (chain, key) = identity(&own);
        let client = client.unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    /// Passes on what is inside two encrypted streams.
    fn carry(&self, client: TcpStream, server: TcpStream) -> [Way; 2] {
        let near = ServerConnection::new(Arc::clone(&self.server)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let far = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let [near, far] = [(near.into(), client), (far.into(), server)].map(Leg::shake_hands).map(Arc::new);
        [(Arc::clone(&near), Arc::clone(&far)), (far, near)].map(|(from, to)| spawn(move || pass(&from, &to)))
    }
}

fn identity(own: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(&own.chain).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(&own.key).unwrap())
}

/// One of the two connections that the tap has in hand, with TLS. One thread receives and one sends.
struct Leg {
    session: Mutex<Connection>,
    socket: TcpStream,
}

impl Leg {
    fn shake_hands((mut session, socket): (Connection, TcpStream)) -> Self {
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut &socket).unwrap();
        }
        Self { session: Mutex::new(session), socket }
    }

    /// What comes next; nothing when the other end has no more to say.
    fn receive(&self) -> Vec<u8> {
        let (mut piece, mut plain) = (vec![0; 1 << 14], Vec::new());
        let mut rest: &[u8] = &[];
        loop {
            let mut session = self.session.lock().unwrap();
            // What came with the handshake lies here already.
            let has_ended = match session.reader().read_to_end(&mut plain) {
                Err(error) => error.kind() != ErrorKind::WouldBlock,
                Ok(_) => true,
            };
            if has_ended {
                return plain;
            }
            if !rest.is_empty() {
                session.read_tls(&mut rest).unwrap();
                session.process_new_packets().unwrap();
                continue;
            }
            drop(session);
            if !plain.is_empty() {
                return plain;
            }
            let Ok(length @ 1..) = (&self.socket).read(&mut piece) else { return plain };
            rest = &piece[..length];
        }
    }

    /// Sends these, or that there is no more. False if nobody wants it.
    fn send(&self, bytes: &[u8]) -> bool {
        let mut encrypted = Vec::new();
        let mut session = self.session.lock().unwrap();
        if bytes.is_empty() {
            session.send_close_notify();
        }
        session.writer().write_all(bytes).unwrap();
        while session.wants_write() {
            session.write_tls(&mut encrypted).unwrap();
        }
        // Whoever is to take it may want to say something first.
        drop(session);
        (&self.socket).write_all(&encrypted).is_ok()
    }
}

/// Passes on what comes from one, to its end.
fn pass(from: &Leg, to: &Leg) -> Vec<u8> {
    let mut shown = Vec::new();
    loop {
        let piece = from.receive();
        shown.extend_from_slice(&piece);
        if !to.send(&piece) || piece.is_empty() {
            let _ = to.socket.shutdown(Shutdown::Write);
            return shown;
        }
    }
}

/// The same as [`talk`], and what is kept is what the encrypted streams have inside.
fn sealed(authority: &Authority, part: impl FnOnce(&PaddedClient)) -> Vec<Vec<u8>> {
    let keys = Keys::of(authority);
    let carry = move |client, server| keys.carry(client, server);
    let server = Server::builder().tls(authority.tls("127.0.0.1"));
    let padded = PaddedClient::builder().tls(authority.tls("alice"));
    let unknown = UnknownClient::builder().tls(authority.tls("alice"));
    talk("tls", server, carry, (padded, unknown), part)
}

#[test]
fn nothing_private_is_inside_an_encrypted_stream() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let authority = Authority::new();
    for part in [call_all, send_large, receive_large, lend, lend_large] {
        assert_none(&leaks(|| sealed(&authority, part)));
    }
}

/// The test itself: what a handler gives away is seen, short or long.
#[test]
fn a_leak_inside_an_encrypted_stream_would_be_seen() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let authority = Authority::new();
    for length in [1, 500, 2_000_000] {
        let leak = |client: &PaddedClient| drop(client.leaks(length).unwrap());
        assert!(leaks(|| sealed(&authority, leak)).len() >= length as usize, "{length}");
    }
}

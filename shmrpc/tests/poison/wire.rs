//! The same where no memory is shared, and a message is written to the heap before it is sent: every byte on every
//! connection over TCP, kept by a tap in front of the server's port.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::{JoinHandle, spawn};

use shmrpc::prelude::*;
use shmrpc::{ClientBuilder, ServerBuilder};

use crate::poison::service::{Here, PaddedClient, PaddedServer, Poisoned, UnknownClient};
use crate::support::BOUND;
use crate::{
    ONE_AT_A_TIME, assert_none, call_all, connect_by, leaks, lend, lend_large, poison_stack, receive_large,
    send_large,
};

/// One way of a connection that is passed on; ends with what went over it.
pub(crate) type Way = JoinHandle<Vec<u8>>;

/// Passes on all connections to a server, and keeps what goes over them.
struct Wiretap {
    pub(crate) at: SocketAddr,
    is_over: Arc<AtomicBool>,
    passing: JoinHandle<Vec<Vec<u8>>>,
}

impl Wiretap {
    /// Passes each connection on by `carry`, which is given the client's and the server's.
    pub(crate) fn new(
        server: SocketAddr,
        carry: impl Fn(TcpStream, TcpStream) -> [Way; 2] + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let passing = spawn(move || {
            let mut ways = Vec::new();
            loop {
                let (client, _) = listener.accept().unwrap();
                if over.load(Ordering::Acquire) {
                    break;
                }
                ways.extend(carry(client, TcpStream::connect(server).unwrap()));
            }
            ways.into_iter().map(|way| way.join().unwrap()).collect()
        });
        Self { at, is_over, passing }
    }

    /// What went over each connection, to the server and from it; when all have ended.
    pub(crate) fn shown(self) -> Vec<Vec<u8>> {
        self.is_over.store(true, Ordering::Release);
        drop(TcpStream::connect(self.at).unwrap());
        self.passing.join().unwrap()
    }
}

fn plain(client: TcpStream, server: TcpStream) -> [Way; 2] {
    [(&client, &server), (&server, &client)].map(|(from, to)| {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        spawn(move || pass(&from, &to))
    })
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        shown.extend_from_slice(&piece[..length]);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
    shown
}

/// Runs `part` as a client of `server` behind a tap, and a client that is refused. Returns all that the two sides said.
pub(crate) fn talk(
    scheme: &str,
    server: ServerBuilder,
    carry: impl Fn(TcpStream, TcpStream) -> [Way; 2] + Send + 'static,
    clients: (ClientBuilder<PaddedClient>, ClientBuilder<UnknownClient>),
    part: impl FnOnce(&PaddedClient),
) -> Vec<Vec<u8>> {
    let server = server.service(Poisoned(PaddedServer::new(Here))).listen(format!("{scheme}:127.0.0.1:0"));
    let server = server.start().unwrap();
    let at = server.endpoints()[0].to_string();
    let (_, at) = at.split_once(':').unwrap();
    let tap = Wiretap::new(at.parse().unwrap(), carry);
    let endpoint = format!("{scheme}:{}", tap.at);
    let client = connect_by(clients.0, &endpoint);
    part(&client);
    poison_stack();
    clients.1.connect(&endpoint).unwrap_err();
    server.shutdown(BOUND).unwrap();
    drop(client);
    tap.shown()
}

fn wired(part: impl FnOnce(&PaddedClient)) -> Vec<Vec<u8>> {
    talk("tcp", Server::builder(), plain, (PaddedClient::builder(), UnknownClient::builder()), part)
}

#[test]
fn nothing_private_goes_over_a_stream() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for part in [call_all, send_large, receive_large, lend, lend_large] {
        assert_none(&leaks(|| wired(part)));
    }
}

/// The test itself: what a handler gives away is seen, short or long.
#[test]
fn a_leak_over_a_stream_would_be_seen() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for length in [1, 500, 2_000_000] {
        let leak = |client: &PaddedClient| drop(client.leaks(length).unwrap());
        assert!(leaks(|| wired(leak)).len() >= length as usize, "{length}");
    }
}

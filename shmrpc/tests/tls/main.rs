//! TLS: who is let in, what is said to those who are not, and that a link that was cut ends no call well.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shmrpc::prelude::*;
use shmrpc::{ConnectError, Pem, ServeError, ServerBuilder, Tls, TlsError};

use crate::raw::{closed, failure, hello, listen_once, port};
use crate::support::authority::{Authority, Identity};
use crate::support::relay::Relay;
use crate::support::{BOUND, Gate, Keeper, Place, gate, until};

mod again;
mod choice;
mod inside;
mod raw;
mod room;
#[path = "../support/mod.rs"]
mod support;

#[shmrpc::service]
pub trait Work {
    fn add(&self, a: u32, b: u32) -> u32;
    fn who(&self, ctx: &Context) -> Option<Vec<u8>>;
    fn sum(&self, bytes: &[u8]) -> u64;
    fn sums(&self) -> u64;
    fn echo(&self, bytes: &[u8]) -> Vec<u8>;
    fn wait(&self);
}

struct Worker {
    sums: AtomicU64,
    gate: Gate,
}

impl Work for Worker {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn who(&self, ctx: &Context) -> Option<Vec<u8>> {
        ctx.peer().certificate().map(<[u8]>::to_vec)
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        self.sums.fetch_add(1, Ordering::Relaxed);
        bytes.iter().map(|byte| u64::from(*byte)).sum()
    }
    fn sums(&self) -> u64 {
        self.sums.load(Ordering::Relaxed)
    }
    fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
    fn wait(&self) {
        self.gate.pass();
    }
}

fn worker() -> (ServerBuilder, Keeper) {
    let (gate, keeper) = gate();
    let worker = Worker { sums: AtomicU64::new(0), gate };
    (Server::builder().service(WorkServer::new(worker)), keeper)
}

fn serve(tls: Tls) -> (ServerHandle, String, Keeper) {
    serve_with(tls, |server| server)
}

fn serve_with(
    tls: Tls,
    options: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (ServerHandle, String, Keeper) {
    let (builder, keeper) = worker();
    let server = options(builder.listen("tls:127.0.0.1:0").tls(tls)).start().unwrap();
    let endpoint = server.endpoints()[0].to_string();
    (server, endpoint, keeper)
}

fn client(endpoint: &str, tls: Tls) -> Result<WorkClient, ConnectError> {
    WorkClient::builder().timeout(BOUND).connect_timeout(BOUND).reconnect(false).tls(tls).connect(endpoint)
}

/// Why a client is not let in.
fn why_not(endpoint: &str, tls: Tls) -> String {
    client(endpoint, tls).unwrap_err().to_string()
}

#[track_caller]
fn says(text: &str, why: &str) {
    assert!(text.contains(why), "`{text}` does not say `{why}`");
}

#[test]
fn both_sides_know_each_other_by_their_certificates() {
    let authority = Authority::new();
    let (own, alice) = (authority.sign("127.0.0.1"), authority.sign("alice"));
    let (_server, endpoint, _keeper) = serve(own.with(authority.roots()));
    let work = client(&endpoint, alice.with(authority.roots())).unwrap();
    assert_eq!(work.who(), Ok(Some(alice.der)));
    let transport = work.transport();
    assert_eq!(transport.peer().certificate(), Some(&*own.der));
    says(&transport.to_string(), "TLS to 127.0.0.1");
}

#[test]
fn clients_of_one_server_are_told_apart_on_every_lane() {
    let authority = Authority::new();
    let (_server, endpoint, keeper) = serve(authority.tls("127.0.0.1"));
    let names = [authority.sign("alice"), authority.sign("bob")];
    let clients = names.each_ref().map(|own| client(&endpoint, own.with(authority.roots())).unwrap());
    std::thread::scope(|scope| {
        for work in &clients {
            scope.spawn(|| work.wait());
            keeper.entered();
        }
        // The first lane of each is taken, so this is another.
        for (work, own) in clients.iter().zip(&names) {
            assert_eq!(work.who(), Ok(Some(own.der.clone())));
            assert!(work.transport().peer().credentials().is_none());
        }
        (0..clients.len()).for_each(|_| keeper.release());
    });
}

#[test]
fn whom_the_roots_have_not_signed_for_is_no_peer() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let text = why_not(&endpoint, other.tls("alice"));
    says(&text, "the other end's certificate is signed by nobody in our roots");
    // A client that believes the server, and that the server does not believe.
    let text = why_not(&endpoint, other.sign("alice").with(authority.roots()));
    says(&text, "the other end refuses our certificate: it is signed by nobody in its roots");
    assert_eq!(server.connections(), 0);
}

#[test]
fn the_name_of_an_authority_is_not_its_key() {
    let (authority, forged) = (Authority::named("us"), Authority::named("us"));
    let (server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let text = why_not(&endpoint, forged.tls("alice"));
    says(&text, "the other end's certificate is signed by nobody in our roots, but by another key");
    let text = why_not(&endpoint, forged.sign("alice").with(authority.roots()));
    says(
        &text,
        "the other end refuses our certificate: it is signed by nobody in its roots, but by another key",
    );
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_client_without_a_certificate_is_let_in_only_where_that_is_said() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let text = why_not(&endpoint, authority.roots());
    says(&text, "the server wants a certificate, and this client has none; say `.identity(");
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1").allow_clients_without_certificate());
    assert_eq!(client(&endpoint, authority.roots()).unwrap().who(), Ok(None));
    let alice = authority.sign("alice");
    let work = client(&endpoint, alice.with(authority.roots())).unwrap();
    assert_eq!(work.who(), Ok(Some(alice.der)));
    let text = why_not(&endpoint, Authority::new().sign("eve").with(authority.roots()));
    says(&text, "it is signed by nobody in its roots");
}

#[test]
fn a_server_is_who_its_certificate_says() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("kv.example"));
    let text = why_not(&endpoint, authority.tls("alice"));
    says(&text, "the server's certificate is for");
    says(&text, "kv.example");
    says(&text, "and not for `127.0.0.1`; if it is the right one, say `.server_name(..)`");
    let work = client(&endpoint, authority.tls("alice").server_name("kv.example")).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    // Each lane is checked alike.
    std::thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| assert_eq!(work.add(3, 4), Ok(7)))));
    });
}

/// Neither side of ours shows what is too old, so the other end is none of ours.
#[test]
fn a_certificate_whose_time_is_over_is_refused_by_both_sides() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let mut old = raw::Link::connect(&endpoint, &authority, Some(&authority.sign_until("alice", 2001)));
    old.socket.write_all(&hello([0; 16], 0)).unwrap_or_default();
    says(&old.socket.read(&mut [0]).unwrap_err().to_string(), "CertificateExpired");

    let (endpoint, server) = listen_once(&authority.sign_until("127.0.0.1", 2001));
    let text = why_not(&endpoint, authority.tls("alice"));
    says(&text, "the other end's certificate is refused: certificate expired");
    says(&server.join().unwrap().to_string(), "CertificateExpired");
}

#[test]
fn a_peer_that_speaks_no_tls_is_told_so() {
    let authority = Authority::new();
    let (server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let good = client(&endpoint, authority.tls("alice")).unwrap();
    let plain = endpoint.replace("tls:", "tcp:");
    let text = WorkClient::connect(&plain).unwrap_err().to_string();
    says(&text, "this port speaks TLS, and the client plain TCP; connect with `tls:`");
    let mut browser = TcpStream::connect(("127.0.0.1", port(&endpoint))).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    browser.set_read_timeout(Some(BOUND)).unwrap();
    says(&failure(&mut browser), "this port speaks TLS");
    assert_eq!(good.add(1, 2), Ok(3));
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_client_of_tls_is_told_that_a_port_is_plain() {
    let (builder, _keeper) = worker();
    let server = builder.listen("tcp:127.0.0.1:0").start().unwrap();
    let plain = server.endpoints()[0].to_string();
    let good = WorkClient::connect(&plain).unwrap();
    let text = why_not(&plain.replace("tcp:", "tls:"), Authority::new().tls("alice"));
    says(&text, "this port does not speak TLS; if it is to be plain, connect with `tcp:`");
    assert_eq!(good.add(1, 2), Ok(3));
}

/// They have the time of a hello, all of them at once, and others are served meanwhile.
#[test]
fn who_stalls_the_handshake_is_gone_in_time_and_holds_nobody_up() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let dial = || TcpStream::connect(("127.0.0.1", port(&endpoint))).unwrap();
    // The head of a record with 512 bytes, and a few of them.
    let begun = [22, 3, 1, 2, 0, 1, 0, 1, 252];
    let gone = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for said in [0, 1, 5, 9] {
            let (mut socket, gone) = (dial(), &gone);
            socket.write_all(&begun[..said]).unwrap();
            scope.spawn(move || {
                closed(&mut socket);
                gone.fetch_add(1, Ordering::Relaxed);
            });
        }
        let (mut trickles, ended) = (dial(), Arc::new(AtomicBool::new(false)));
        let (mut heard, ends) = (trickles.try_clone().unwrap(), Arc::clone(&ended));
        trickles.write_all(&begun).unwrap();
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) && trickles.write_all(&[3]).is_ok() {
                // So that it does not reach the record's end: there is nothing to wait for.
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let gone = &gone;
        scope.spawn(move || {
            closed(&mut heard);
            ends.store(true, Ordering::Relaxed);
            gone.fetch_add(1, Ordering::Relaxed);
        });
        until("they are gone", || {
            assert_eq!(client(&endpoint, authority.tls("alice")).unwrap().add(1, 2), Ok(3));
            gone.load(Ordering::Relaxed) == 5
        });
    });
}

#[test]
fn who_does_not_shake_hands_makes_room_for_who_does() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let silent: Vec<_> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", port(&endpoint))).unwrap()).collect();
    // Its address has 32 places. Those who have one make room when they have been silent for long, before their time is over.
    let mut refused = silent;
    let mut seated = refused.drain(..32).collect::<Vec<_>>();
    refused.iter_mut().for_each(closed);
    until("one has made room", || {
        client(&endpoint, authority.tls("alice")).is_ok_and(|client| client.add(1, 2) == Ok(3))
    });
    seated.iter_mut().take(1).for_each(closed);
}

/// The token of a connection opens a lane only to who holds the connection's certificate.
#[test]
fn a_token_is_of_no_use_to_another_client() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1").allow_clients_without_certificate());
    let (alice, eve) = (authority.sign("alice"), authority.sign("eve"));
    let dial = |identity: Option<&Identity>| raw::Link::connect(&endpoint, &authority, identity);
    let mut control = dial(Some(&alice));
    let token = control.meet("Work");
    for other in [Some(&eve), None] {
        says(&dial(other).lane(token).unwrap_err(), "of a client with another certificate");
    }
    let mut wrong = token;
    wrong[0] ^= 1;
    says(&dial(Some(&alice)).lane(wrong).unwrap_err(), "there is no such connection any more");
    assert_eq!(dial(Some(&alice)).lane(token), Ok(()));
}

/// Whoever is on the way may end the TCP connections in all honour. Without the keys that proves nothing.
#[test]
fn a_link_that_was_cut_is_a_death_and_no_end() {
    let authority = Authority::new();
    let (server, endpoint, keeper) = serve(authority.tls("127.0.0.1"));
    let relay = Relay::to(&endpoint);
    let work = client(&relay.endpoint(), authority.tls("alice")).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| work.wait());
        keeper.entered();
        relay.end_all();
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        says(&error.to_string(), "without the close_notify of TLS");
        keeper.release();
    });
    says(&work.add(1, 2).unwrap_err().to_string(), "without the close_notify of TLS");
    until("the server knows, too", || server.connections() == 0);
}

#[test]
fn what_was_changed_on_the_way_ends_the_connection() {
    let authority = Authority::new();
    let (server, endpoint, keeper) = serve(authority.tls("127.0.0.1"));
    let relay = Relay::to(&endpoint);
    let work = client(&relay.endpoint(), authority.tls("alice")).unwrap();
    let other = client(&endpoint, authority.tls("bob")).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| work.wait());
        keeper.entered();
        relay.spoil();
        keeper.release();
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        says(&error.to_string(), "the other end broke TLS");
    });
    until("the server knows, too", || server.connections() == 1);
    assert_eq!(other.add(1, 2), Ok(3));
}

/// Until a record is whole nothing of it can be had, and it comes byte by byte: for 32 s, if it is waited for.
#[test]
fn a_record_that_trickles_keeps_nobody_beyond_his_time() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let relay = Relay::to(&endpoint);
    let work = client(&relay.endpoint(), authority.tls("alice")).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    relay.trickle();
    let error = work.with_timeout(Duration::from_millis(200)).echo(&[7; 16_000]).unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error}");
}

#[test]
fn a_client_that_goes_ends_well() {
    let authority = Authority::new();
    let (server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let work = client(&endpoint, authority.tls("alice")).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    drop(work);
    until("the server knows", || server.connections() == 0);
    assert!(server.shutdown(BOUND).is_ok());
}

/// A frame that nobody takes is half encrypted when its time is over. What is encrypted may still go, the rest never does.
#[test]
fn a_call_that_was_half_sent_is_never_run_and_its_connection_lives() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let relay = Relay::to(&endpoint);
    let work = client(&relay.endpoint(), authority.tls("alice")).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    relay.hold_from(0);
    let error = work.with_timeout(Duration::from_millis(200)).sum(&vec![1; 32 << 20]).unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    relay.release();
    assert_eq!(work.sum(&vec![1; 1 << 20]), Ok(1 << 20));
    // Two threads need two lanes, the one that was set aside among them.
    std::thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(|| assert_eq!(work.sum(&[1; 100]), Ok(100)))));
    });
    assert_eq!(work.sums(), Ok(3));
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_their_names() {
    let (authority, place) = (Authority::new(), Place::new());
    let own = authority.sign("127.0.0.1");
    let file = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (ca, chain, key) =
        (file("ca.pem", &authority.pem), file("own.pem", &own.chain), file("own.key", &own.key));
    let other = file("other.key", &authority.sign("127.0.0.1").key);
    let old = authority.sign_until("127.0.0.1", 2001);
    let (old, old_key) = (file("old.pem", &old.chain), file("old.key", &old.key));
    let junk = file("junk.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let roots = || Tls::with_roots(&*ca);
    let missing = place.path().join("missing.pem");
    for (tls, why) in [
        (Tls::with_roots(&*missing).identity(&*chain, &*key), "missing.pem cannot be read: No such file"),
        (Tls::with_roots(&*key).identity(&*chain, &*key), "there is no certificate in "),
        (Tls::with_roots(&*junk).identity(&*chain, &*key), "junk.pem cannot be used: "),
        (roots().identity(&*chain, &*chain), "there is no private key in "),
        (roots().identity(&*key, &*key), "there is no certificate in "),
        (roots().identity(&*chain, &*other), "other.key does not fit the certificate in "),
        (roots().identity(&*old, &*old_key), "old.pem cannot be used: certificate expired"),
        (roots().identity(&*chain, Pem::Bytes(Vec::new())), "no private key in the 0 bytes of PEM"),
        (roots().identity(String::from_utf8_lossy(&own.chain).as_ref(), &*key), "was given as a path"),
    ] {
        let (builder, _keeper) = worker();
        let error = builder.listen("tls:127.0.0.1:0").tls(tls.clone()).start().unwrap_err();
        assert!(matches!(error, ServeError::Tls { .. }), "{error:?}");
        says(&error.to_string(), why);
        let error = client("tls:127.0.0.1:1", tls).unwrap_err();
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
        says(&error.to_string(), why);
    }
    let (builder, _keeper) = worker();
    let error = builder.listen("tls:127.0.0.1:0").tls(roots()).start().unwrap_err();
    assert!(matches!(error, ServeError::Tls { error: TlsError::NoIdentity, .. }), "{error}");
    let (builder, _keeper) = worker();
    let error = builder.listen("tls:127.0.0.1:0").start().unwrap_err();
    assert!(matches!(error, ServeError::Tls { error: TlsError::NotSaid, .. }), "{error}");
    says(&error.to_string(), "`.tls(Tls::with_roots(");
    let error = WorkClient::connect("tls:127.0.0.1:1").unwrap_err();
    assert!(matches!(error, ConnectError::Tls { error: TlsError::NotSaid, .. }), "{error}");
    says(&why_not("tls:a_b!:1", roots()), "no certificate can be for `a_b!`");
    // As files, they do.
    let (_server, endpoint, _keeper) = serve(roots().identity(&*chain, &*key));
    let work = client(&endpoint, roots().identity(&*chain, &*key)).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
}

#[test]
fn keys_are_not_printed() {
    let own = Authority::new().sign("alice");
    let tls = own.with(Tls::with_roots("ca.pem"));
    let text = format!("{tls:?}");
    assert!(text.contains("ca.pem") && !text.contains("BEGIN") && !text.contains("45, 45"), "{text}");
}

/// Reads until an end, which is no timeout.
fn end(error: &std::io::Error) {
    let timed_out = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!timed_out, "nobody closed it");
}

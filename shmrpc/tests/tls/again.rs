//! A client whose server is followed by another one: what waiting does not mend ends its call at once.

use std::fs::{OpenOptions, remove_file};
use std::io::Write;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shmrpc::Tls;
use shmrpc::prelude::*;

use super::{WorkClient, client, says, serve, worker};
use crate::raw::listen_always;
use crate::support::authority::Authority;
use crate::support::relay::Relay;
use crate::support::{BOUND, Place};

/// A client that has lost its server, and will find the one at `endpoint` in its place.
fn left_to(authority: &Authority, endpoint: &str) -> (WorkClient, Relay) {
    let (server, first, _keeper) = serve(authority.tls("127.0.0.1"));
    let relay = Relay::to(&first);
    let builder = WorkClient::builder().timeout(BOUND).connect_timeout(BOUND).tls(authority.tls("alice"));
    let work = builder.connect(relay.endpoint()).unwrap();
    assert_eq!(work.add(1, 2), Ok(3));
    relay.leads_to(endpoint);
    drop(server);
    relay.end_all();
    (work, relay)
}

/// What a call comes to that begins when the client knows the end of its connection.
fn call(work: &WorkClient) -> Result<u32, CallError> {
    loop {
        match work.add(3, 4) {
            Err(error) if error.outcome() == Outcome::Unknown => {}
            result => return result,
        }
    }
}

#[track_caller]
fn ends_at_once(authority: &Authority, endpoint: &str, why: &str) {
    let (work, _relay) = left_to(authority, endpoint);
    let error = call(&work).unwrap_err();
    assert!(matches!(&error, CallError::Disconnected { outcome: Outcome::NotRun, .. }), "{error}");
    let text = error.to_string();
    says(&text, why);
    assert!(!text.contains("until the call's time was over"), "{text}");
}

#[test]
fn a_server_that_is_not_believed_is_not_waited_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, endpoint, _keeper) = serve(other.tls("127.0.0.1"));
    ends_at_once(&authority, &endpoint, "signed by nobody in our roots");
    let (_server, endpoint, _keeper) = serve(authority.tls("kv.example"));
    ends_at_once(&authority, &endpoint, "and not for `127.0.0.1`");
    let endpoint = listen_always(&authority.sign_until("127.0.0.1", 2001));
    ends_at_once(&authority, &endpoint, "certificate expired");
}

#[test]
fn a_server_that_does_not_believe_its_client_is_not_waited_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, endpoint, _keeper) = serve(authority.sign("127.0.0.1").with(other.roots()));
    ends_at_once(&authority, &endpoint, "refuses our certificate: it is signed by nobody in its roots");
}

#[test]
fn a_port_that_is_plain_now_is_not_waited_for() {
    let (builder, _keeper) = worker();
    let server = builder.listen("tcp:127.0.0.1:0").start().unwrap();
    let endpoint = server.endpoints()[0].to_string();
    ends_at_once(&Authority::new(), &endpoint, "this port does not speak TLS");
}

#[test]
fn a_handshake_that_was_cut_is_tried_again() {
    let authority = Authority::new();
    let (_server, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let (work, relay) = left_to(&authority, &endpoint);
    relay.cut(3);
    assert_eq!(call(&work), Ok(7));
    assert_eq!(relay.to_cut(), 0);
}

/// The files are gone when the port is free. Who reads them once does not know.
#[test]
fn a_server_that_waits_for_its_port_has_read_its_files() {
    let (authority, place) = (Authority::new(), Place::new());
    let (first, endpoint, _keeper) = serve(authority.tls("127.0.0.1"));
    let roots = place.path().join("ca.pem");
    mkfifo(&roots, Mode::S_IRWXU).unwrap();
    let (builder, _keeper) = worker();
    let tls = authority.sign("127.0.0.1").with(Tls::with_roots(&*roots));
    let builder = builder.listen(&endpoint).wait_for_endpoints(BOUND).tls(tls);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| builder.start());
        // Waits for whoever reads it.
        let mut pipe = OpenOptions::new().write(true).open(&roots).unwrap();
        remove_file(&roots).unwrap();
        pipe.write_all(&authority.pem).unwrap();
        drop(pipe);
        first.shutdown(BOUND).unwrap();
        let _second = second.join().unwrap().unwrap();
        assert_eq!(client(&endpoint, authority.tls("alice")).unwrap().add(1, 2), Ok(3));
    });
}

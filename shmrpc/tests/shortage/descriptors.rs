//! Descriptors (EMFILE).

use std::fs::{self, File};

use shmrpc::Transport;
use shmrpc::prelude::*;

use super::{
    Here, LARGE, Limited, ShortClient, ShortServer, child_place, connect, descriptors, disconnected,
    in_child, large, lost, not_encoded, start_server, try_to_connect, why_streams,
};
use crate::support::process::{Process, say};
use crate::support::{BOUND, Place, until};

#[test]
fn child_client_without_descriptors() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().timeout(BOUND).reconnect(false);
    let before = descriptors();
    let mut refused = 0;
    // One more each time, so that each step of connecting fails once. What the process needs once stays: the watcher's.
    let client = loop {
        let limited = Limited::descriptors(refused);
        let connected = builder.connect(&endpoint);
        drop(limited);
        match connected {
            Ok(client) => break client,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("ulimit -n"), "with {refused}: {error}");
                refused += 1;
            }
        }
        // Without a watcher, the next attempt asks whether the server has let go of the memory of this one.
        until("nothing is left of it", || descriptors() - before <= 2);
    };
    assert!((4..10).contains(&refused), "{refused} failures");
    assert_ne!(client.pid(), Ok(std::process::id()));

    let bytes = large();
    let limited = Limited::descriptors(0);
    let text = not_encoded(client.sum(&bytes));
    assert!(text.contains("memfd") && text.contains("ulimit -n"), "{text}");
    // What needs no more memory goes on.
    assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
    drop(limited);
    assert_eq!(client.sum(&bytes), Ok(LARGE.into()));

    // The server's memory comes with a descriptor, too.
    client.prepare(4 * LARGE).unwrap();
    let held = descriptors();
    let limited = Limited::descriptors(0);
    let text = disconnected(client.take());
    assert!(text.contains("ulimit -n"), "{text}");
    drop(limited);
    drop(client);
    until("the connection is closed", || descriptors() < held);
    let client = builder.connect(&endpoint).unwrap();
    assert_eq!(client.sum(&bytes), Ok(LARGE.into()));
    say("well");
}

#[test]
fn a_client_without_descriptors_says_so_and_goes_on() {
    in_child("descriptors::child_client_without_descriptors");
}

/// With too few descriptors for memory there is none, and with fewer there is no connection. Counts both.
fn fallbacks(connect: impl Fn(u32) -> Result<ShortClient, String>) -> [u32; 2] {
    let mut counts = [0; 2];
    for more in 0.. {
        match connect(more) {
            Err(error) => {
                assert!(error.contains("ulimit -n"), "with {more}: {error}");
                assert_eq!(counts[1], 0, "with {more}: {error}");
                counts[0] += 1;
            }
            Ok(client) if client.transport().transport() == Transport::Uds => {
                let reason = why_streams(&client);
                assert!(reason.contains("can share none") && reason.contains("ulimit -n"), "{reason}");
                assert_eq!(client.sum(&large()), Ok(LARGE.into()));
                counts[1] += 1;
            }
            Ok(_) => break,
        }
    }
    counts
}

#[test]
fn child_client_with_few_descriptors() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().timeout(BOUND).reconnect(false);
    // The watcher is there from now on.
    let first = builder.connect(&endpoint).unwrap();
    assert_ne!(first.pid(), Ok(std::process::id()));
    let open = descriptors();
    let counts = fallbacks(|more| {
        until("nothing is left of others", || descriptors() <= open);
        let _limited = Limited::descriptors(usize::try_from(more).unwrap());
        builder.connect(&endpoint).map_err(|error| error.to_string())
    });
    assert!(counts.iter().all(|count| (1..8).contains(count)), "{counts:?}");
    say("well");
}

#[test]
fn a_client_with_too_few_descriptors_for_memory_does_without() {
    in_child("descriptors::child_client_with_few_descriptors");
}

#[test]
fn a_server_with_too_few_descriptors_for_memory_does_without() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let open = first.open().unwrap();
    let counts = fallbacks(|more| {
        until("nothing is left of others", || first.open().as_ref() == Ok(&open));
        first.leave_descriptors(more).unwrap();
        let connected = try_to_connect(&place);
        first.restore().unwrap();
        connected
    });
    assert!(counts.iter().all(|count| (1..10).contains(count)), "{counts:?}");
}

#[test]
fn child_that_listens_without_descriptors() {
    let Some(endpoint) = child_place() else { return };
    let path = std::path::Path::new(endpoint.strip_prefix("shm:").unwrap());
    let names = || fs::read_dir(path.parent().unwrap()).unwrap().count();
    let start = || Server::builder().service(ShortServer::new(Here::default())).listen(&endpoint).start();
    let mut refused = 0;
    let server = loop {
        let limited = Limited::descriptors(refused);
        let started = start();
        drop(limited);
        match started {
            Ok(server) => break server,
            Err(error) => assert!(error.to_string().contains("ulimit -n"), "with {refused}: {error}"),
        }
        assert_eq!(names(), 0, "with {refused}");
        refused += 1;
    };
    assert!((3..8).contains(&refused), "{refused} failures");
    assert_eq!(names(), 2);
    drop(server);
    assert_eq!(names(), 0);
    say("well");
}

#[test]
fn a_server_that_cannot_listen_leaves_no_names() {
    let place = Place::new();
    let mut process = Process::start("descriptors::child_that_listens_without_descriptors", &place);
    process.says("well");
    assert!(process.ends().success());
}

#[test]
fn a_server_without_descriptors_turns_peers_away_and_says_why() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let open = first.open().unwrap();
    let mut refused = 0;
    let second = loop {
        first.leave_descriptors(refused).unwrap();
        let connected = try_to_connect(&place);
        first.restore().unwrap();
        match connected {
            Ok(second) => break second,
            Err(error) => {
                assert!(error.contains("the server refused"), "with {refused}: {error}");
                assert!(error.contains("ulimit -n"), "with {refused}: {error}");
                refused += 1;
            }
        }
        until("nothing is left of it", || first.open().as_ref() == Ok(&open));
    };
    assert!((4..10).contains(&refused), "{refused} failures");
    assert_eq!(second.pid(), first.pid());
    drop(second);
    until("nothing is left of it", || first.open().as_ref() == Ok(&open));

    // Many at once: each is told.
    first.leave_descriptors(0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let error = try_to_connect(&place).unwrap_err();
                assert!(error.contains("cannot take another connection"), "{error}");
            });
        }
    });
    first.restore().unwrap();
    assert_eq!(connect(&place).pid(), first.pid());
}

#[test]
fn a_server_without_descriptors_loses_no_more_than_a_call_or_a_connection() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let second = connect(&place);
    second.pid().unwrap();

    // For its reply.
    first.prepare(LARGE).unwrap();
    first.leave_descriptors(0).unwrap();
    let error = first.take().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Ran);
    let text = lost::<()>(Err(error));
    assert!(text.contains("memfd") && text.contains("ulimit -n"), "{text}");
    assert_eq!(first.sum(&[1; 100_000]), Ok(100_000));

    // What a client holds may come back, so a reply waits for it a while. The reason stays the same.
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    let held = first.view().take().unwrap();
    assert!(held.is_in_place());
    first.prepare(LARGE).unwrap();
    first.leave_descriptors(0).unwrap();
    let text = lost(first.take());
    assert!(text.contains("memfd") && text.contains("ulimit -n"), "{text}");
    drop(held);
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());

    // For memory of a client: that connection ends, and its client learns why.
    let text = disconnected(second.sum(&large()));
    assert!(text.contains("the peer gave up") && text.contains("ulimit -n"), "{text}");
    assert_eq!(first.sum(&[1; 100_000]), Ok(100_000));
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());
    assert_eq!(connect(&place).sum(&large()), Ok(LARGE.into()));
}

type Call = fn(&ShortClient) -> Result<u64, CallError>;

#[test]
fn a_server_without_descriptors_for_those_of_a_call_ends_that_connection() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let open = first.open().unwrap();
    let builder = ShortClient::builder().allow(Peers::Any).timeout(BOUND).reconnect(false);
    for endpoint in [place.endpoint(), place.endpoint().replacen("shm:", "uds:", 1)] {
        // What is large comes in memory of the client's, and that as a descriptor.
        let calls: [Call; 2] =
            [|client| client.sum(&large()), |client| client.length_of(File::open("/dev/null").unwrap())];
        for call in calls {
            // What an earlier one leaves would make room.
            until("nothing is left of others", || first.open().as_ref() == Ok(&open));
            let second = builder.connect(&endpoint).unwrap();
            second.pid().unwrap();
            first.leave_descriptors(0).unwrap();
            let text = disconnected(call(&second));
            assert!(text.contains("the peer gave up") && text.contains("ulimit -n"), "{endpoint}: {text}");
            // What needs no descriptor goes on.
            assert_eq!(first.sum(&[1; 100_000]), Ok(100_000));
            first.restore().unwrap();
            assert!(call(&builder.connect(&endpoint).unwrap()).is_ok());
        }
    }
}

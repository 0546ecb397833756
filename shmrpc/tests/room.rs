//! Calls that do not run because there is no room for them: in the ring, or for a copy.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use shmrpc::ServerBuilder;
use shmrpc::prelude::*;
use support::{BOUND, Gate, Keeper, Place, gate};

#[shmrpc::service]
pub trait Room {
    #[oneway]
    fn linger(&self);
    fn hold(&self, bytes: &[u8]) -> u32;
    fn ran(&self) -> u32;
}

/// Counts what runs, and lets it wait at a gate.
struct Guarded(Gate, AtomicU32);

impl Room for Guarded {
    fn linger(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.pass();
    }
    fn hold(&self, bytes: &[u8]) -> u32 {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.pass();
        u32::try_from(bytes.len()).unwrap()
    }
    fn ran(&self) -> u32 {
        self.1.load(Ordering::SeqCst)
    }
}

fn start(options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (ServerHandle, RoomClient, Keeper, Place) {
    let place = Place::new();
    let (gate, keeper) = gate();
    let server = Server::builder().service(RoomServer::new(Guarded(gate, AtomicU32::new(0))));
    let server = options(server).listen(place.endpoint()).start().unwrap();
    let client = RoomClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    (server, client, keeper, place)
}

/// A ring that is full of one-way calls has no room for one more, so that one is never published.
#[test]
fn deadline_exceeded_before_it_was_published() {
    let (server, client, keeper, _place) = start(|server| server);
    // So that there is a lane.
    assert_eq!(client.ran(), Ok(0));
    let limit = Duration::from_millis(50);
    let hasty = client.with_timeout(limit);
    let mut sent = 0;
    let error = loop {
        match hasty.linger() {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent <= 128, "more than a ring has room for");
    };
    assert_eq!(error, CallError::DeadlineExceeded { timeout: limit, outcome: Outcome::NotRun });
    assert_eq!(error.outcome(), Outcome::NotRun);
    // A call with a reply is refused alike.
    let error = hasty.ran().unwrap_err();
    assert_eq!(error, CallError::DeadlineExceeded { timeout: limit, outcome: Outcome::NotRun });
    for _ in 0..sent {
        keeper.release();
    }
    // What was refused has not run, nor will it.
    assert_eq!(client.ran(), Ok(sent));
    server.shutdown(BOUND).unwrap();
}

/// Arguments of an untrusted peer are copied, for so many bytes at once.
#[test]
fn overloaded_if_there_is_no_room_for_a_copy() {
    let (_server, client, keeper, _place) = start(|server| server.trust(Peers::Nobody).max_message(4 << 20));
    // Four times the largest message and a base segment is the room that there is, and whoever is in keeps its copy.
    let (callers, room) = (16, 4);
    let bytes = vec![1; 4_000_000];
    let (done, ended) = channel();
    thread::scope(|scope| {
        for _ in 0..callers {
            let (client, bytes, done) = (&client, &bytes, done.clone());
            scope.spawn(move || done.send(client.hold(bytes)).unwrap());
        }
        let refused = |result: &Result<u32, CallError>| {
            let error = result.as_ref().unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
            assert!(text.contains("no room for a copy of") && text.contains("17825792"), "{text}");
            assert_eq!(error.outcome(), Outcome::NotRun);
        };
        for _ in room..callers {
            refused(&ended.recv_timeout(BOUND).unwrap());
        }
        for _ in 0..callers {
            keeper.release();
        }
        let rest: Vec<_> = (0..room).map(|_| ended.recv_timeout(BOUND).unwrap()).collect();
        let (well, late): (Vec<_>, Vec<_>) = rest.into_iter().partition(Result::is_ok);
        late.iter().for_each(refused);
        assert!(well.iter().all(|length| *length == Ok(4_000_000)));
        // Those that were refused did not run.
        assert_eq!(client.ran(), Ok(u32::try_from(well.len()).unwrap()));
        assert!(!well.is_empty());
    });
    // There is room again.
    assert_eq!(client.hold(&bytes), Ok(4_000_000));
}

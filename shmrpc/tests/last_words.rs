//! Between hosts a connection and its lanes go ways of their own: what a lane says last may come after the connection's end,
//! and counts.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use shmrpc::prelude::*;
use support::BOUND;
use support::relay::Relay;

#[shmrpc::service]
pub trait Count {
    fn up(&self) -> u32;
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Count for Counter {
    fn up(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// What became of a call that lay at a relay, on its way to the server or back, while the server was shut down: the relay
/// carries it on when the client has taken note of its connection's end. And how many calls have run.
fn overtaken(hold: impl FnOnce(&Relay)) -> (Result<u32, CallError>, u32) {
    let counter = Counter::default();
    let server = Server::builder().service(CountServer::new(counter.clone()));
    let server = server.listen("tcp:127.0.0.1:0").start().unwrap();
    let relay = Relay::to(&server.endpoints()[0].to_string());
    let builder = CountClient::builder().timeout(BOUND).reconnect(false);
    let client = builder.connect(relay.endpoint()).unwrap();
    assert_eq!(client.up(), Ok(1));
    let called = thread::scope(|scope| {
        hold(&relay);
        let call = scope.spawn(|| client.up());
        relay.until_held(1);
        server.shutdown(BOUND).unwrap();
        relay.until_client_ends(0);
        relay.release();
        call.join().unwrap()
    });
    // Nobody begins another one.
    let next = client.up().unwrap_err();
    assert_eq!(next.outcome(), Outcome::NotRun, "{next}");
    (called, counter.0.load(Ordering::SeqCst))
}

#[test]
fn a_reply_that_comes_after_its_connections_end_is_a_reply() {
    assert_eq!(overtaken(|relay| relay.hold_answers_from(1)), (Ok(2), 2));
}

#[test]
fn a_goaway_that_comes_after_its_connections_end_says_what_was_not_run() {
    let (called, ran) = overtaken(|relay| relay.hold_from(1));
    let error = called.unwrap_err();
    assert!(matches!(error, CallError::Disconnected { outcome: Outcome::NotRun, .. }), "{error}");
    assert_eq!(ran, 1);
}

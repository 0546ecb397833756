//! One thread's calls on one client run in the order in which it made them, one-way calls included.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;
use support::relay::Relay;
use support::{BOUND, Place};

#[shmrpc::service]
pub trait Log {
    #[oneway]
    fn record(&self, thread: u32, sequence: u32);
    fn append(&self, thread: u32, sequence: u32) -> u32;
    fn count(&self, thread: u32) -> u32;
}

#[derive(Clone, Default)]
struct Book {
    entries: Arc<Mutex<HashMap<u32, Vec<u32>>>>,
    /// The first call waits here, with the test.
    first: Option<Arc<Barrier>>,
}

impl Book {
    fn note(&self, thread: u32, sequence: u32) -> u32 {
        if let (Some(barrier), 0) = (&self.first, sequence) {
            barrier.wait();
        }
        let mut entries = self.entries.lock().unwrap();
        let own = entries.entry(thread).or_default();
        own.push(sequence);
        u32::try_from(own.len()).unwrap()
    }

    fn check(&self, threads: u32, calls: u32) {
        let entries = self.entries.lock().unwrap();
        assert_eq!(entries.len(), usize::try_from(threads).unwrap());
        for thread in 0..threads {
            let own = &entries[&thread];
            let wrong = own.iter().zip(0..).position(|(found, expected)| *found != expected);
            assert_eq!(wrong, None, "thread {thread} was served in the order {own:?}");
            assert_eq!(own.len(), usize::try_from(calls).unwrap(), "thread {thread}");
        }
    }
}

impl Log for Book {
    fn record(&self, thread: u32, sequence: u32) {
        self.note(thread, sequence);
    }
    fn append(&self, thread: u32, sequence: u32) -> u32 {
        self.note(thread, sequence)
    }
    fn count(&self, thread: u32) -> u32 {
        let entries = self.entries.lock().unwrap();
        entries.get(&thread).map_or(0, |own| u32::try_from(own.len()).unwrap())
    }
}

fn start(book: &Book, lanes: Option<usize>) -> (ServerHandle, LogClient, Place) {
    let place = Place::new();
    let mut server = Server::builder().service(LogServer::new(book.clone())).listen(place.endpoint());
    if let Some(lanes) = lanes {
        server = server.max_lanes(lanes);
    }
    let server = server.start().unwrap();
    let client = LogClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    (server, client, place)
}

/// What one thread does: runs of one-way calls of every length up to 6, each ended by a call that waits.
fn calls(client: &LogClient, thread: u32, calls: u32) {
    let (mut run, mut length) = (0, thread % 7);
    for sequence in 0..calls {
        if run < length {
            client.record(thread, sequence).unwrap();
            run += 1;
        } else {
            assert_eq!(client.append(thread, sequence), Ok(sequence + 1), "thread {thread}");
            (run, length) = (0, (length + 1) % 7);
        }
    }
    assert_eq!(client.count(thread), Ok(calls), "thread {thread}");
}

fn in_threads(threads: u32, number: u32, client: impl Fn() -> LogClient) {
    let begin = Barrier::new(usize::try_from(threads).unwrap());
    thread::scope(|scope| {
        for thread in 0..threads {
            let (client, begin) = (client(), &begin);
            scope.spawn(move || {
                begin.wait();
                calls(&client, thread, number);
            });
        }
    });
}

#[test]
fn one_thread_keeps_its_order() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, None);
    calls(&client, 0, 2000);
    book.check(1, 2000);
}

#[test]
fn sixty_four_threads_on_one_client() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, None);
    let begin = Barrier::new(64);
    thread::scope(|scope| {
        for thread in 0..64 {
            let (client, begin) = (&client, &begin);
            scope.spawn(move || {
                begin.wait();
                calls(client, thread, 200);
            });
        }
    });
    book.check(64, 200);
}

#[test]
fn two_hundred_threads_share_the_lanes() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, None);
    in_threads(200, 60, || client.clone());
    book.check(200, 60);
}

#[test]
fn thirty_two_threads_share_two_lanes() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, Some(2));
    in_threads(32, 100, || client.clone());
    book.check(32, 100);
}

#[test]
fn eight_threads_share_one_lane() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, Some(1));
    in_threads(8, 200, || client.clone());
    book.check(8, 200);
}

#[test]
fn clones_with_other_options_are_the_same_client() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, None);
    // One thread, many handles: the order is the thread's, not the handle's.
    let clones: Vec<_> = (0..16).map(|extra| client.with_timeout(BOUND + BOUND * extra)).collect();
    for sequence in 0..1600 {
        let client = &clones[usize::try_from(sequence).unwrap() % clones.len()];
        if sequence % 5 == 4 {
            assert_eq!(client.append(0, sequence), Ok(sequence + 1));
        } else {
            client.record(0, sequence).unwrap();
        }
    }
    assert_eq!(client.count(0), Ok(1600));
    book.check(1, 1600);
}

#[test]
fn threads_with_clones_of_their_own() {
    let book = Book::default();
    let (_server, client, _place) = start(&book, None);
    in_threads(16, 200, || client.with_timeout(BOUND * 2).clone());
    book.check(16, 200);
}

#[test]
fn a_flood_of_oneway_calls_runs_in_order() {
    let barrier = Arc::new(Barrier::new(2));
    let book = Book { first: Some(Arc::clone(&barrier)), ..Book::default() };
    let (_server, client, _place) = start(&book, None);
    thread::scope(|scope| {
        let (sent, first) = std::sync::mpsc::channel();
        let client = &client;
        scope.spawn(move || {
            for sequence in 0..10_000 {
                client.record(0, sequence).unwrap();
                let _ = sent.send(sequence);
            }
            // No lane may overtake the flood.
            assert_eq!(client.count(0), Ok(10_000));
        });
        // Nothing runs until the handler of the first is let go, and yet some are sent.
        while first.recv_timeout(BOUND).unwrap() < 3 {}
        assert!(book.entries.lock().unwrap().is_empty());
        barrier.wait();
    });
    book.check(1, 10_000);
}

thread_local! {
    /// Calls when its thread ends, after that thread's other values are gone.
    static LAST_WILL: std::cell::RefCell<Option<LastWill>> = const { std::cell::RefCell::new(None) };
}

struct LastWill(LogClient, std::sync::mpsc::Sender<Result<u32, CallError>>);

impl Drop for LastWill {
    fn drop(&mut self) {
        self.1.send(self.0.count(7)).unwrap();
    }
}

#[test]
fn a_thread_that_ends_may_still_call() {
    let place = Place::new();
    let (book, server) = (Book::default(), Server::builder());
    let _server = server.service(LogServer::new(book)).listen(place.endpoint()).start().unwrap();
    let client = LogClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    let (sender, result) = std::sync::mpsc::channel();
    thread::spawn(move || {
        LAST_WILL.set(Some(LastWill(client.clone(), sender)));
        client.record(7, 1).unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(result.recv().unwrap(), Ok(1));
}

/// Something on the way ends a lane, and the server is not told: it is still at the first of two one-way calls. The next call
/// may not go over another stream and overtake them.
#[test]
fn a_lane_that_was_cut_is_not_overtaken() {
    let barrier = Arc::new(Barrier::new(2));
    let book = Book { first: Some(Arc::clone(&barrier)), ..Book::default() };
    // A second connection gets in when the first one is gone, with its handlers.
    let server = Server::builder().service(LogServer::new(book.clone())).max_connections(1);
    let server = server.listen("tcp:127.0.0.1:0").start().unwrap();
    let relay = Arc::new(Relay::to(&server.endpoints()[0].to_string()));
    let client = LogClient::builder().timeout(BOUND).connect(relay.endpoint()).unwrap();
    assert_eq!(client.count(0), Ok(0));
    client.record(0, 0).unwrap();
    client.record(0, 1).unwrap();
    relay.end_towards_client(1);
    // The handler goes on when the client has ended the connection, or at the end of the test.
    let goes_on = thread::spawn({
        let relay = Arc::clone(&relay);
        move || {
            relay.until_client_ends(0);
            barrier.wait();
        }
    });
    // No lane is looked at that was in use just now.
    thread::sleep(Duration::from_millis(50));
    client.append(0, 2).unwrap();
    goes_on.join().unwrap();
    server.shutdown(BOUND).unwrap();
    let entries = book.entries.lock().unwrap();
    assert!(entries[&0].is_sorted(), "served in the order {:?}", entries[&0]);
    assert_eq!(entries[&0].last(), Some(&2));
}

//! Every call is answered, whatever little the caller takes and however long the server is busy with what it returned.
//! And nobody is served by a server that has gone.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use shmrpc::ServerBuilder;
use shmrpc::prelude::*;
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::rkyv;
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{HEADER, Header, Kind};
use support::{BOUND, Gate, Place, gate, until};

/// A result whose end on the server's side takes as long as the test wants.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Slow(u32);

/// Lets a [`Slow`] go. It says whether it was let go in time.
static LET_GO: OnceLock<Mutex<(Receiver<()>, Sender<bool>)>> = OnceLock::new();
/// The thread that calls.
static CALLER: AtomicI32 = AtomicI32::new(0);

impl Drop for Slow {
    fn drop(&mut self) {
        if thread::current().name().is_some_and(|name| name.starts_with("shmrpc-lane")) {
            let (let_go, in_time) = &*LET_GO.get().unwrap().lock().unwrap();
            in_time.send(let_go.recv_timeout(BOUND / 3).is_ok()).unwrap();
        }
    }
}

/// A result whose end on the server's side waits for a gate.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Gated(u32);

static GATE: OnceLock<Gate> = OnceLock::new();

impl Drop for Gated {
    fn drop(&mut self) {
        if thread::current().name().is_some_and(|name| name.starts_with("shmrpc-lane")) {
            GATE.get().unwrap().pass();
        }
    }
}

#[shmrpc::service]
pub trait Answers {
    fn gated(&self, bytes: Vec<u8>) -> Result<u32, Gated>;
    fn bytes(&self, length: u32) -> Vec<u8>;
    fn panic(&self, length: u32);
    fn slow(&self) -> Slow;
}

struct Here;

impl Answers for Here {
    fn gated(&self, bytes: Vec<u8>) -> Result<u32, Gated> {
        Err(Gated(u32::try_from(bytes.len()).unwrap()))
    }
    fn bytes(&self, length: u32) -> Vec<u8> {
        vec![7; length as usize]
    }
    fn panic(&self, length: u32) {
        panic!("{}", "p".repeat(length as usize));
    }
    fn slow(&self) -> Slow {
        let stat = format!("/proc/self/task/{}/stat", CALLER.load(Ordering::SeqCst));
        until("the caller sleeps", || std::fs::read_to_string(&stat).unwrap().contains(") S "));
        Slow(42)
    }
}

fn serve(place: &Place, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> ServerHandle {
    let server = Server::builder().service(AnswersServer::new(Here)).listen(place.endpoint());
    options(server).start().unwrap()
}

/// It says less, down to nothing but that it panicked.
#[test]
fn a_failure_that_the_caller_does_not_take_is_said_shorter() {
    let place = Place::new();
    let _server = serve(&place, |server| server);
    for (endpoint, max, text) in [
        (place.endpoint(), 1024, "raise max_message to see why"),
        (place.endpoint(), 8, "raise max_message to see why"),
        (place.endpoint().replace("shm:", "uds:"), 1024, "raise max_message to see why"),
        (place.endpoint().replace("shm:", "uds:"), 16, ""),
    ] {
        let client = AnswersClient::builder().max_message(max).connect(&endpoint).unwrap();
        let client = client.with_timeout(BOUND);
        assert_eq!(client.panic(1024), Err(CallError::Panicked(text.into())), "{endpoint} {max}");
    }
}

/// The memory that a peer maps of another is bounded by what it takes as a message, whatever `max_lent` says.
#[test]
fn lending_more_does_not_break_the_protocol() {
    let place = Place::new();
    let _server = serve(&place, |server| server.max_lent(64 << 20));
    let client = AnswersClient::builder().max_message(1 << 20).connect(place.endpoint()).unwrap();
    let mut views = Vec::new();
    let error = loop {
        match client.view().bytes(900_000) {
            Ok(view) => views.push(view),
            Err(error) => break error,
        }
        assert!(views.len() < 100, "there is no end to it");
    };
    let right =
        |text: &String| text.contains("all 8388608 bytes") && text.contains("raise max_message on the side");
    assert!(matches!(&error, CallError::BadReply(text) if right(text)), "{error:?}");
    assert!(views.len() >= 5, "{}", views.len());
    drop(views);
    assert_eq!(client.bytes(900_000).map(|bytes| bytes.len()), Ok(900_000));
}

#[test]
fn a_caller_that_sleeps_does_not_wait_for_the_end_of_the_result() {
    let place = Place::new();
    let _server = serve(&place, |server| server);
    let client = AnswersClient::connect(place.endpoint()).unwrap();
    let (let_go, is_let_go) = channel();
    let (in_time, was_in_time) = channel();
    assert!(LET_GO.set(Mutex::new((is_let_go, in_time))).is_ok());
    let caller = thread::spawn(move || {
        CALLER.store(gettid().as_raw(), Ordering::SeqCst);
        // With a deadline it would look again after 100 ms.
        let result = client.with_timeout(Duration::MAX).slow();
        let_go.send(()).unwrap();
        result
    });
    assert!(was_in_time.recv_timeout(BOUND * 2).unwrap(), "the reply came after the result was dropped");
    assert_eq!(caller.join().unwrap(), Ok(Slow(42)));
}

/// It may be made of them, and wait for a client as long as that likes.
#[test]
fn what_is_returned_has_the_room_of_values_until_it_is_gone() {
    const LARGE: u32 = 2_000_000;
    let (gate, keeper) = gate();
    assert!(GATE.set(gate).is_ok());
    for trust in [Peers::SameUser, Peers::Nobody] {
        let place = Place::new();
        let _server = serve(&place, |server| server.max_memory(3 << 20).trust(trust.clone()));
        let [one, other] =
            [0; 2].map(|_| AnswersClient::connect(place.endpoint()).unwrap().with_timeout(BOUND));
        let large = || vec![7; LARGE as usize];
        thread::scope(|scope| {
            let call = scope.spawn(|| one.gated(large()));
            keeper.entered();
            let error = other.gated(large()).unwrap_err();
            assert!(
                matches!(&error, CallError::Overloaded(text) if text.contains("max_memory")),
                "{error:?}"
            );
            // What has none goes without: it is small.
            let small = scope.spawn(|| other.gated(vec![7; 10]));
            keeper.entered();
            for _ in 0..2 {
                keeper.release();
            }
            assert_eq!(call.join().unwrap(), Err(CallError::Service(Gated(LARGE))));
            assert_eq!(small.join().unwrap(), Err(CallError::Service(Gated(10))));
        });
        // There was room when the reply was there.
        keeper.release();
        assert_eq!(other.gated(large()), Err(CallError::Service(Gated(LARGE))));
        keeper.entered();
    }
}

#[test]
fn whoever_says_hello_to_a_server_that_has_gone_is_refused() {
    let place = Place::new();
    let server = serve(&place, |server| server);
    let mut late = UnixStream::connect(place.socket()).unwrap();
    late.set_read_timeout(Some(BOUND)).unwrap();
    // The server has let it in when it lets in the next one.
    let client = AnswersClient::connect(place.endpoint()).unwrap();
    assert_eq!(client.bytes(1), Ok(vec![7]));
    drop(client);
    server.shutdown(Duration::from_secs(5)).unwrap();

    let question = ("Answers".to_owned(), Vec::<(String, bool, u64, String)>::new());
    let question = rkyv::to_bytes::<rkyv::rancor::Error>(&question).unwrap().to_vec();
    let mut hello = Hello::new(1 << 20, 1, Memory::Memfd, question);
    hello.base_len = 0;
    let hello = hello.to_bytes();
    let mut header = Header::new(Kind::Hello);
    header.length = hello.len().try_into().unwrap();
    late.write_all(&header.to_frame()).unwrap();
    late.write_all(&hello).unwrap();

    let mut head = [0; HEADER];
    late.read_exact(&mut head).unwrap();
    let header = Header::from_frame(&head).unwrap();
    let mut answer = vec![0; header.length as usize];
    late.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!((header.kind, &*answer), (Kind::Failure, "the server is shutting down"));
}

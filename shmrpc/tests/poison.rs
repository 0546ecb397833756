//! Promise 7: no byte of our private memory, nor of another connection, reaches a peer; padding included.
//!
//! All memory that is taken from the heap or given back is filled with a poison, and so is the stack before each call
//! and each reply. Then everything is looked at that a peer can see: every byte on the socket, kept by a tap between
//! client and server, every segment, whole, every byte that goes over TCP, and every byte inside the encrypted streams
//! of TLS (with the feature `tls`). The same calls are made with several poisons: where each run shows its own,
//! something private got out.
//!
//! What earlier messages to the same peer left behind, in slots, in the tails of blocks and where a message moved to a
//! larger block, may be seen by that peer: it has had it before.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod support;

mod poison {
    mod handed;
    #[cfg(feature = "tls")]
    mod sealed;
    pub(crate) mod service;
    pub(crate) mod tap;
    pub(crate) mod wire;
}

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use poison::service::{Here, PaddedClient, PaddedServer, Poisoned, Uneven, UnknownClient, holes, many};
use poison::tap::Tap;
use shmrpc::ClientBuilder;
use shmrpc::prelude::*;
use support::{BOUND, Place, until};

static POISON: AtomicU8 = AtomicU8::new(0xa5);
/// The poison is one for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Fills what it hands out and what it takes back.
struct Poisoner;

#[global_allocator]
static HEAP: Poisoner = Poisoner;

// SAFETY: the system's allocator does it all; what is filled belongs to nobody at that moment.
unsafe impl GlobalAlloc for Poisoner {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc(layout) };
        if !memory.is_null() {
            // SAFETY: fresh memory of this size.
            unsafe { memory.write_bytes(POISON.load(Ordering::Relaxed), layout.size()) };
        }
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up memory of this size.
        unsafe { memory.write_bytes(POISON.load(Ordering::Relaxed), layout.size()) };
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) };
    }
}

/// Fills the stack below its caller, where the next calls will have their variables.
#[inline(never)]
fn poison_stack() {
    let mut below = [0_u8; 128 << 10];
    below.fill(POISON.load(Ordering::Relaxed));
    black_box(&mut below);
}

fn serve(place: &Place, scheme: &str) -> ServerHandle {
    let endpoint = format!("{scheme}:{}", place.socket().display());
    Server::builder().service(Poisoned(PaddedServer::new(Here))).listen(endpoint).start().unwrap()
}

fn tap(place: &Place, scheme: &str, name: &str) -> (Tap, String) {
    let at: PathBuf = place.path().join(name);
    let endpoint = format!("{scheme}:{}", at.display());
    (Tap::new(at, place.socket(), scheme == "uds"), endpoint)
}

fn connect(endpoint: &str) -> PaddedClient {
    connect_by(PaddedClient::builder(), endpoint)
}

fn connect_by(builder: ClientBuilder<PaddedClient>, endpoint: &str) -> PaddedClient {
    poison_stack();
    builder.timeout(BOUND).max_message(8 << 20).connect(endpoint).unwrap()
}

/// One call of every shape and size.
fn call_all(client: &PaddedClient) {
    let before = poison_stack;
    before();
    client.nothing().unwrap();
    before();
    assert_eq!(client.byte(1), Ok(1));
    before();
    assert_eq!(client.pair(1, 2), Ok((1, 2)));
    for value in [None, Some(1)] {
        before();
        assert_eq!(client.maybe(value), Ok(value.map(u64::from)));
    }
    before();
    assert_eq!(client.holes(holes(7)), Ok(holes(7)));
    for value in many(6).uneven {
        before();
        assert_eq!(client.uneven(value.clone()), Ok(value));
    }
    before();
    assert_eq!(client.fails(3), Err(CallError::Service(Uneven::Small(3))));
    // Around what fits into a slot, and around what a block is rounded up to.
    for length in [0, 1, 7, 8, 9, 31, 32, 33, 40, 41, 55, 56, 57, 63, 64, 65, 127, 129, 4095, 4097] {
        let text = "t".repeat(length);
        before();
        assert_eq!(client.text(&text), Ok(text));
    }
    for size in [0, 1, 3, 6, 40, 200] {
        before();
        assert_eq!(client.many(many(size)), Ok(many(size)));
    }
    for text in ["p", "a text that does not fit into a slot, and is not at all what anybody expected here"] {
        before();
        assert_eq!(client.panics(text), Err(CallError::Panicked(text.into())));
    }
    before();
    client.note(holes(8)).unwrap();
    before();
    client.nothing().unwrap();
}

/// Blobs that are written in part, in either direction.
fn lend(client: &PaddedClient) {
    lend_these(client, &[1, 40, 41, 5000]);
}

/// The same in further segments.
fn lend_large(client: &PaddedClient) {
    lend_these(client, &[100_001, 1_000_003]);
}

fn lend_these(client: &PaddedClient, lengths: &[usize]) {
    for &length in lengths {
        poison_stack();
        let mut lent = client.blob(2 * length).unwrap();
        lent[..length].fill(1);
        lent[2 * length - 1] = 2;
        let both = client.lent(lent).unwrap();
        assert_eq!((both.len(), both[0], both[2 * length - 1]), (4 * length, 1, 2));
    }
}

/// Into further segments of the client's. Not behind a tap: a segment is announced on the socket, and what a tap delays
/// comes too late.
fn send_large(client: &PaddedClient) {
    for length in LARGE {
        poison_stack();
        assert_eq!(client.count(&vec![1; length as usize]), Ok(length));
    }
}

/// The same, of the server's.
fn receive_large(client: &PaddedClient) {
    for length in LARGE {
        poison_stack();
        assert_eq!(client.ones(length).unwrap().len(), length as usize);
    }
}

const LARGE: [u32; 3] = [100_001, 1_000_003, 3_000_001];

/// Runs `part` as a client behind a tap, and a client that is refused. Returns all that the two sides could see of
/// each other.
fn tapped(scheme: &str, part: impl FnOnce(&PaddedClient)) -> Vec<Vec<u8>> {
    let place = Place::new();
    let server = serve(&place, scheme);
    let (tapped, endpoint) = tap(&place, scheme, "t");
    let client = connect(&endpoint);
    part(&client);
    server.shutdown(BOUND).unwrap();
    drop(client);

    let server = serve(&place, scheme);
    let (refused, endpoint) = tap(&place, scheme, "r");
    poison_stack();
    UnknownClient::connect(&endpoint).unwrap_err();
    drop(server);
    [tapped.shown(), refused.shown()].iter().flatten().flat_map(|side| side.pieces()).collect()
}

/// Runs `part` as a client without a tap. Returns the memory that the two sides share: each maps its own to write.
fn mapped(part: impl FnOnce(&PaddedClient)) -> Vec<Vec<u8>> {
    let place = Place::new();
    let server = serve(&place, "shm");
    let client = connect(&place.endpoint());
    part(&client);
    let memory = shared_memory();
    drop(client);
    drop(server);
    // So that the next run finds its own only.
    until("nothing is shared any more", || shared_memory().is_empty());
    memory
}

/// What this process shares and writes, in the same order each time: the server's base and the client's, which differ in
/// the kind of the first message (a byte of the first slot of lane 0), and then by size. Each segment that an arena
/// grows by is larger than the last.
fn shared_memory() -> Vec<Vec<u8>> {
    const FIRST_KIND: usize = 16_448 + 128 + 10;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains("memfd:shmrpc") && line.contains(" rw-s ")) {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        // It may be unmapped meanwhile, after the last run.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            all.push(bytes);
        }
    }
    all.sort_by_key(|bytes| (bytes.len(), bytes[FIRST_KIND]));
    all
}

/// Where every run shows its own poison: piece and offset.
fn leaks(shown: impl Fn() -> Vec<Vec<u8>>) -> Vec<(usize, usize)> {
    const POISONS: [u8; 3] = [0xa5, 0x5b, 0xc7];
    let runs = POISONS.map(|poison| {
        POISON.store(poison, Ordering::Relaxed);
        shown()
    });
    assert_eq!(runs.each_ref().map(Vec::len), [runs[0].len(); 3], "as many segments in every run");
    let (mut found, mut compared) = (Vec::new(), 0);
    for piece in 0..runs[0].len() {
        let length = runs.iter().map(|run| run[piece].len()).min().unwrap();
        compared += length;
        let leaked = |at: &usize| runs.iter().zip(POISONS).all(|(run, poison)| run[piece][*at] == poison);
        found.extend((0..length).filter(leaked).map(|at| (piece, at)));
    }
    println!("{} pieces of {compared} bytes, {} of them ours", runs[0].len(), found.len());
    found
}

#[track_caller]
fn assert_none(found: &[(usize, usize)]) {
    let some = &found[..found.len().min(20)];
    assert!(found.is_empty(), "{} bytes (piece, offset): {some:?}", found.len());
}

#[test]
fn nothing_private_is_shown_to_a_peer() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for part in [call_all, lend] {
        assert_none(&leaks(|| tapped("shm", part)));
        assert_none(&leaks(|| tapped("uds", part)));
    }
    for large in [send_large, receive_large, lend_large] {
        assert_none(&leaks(|| mapped(large)));
    }
}

/// The test itself: what a handler gives away is seen, inside a slot, in a block, in a further segment.
#[test]
fn a_leak_would_be_seen() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let leak = |length: u32| move |client: &PaddedClient| drop(client.leaks(length).unwrap());
    for (scheme, length) in [("shm", 1), ("shm", 500), ("uds", 1), ("uds", 5000)] {
        assert!(leaks(|| tapped(scheme, leak(length))).len() >= length as usize, "{scheme}, {length}");
    }
    assert!(leaks(|| mapped(leak(2_000_000))).len() >= 2_000_000);
}

/// Text that is nobody else's.
fn secret(name: char, round: usize) -> String {
    format!("<secret of {name}>").repeat(1 + round)
}

/// Clients of one process and one server, at the same time and one after the other.
#[test]
fn nothing_of_another_connection_is_shown_to_a_peer() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let server = serve(&place, "shm");
    let start = |name: char| {
        let (tap, endpoint) = tap(&place, "shm", &name.to_string());
        (name, tap, connect(&endpoint))
    };
    let talk = |(name, _, client): &(char, Tap, PaddedClient)| {
        // From inside a slot to a large part of the first arena.
        for round in [0, 1, 20, 500, 10_000] {
            let text = secret(*name, round);
            assert_eq!(client.text(&text), Ok(text.clone()));
            let text = secret(*name, round.min(40));
            assert_eq!(client.panics(&text), Err(CallError::Panicked(text)));
        }
    };
    let both = [start('a'), start('b')];
    both.iter().for_each(talk);
    both.iter().rev().for_each(talk);
    let mut all: Vec<(char, Tap)> = both.into_iter().map(|(name, tap, _)| (name, tap)).collect();
    for name in ['c', 'd'] {
        let later = start(name);
        talk(&later);
        all.push((later.0, later.1));
    }
    drop(server);
    for (name, tap) in all {
        let pieces: Vec<Vec<u8>> = tap.shown().iter().flat_map(|side| side.pieces()).collect();
        for other in ['a', 'b', 'c', 'd'] {
            let marker = secret(other, 0);
            let is_there = pieces
                .iter()
                .any(|piece| piece.windows(marker.len()).any(|bytes| bytes == marker.as_bytes()));
            assert_eq!(is_there, name == other, "what {other} said, in what peers of {name} see");
        }
    }
}

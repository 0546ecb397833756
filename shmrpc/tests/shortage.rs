//! What the system runs out of ends in an error on that call or connection: it says what to raise, leaks nothing, harms
//! nobody else, and when the shortage is over all goes on.
//!
//! Limits are set in children, which are this test program again. A shortage of the whole system (ENFILE) cannot be made
//! here; it takes the way of EMFILE.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

#[path = "shortage/descriptors.rs"]
mod descriptors;
#[path = "shortage/memory.rs"]
mod memory;
mod support;
#[path = "shortage/threads.rs"]
mod threads;

mod shortage {
    mod ports;
}

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmrpc::Transport;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Short {
    fn pid(&self) -> u32;
    fn sum(&self, bytes: &[u8]) -> u64;
    fn length_of(&self, file: OwnedFd) -> u64;
    /// Makes what `take` returns.
    fn prepare(&self, length: u32);
    fn take(&self) -> Vec<u8>;
    /// What is open, by its name: a number of them would be the same if one is missing and another lingers.
    fn open(&self) -> Vec<String>;
    /// From now on the server may open so many more.
    fn leave_descriptors(&self, more: u32);
    /// From now on the server may map so many more bytes.
    fn leave_memory(&self, more: u64);
    /// From now on no file of the server may have more bytes.
    fn leave_files_of(&self, bytes: u64);
    /// From now on it may start no thread.
    fn leave_no_thread(&self);
    /// The shortage is over.
    fn restore(&self);
}

#[derive(Default)]
struct Here {
    prepared: Mutex<Vec<u8>>,
    limited: Mutex<Option<Limited>>,
}

impl Short for Here {
    fn pid(&self) -> u32 {
        std::process::id()
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        sum(bytes)
    }
    fn length_of(&self, file: OwnedFd) -> u64 {
        File::from(file).metadata().unwrap().len()
    }
    fn prepare(&self, length: u32) {
        *self.prepared.lock().unwrap() = vec![1; usize::try_from(length).unwrap()];
    }
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.prepared.lock().unwrap())
    }
    fn open(&self) -> Vec<String> {
        settled();
        let links = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let names = links.map(|name| name.display().to_string()).filter(|name| !name.starts_with("/proc/"));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }
    fn leave_descriptors(&self, more: u32) {
        self.restore();
        settled();
        *self.limited.lock().unwrap() = Some(Limited::descriptors(usize::try_from(more).unwrap()));
    }
    fn leave_memory(&self, more: u64) {
        self.restore();
        *self.limited.lock().unwrap() = Some(Limited::memory(more));
    }
    fn leave_files_of(&self, bytes: u64) {
        *self.limited.lock().unwrap() = Some(Limited::files_of(bytes));
    }
    fn leave_no_thread(&self) {
        *self.limited.lock().unwrap() = Some(Limited::threads());
    }
    fn restore(&self) {
        *self.limited.lock().unwrap() = None;
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().copied().map(u64::from).sum()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Waits until no peer is half let in: nothing that was just sent or taken over is open any more, and no socket or
/// memory twice.
fn settled() {
    until("all peers are in", || {
        let mut seen = HashSet::new();
        let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        links.filter(|link| fs::read_link(link).is_ok()).all(|link| {
            let name = fs::read_link(&link).map_or_else(|_| String::new(), |name| name.display().to_string());
            let ours = name.starts_with("socket:") || name.contains("memfd:shmrpc");
            !ours || fs::metadata(&link).is_ok_and(|found| seen.insert(found.ino()))
        })
    });
}

/// A limit of this process; as it was when dropped.
struct Limited {
    what: Resource,
    before: u64,
    /// What takes the places below the limit.
    filling: Vec<File>,
}

impl Limited {
    fn new(what: Resource, limit: u64) -> Self {
        let (before, hard) = getrlimit(what).unwrap();
        setrlimit(what, limit.min(hard), hard).unwrap();
        Self { what, before, filling: Vec::new() }
    }

    /// So many more may be opened. What is open stays below the limit, so that whoever closes one may open another.
    fn descriptors(more: usize) -> Self {
        let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        let highest: i32 = numbers.map(|number| number.to_str().unwrap().parse().unwrap()).max().unwrap();
        let mut filling: Vec<File> = Vec::new();
        while filling.len() <= more || filling.last().unwrap().as_raw_fd() <= highest {
            filling.push(File::open("/dev/null").unwrap());
        }
        let last = filling.pop().unwrap().as_raw_fd();
        filling.truncate(filling.len() - more);
        let mut limited = Self::new(Resource::RLIMIT_NOFILE, u64::try_from(last).unwrap());
        limited.filling = filling;
        limited
    }

    /// So many more bytes may be mapped.
    fn memory(more: u64) -> Self {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        Self::new(Resource::RLIMIT_AS, pages * 4096 + more)
    }

    /// No file may have more bytes.
    fn files_of(bytes: u64) -> Self {
        Self::new(Resource::RLIMIT_FSIZE, bytes)
    }

    fn threads() -> Self {
        Self::new(Resource::RLIMIT_NPROC, 0)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let (_, hard) = getrlimit(self.what).unwrap();
        setrlimit(self.what, self.before, hard).unwrap();
    }
}

fn serve(endpoint: &str, memory: Memory) -> ServerHandle {
    let everybody = Server::builder().service(ShortServer::new(Here::default())).allow(Peers::Any);
    everybody.memory(memory).listen(endpoint).start().unwrap()
}

fn try_to_connect(place: &Place) -> Result<ShortClient, String> {
    let client =
        ShortClient::builder().allow(Peers::Any).timeout(BOUND).reconnect(false).connect_timeout(BOUND);
    client.connect(place.endpoint()).map_err(|error| error.to_string())
}

fn connect(place: &Place) -> ShortClient {
    try_to_connect(place).unwrap()
}

fn not_encoded<T: std::fmt::Debug>(called: Result<T, CallError>) -> String {
    match called.unwrap_err() {
        CallError::NotEncoded(text) => text,
        other => panic!("{other:?}"),
    }
}

fn lost<T: std::fmt::Debug>(called: Result<T, CallError>) -> String {
    match called.unwrap_err() {
        CallError::BadReply(text) => text,
        other => panic!("{other:?}"),
    }
}

fn disconnected<T: std::fmt::Debug>(called: Result<T, CallError>) -> String {
    match called.unwrap_err() {
        CallError::Disconnected { reason, outcome } => {
            assert_ne!(outcome, Outcome::Ran);
            reason
        }
        other => panic!("{other:?}"),
    }
}

/// Above what the first arena holds.
const LARGE: u32 = 2 << 20;

fn large() -> Vec<u8> {
    vec![1; usize::try_from(LARGE).unwrap()]
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let _server = serve(&endpoint, Memory::Memfd);
    // Whatever user this is, the parent may come in.
    say("ready");
    until_orphaned();
}

fn start_server(place: &Place) -> Process {
    let mut process = Process::start("child_server", place);
    process.says("ready");
    process
}

/// Runs a part in a process of its own, against a server in this one.
fn in_child(part: &str) {
    let place = Place::new();
    let server = serve(&place.endpoint(), Memory::Memfd);
    let other = connect(&place);
    let mut process = Process::start(part, &place);
    process.says("well");
    assert!(process.ends().success());
    assert_eq!(other.pid(), Ok(std::process::id()));
    until("only the other client is left", || server.connections() == 1);
}

fn child_place() -> Option<String> {
    std::env::var(ENDPOINT).ok()
}

/// Why a client that asked for shared memory has none.
fn why_streams(client: &ShortClient) -> String {
    assert_eq!(client.transport().transport(), Transport::Uds);
    assert_eq!(client.transport().memory(), None);
    client.transport().reason().to_owned()
}

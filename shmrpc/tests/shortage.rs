//! What the system runs out of ends in an error on that call or connection: it says what to raise, leaks nothing, harms
//! nobody else, and when the shortage is over all goes on.
//!
//! Limits are set in children, which are this test program again. A shortage of the whole system (ENFILE) cannot be made
//! here; it takes the way of EMFILE.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

mod shortage {
    mod ports;
}

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
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

// Descriptors (EMFILE).

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
    in_child("child_client_without_descriptors");
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
    in_child("child_client_with_few_descriptors");
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
    let mut process = Process::start("child_that_listens_without_descriptors", &place);
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

/// Why a client that asked for shared memory has none.
fn why_streams(client: &ShortClient) -> String {
    assert_eq!(client.transport().transport(), Transport::Uds);
    assert_eq!(client.transport().memory(), None);
    client.transport().reason().to_owned()
}

// Address space (ENOMEM).

#[test]
fn child_client_without_memory() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().timeout(BOUND).reconnect(false);
    let client = builder.connect(&endpoint).unwrap();
    let bytes = large();
    let open = descriptors();
    // Enough for what the allocator may want, not for a segment.
    let limited = Limited::memory(1 << 20);
    let text = not_encoded(client.sum(&bytes));
    assert!(text.contains("cannot map") && text.contains("ulimit -v"), "{text}");
    assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
    // A new connection does without memory, and says why.
    let reason = why_streams(&builder.connect(&endpoint).unwrap());
    assert!(reason.contains("cannot map") && reason.contains("ulimit -v"), "{reason}");
    drop(limited);
    // The watcher closes what the ended connection had.
    until("nothing is left", || descriptors() == open);
    assert_eq!(client.sum(&bytes), Ok(LARGE.into()));
    assert!(builder.connect(&endpoint).is_ok());
    say("well");
}

#[test]
fn a_client_without_memory_says_so_and_goes_on() {
    in_child("child_client_without_memory");
}

#[test]
fn a_server_without_memory_loses_no_more_than_a_call_or_a_connection() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let open = first.open().unwrap();
    let second = connect(&place);
    second.pid().unwrap();
    first.prepare(LARGE).unwrap();
    first.leave_memory(1 << 20).unwrap();
    let text = lost(first.take());
    assert!(text.contains("cannot map") && text.contains("ulimit -v"), "{text}");
    let text = disconnected(second.sum(&large()));
    assert!(text.contains("the peer gave up") && text.contains("ulimit -v"), "{text}");
    // What the lost connection had is free again, so less is to be left for the next one. The client lets go when it is
    // dropped.
    drop(second);
    until("nothing is left of it", || first.open().as_ref() == Ok(&open));
    first.leave_memory(1 << 20).unwrap();
    let reason = why_streams(&connect(&place));
    assert!(reason.contains("cannot map") && reason.contains("ulimit -v"), "{reason}");
    assert_eq!(first.sum(&[1; 100_000]), Ok(100_000));
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());
    assert_eq!(connect(&place).sum(&large()), Ok(LARGE.into()));
}

// The size of files (SIGXFSZ).

/// Below what a base segment has, and above what it has room for.
const SMALL_FILES: u64 = 1 << 20;
const FILES: &str = "a file of this process may have 1048576; raise the limit (ulimit -f";

#[test]
fn child_client_with_small_files() {
    let Some(endpoint) = child_place() else { return };
    let over_socket = endpoint.replace("shm:", "uds:");
    let bytes = large();
    for memory in [Memory::Memfd, Memory::PosixShm] {
        let builder = ShortClient::builder().memory(memory).timeout(BOUND).reconnect(false);
        let client = builder.connect(&endpoint).unwrap();
        let streams = builder.connect(&over_socket).unwrap();
        assert_eq!(client.pid(), streams.pid());
        let open = descriptors();
        let limited = Limited::files_of(SMALL_FILES);
        let text = not_encoded(client.sum(&bytes));
        assert!(text.contains(FILES), "{text}");
        assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
        // What finds no memory goes over the socket.
        assert_eq!(streams.sum(&bytes), Ok(LARGE.into()));
        let reason = why_streams(&builder.connect(&endpoint).unwrap());
        assert!(reason.contains(FILES), "{reason}");
        assert_eq!(builder.connect(&over_socket).unwrap().sum(&bytes), Ok(LARGE.into()));
        drop(limited);
        // What an earlier round had may have counted, too.
        until("nothing is left", || descriptors() <= open);
        // What is asked for beyond the need does not fail a call.
        let limited = Limited::files_of(u64::from(LARGE) + (1 << 19));
        assert_eq!(client.sum(&bytes), Ok(LARGE.into()));
        drop(limited);
        assert_eq!(builder.connect(&endpoint).unwrap().transport().transport(), Transport::Shm);
    }
    say("well");
}

#[test]
fn a_client_whose_files_are_limited_says_so_and_goes_on() {
    in_child("child_client_with_small_files");
}

#[test]
fn a_server_whose_files_are_limited_loses_no_more_than_a_call() {
    let place = Place::new();
    let _process = start_server(&place);
    let first = connect(&place);
    let pid = first.pid();
    first.prepare(LARGE).unwrap();
    first.leave_files_of(SMALL_FILES).unwrap();
    let text = lost(first.take());
    assert!(text.contains(FILES), "{text}");
    let second = connect(&place);
    let reason = why_streams(&second);
    assert!(reason.contains(FILES), "{reason}");
    assert_eq!((first.sum(&large()), second.sum(&large())), (Ok(LARGE.into()), Ok(LARGE.into())));
    second.prepare(LARGE).unwrap();
    assert_eq!(second.take().unwrap(), large());
    first.restore().unwrap();
    first.prepare(LARGE).unwrap();
    assert_eq!(first.take().unwrap(), large());
    assert_eq!(first.pid(), pid);
    assert_eq!(connect(&place).transport().transport(), Transport::Shm);
}

// Threads (EAGAIN).

/// Starts a part as a user whom RLIMIT_NPROC binds. `None` if that cannot be had.
fn as_somebody(part: &str, place: &Place) -> Option<Process> {
    Process::start_as(65534, part, place)
}

#[test]
fn a_server_without_threads_refuses_lanes_and_serves_those_it_has() {
    let place = Place::open_to_all();
    let Some(mut process) = as_somebody("child_server", &place) else { return };
    process.says("ready");
    let first = connect(&place);
    first.leave_no_thread().unwrap();
    let second = connect(&place);
    let error = second.pid().unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert!(matches!(&error, CallError::Overloaded(text) if text.contains("ulimit -u")), "{error}");
    // Who has a lane shares it.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(first.sum(&[1; 10_000]), Ok(10_000));
                }
            });
        }
    });
    first.restore().unwrap();
    assert_eq!(second.pid(), first.pid());
}

#[test]
fn child_client_without_threads() {
    let Some(endpoint) = child_place() else { return };
    let builder = ShortClient::builder().allow(Peers::Any).timeout(BOUND).reconnect(false);
    let open = descriptors();
    let limited = Limited::threads();
    for _ in 0..3 {
        let error = builder.connect(&endpoint).unwrap_err().to_string();
        assert!(error.contains("watcher") && error.contains("ulimit -u"), "{error}");
        // The watcher's own two stay. Without its thread, the next attempt asks whether the server has let go of the memory
        // of this one, and drops the descriptor that knows.
        assert!(descriptors() <= open + 2 + 3, "{} of {open}", descriptors());
    }
    drop(limited);
    assert_ne!(builder.connect(&endpoint).unwrap().pid(), Ok(std::process::id()));
    say("well");
}

#[test]
fn a_client_without_threads_says_so_and_goes_on() {
    let place = Place::open_to_all();
    let server = serve(&place.endpoint(), Memory::Memfd);
    let Some(mut process) = as_somebody("child_client_without_threads", &place) else { return };
    process.says("well");
    assert!(process.ends().success());
    until("nobody is left", || server.connections() == 0);
}

// A full /dev/shm (ENOSPC).

/// Client and server, in a /dev/shm of their own that has 16 MiB.
#[test]
fn child_in_a_small_dev_shm() {
    let Some(endpoint) = child_place() else { return };
    let _server = serve(&endpoint, Memory::PosixShm);
    let builder = ShortClient::builder().memory(Memory::PosixShm).timeout(BOUND).reconnect(false);
    let client = builder.connect(&endpoint).unwrap();
    let filler = "/dev/shm/filler";
    let fill = || {
        let left = nix::sys::statvfs::statvfs("/dev/shm").unwrap();
        let left = left.blocks_available() * left.fragment_size();
        let file = File::create(filler).unwrap();
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(left).unwrap()).unwrap();
    };
    fill();
    let advice = "make it larger (mount -o remount,size=SIZE /dev/shm), or use Memory::Memfd";
    let text = not_encoded(client.sum(&large()));
    assert!(text.contains("cannot reserve") && text.contains(advice), "{text}");
    client.prepare(LARGE).unwrap();
    let text = lost(client.take());
    assert!(text.contains("cannot reserve") && text.contains(advice), "{text}");
    assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
    // Neither side of a new connection has room; so it does without, whichever of them it is.
    for client in [builder.connect(&endpoint).unwrap(), ShortClient::connect(&endpoint).unwrap()] {
        let reason = why_streams(&client);
        assert!(reason.contains(advice), "{reason}");
        assert_eq!(client.sum(&large()), Ok(LARGE.into()));
    }

    fs::remove_file(filler).unwrap();
    assert!(ShortClient::connect(&endpoint).is_ok());
    assert!(builder.connect(&endpoint).is_ok());
    assert_eq!(client.sum(&vec![1; 2 << 20]), Ok(2 << 20));
    // What could not be had leaves nothing behind, and nothing has a name.
    assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    say("well");
}

#[test]
fn a_full_dev_shm_is_an_error_and_not_a_death() {
    let place = Place::new();
    let mount = "mount -t tmpfs -o size=16m tmpfs /dev/shm";
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", &format!("{mount} && {script}"), "sh"]);
        command
    };
    if !unshared("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine gives no mount namespace with a /dev/shm of its own");
        return;
    }
    let mut command = unshared("exec \"$@\"");
    command.arg(std::env::current_exe().unwrap()).args([
        "--exact",
        "child_in_a_small_dev_shm",
        "--nocapture",
    ]);
    let mut process = Process::spawn(command, &place.endpoint()).unwrap();
    process.says("well");
    assert!(process.ends().success());
}

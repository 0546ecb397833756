//! Two real processes: what a killed server leaves to its clients, and a killed client to its server.
//!
//! The children are this test program again, with a test's name and an endpoint in the environment.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Gate, Keeper, Place, gate, until};

#[shmrpc::service]
pub trait Node {
    fn pid(&self) -> u32;
    fn blob(&self, length: u32) -> Vec<u8>;
    fn sum(&self, bytes: &[u8]) -> u64;
    /// Returns when the process's gate opens; in a child, never.
    fn wait(&self) -> u32;
}

fn pattern(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap()
}

fn blob(length: u32) -> Vec<u8> {
    (0..usize::try_from(length).unwrap()).map(pattern).collect()
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().copied().map(u64::from).sum()
}

/// What a child serves.
struct InChild;

impl Node for InChild {
    fn pid(&self) -> u32 {
        std::process::id()
    }
    fn blob(&self, length: u32) -> Vec<u8> {
        blob(length)
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        sum(bytes)
    }
    fn wait(&self) -> u32 {
        say("waiting");
        loop {
            thread::park();
        }
    }
}

/// What the parent serves.
struct InParent(Gate);

impl Node for InParent {
    fn pid(&self) -> u32 {
        std::process::id()
    }
    fn blob(&self, length: u32) -> Vec<u8> {
        blob(length)
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        sum(bytes)
    }
    fn wait(&self) -> u32 {
        self.0.pass();
        42
    }
}

fn in_parent() -> (NodeServer<InParent>, Keeper) {
    let (gate, keeper) = gate();
    (NodeServer::new(InParent(gate)), keeper)
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_server() {
    child_server_over(Memory::Memfd);
}

#[test]
fn child_server_over_posix_shm() {
    child_server_over(Memory::PosixShm);
}

fn child_server_over(memory: Memory) {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let server = Server::builder().service(NodeServer::new(InChild)).listen(endpoint).memory(memory);
    let _server = server.start().unwrap();
    say("ready");
    until_orphaned();
    // A handler may be parked for ever; the process ends all the same.
}

#[test]
fn child_serve() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    thread::spawn(|| {
        until_orphaned();
        std::process::exit(3);
    });
    shmrpc::serve(&endpoint, NodeServer::new(InChild)).unwrap();
    say("served");
}

#[test]
fn child_client() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = NodeClient::connect(endpoint).unwrap();
    assert_ne!(client.pid(), Ok(std::process::id()));
    say("ready");
    until_orphaned();
}

#[test]
fn child_client_that_waits() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    thread::spawn(|| {
        until_orphaned();
        std::process::exit(3);
    });
    let client = NodeClient::builder().timeout(Duration::MAX).connect(endpoint).unwrap();
    let _ = client.wait();
}

fn connect(place: &Place) -> NodeClient {
    NodeClient::builder().timeout(BOUND).reconnect(false).connect(place.endpoint()).unwrap()
}

fn gone<T: std::fmt::Debug>(result: Result<T, CallError>) -> Outcome {
    let error = result.unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
    error.outcome()
}

/// Both sides over each kind of memory, which may differ.
#[test]
fn a_server_in_another_process_answers() {
    for (server, servers) in
        [("child_server", Memory::Memfd), ("child_server_over_posix_shm", Memory::PosixShm)]
    {
        for ours in [Memory::Memfd, Memory::PosixShm] {
            a_server_answers(server, servers, ours);
        }
    }
}

fn a_server_answers(server: &str, servers: Memory, ours: Memory) {
    let place = Place::new();
    let mut process = Process::start(server, &place);
    process.says("ready");
    let client =
        NodeClient::builder().timeout(BOUND).memory(ours).reconnect(false).connect(place.endpoint()).unwrap();
    let transport = client.transport();
    assert_eq!((transport.memory(), transport.peer_memory()), (Some(ours), Some(servers)));
    assert!(transport.to_string().contains(&format!("({ours} here, {servers} there)")), "{transport}");
    assert_eq!(client.pid(), Ok(process.child.id()));
    let server = transport.peer().credentials().unwrap();
    assert_eq!(server.pid, i32::try_from(process.child.id()).ok());
    assert_eq!(client.blob(100_000).unwrap(), blob(100_000));
    // Further segments, both ways.
    assert_eq!(client.blob(5 << 20).unwrap(), blob(5 << 20));
    assert_eq!(client.sum(&blob(5 << 20)), Ok(sum(&blob(5 << 20))));
    // It ends by itself when its stdin ends.
    drop(process.child.stdin.take());
    assert!(process.ends().success());
    assert_eq!(gone(client.pid()), Outcome::NotRun);
    assert!(!place.socket().exists());
}

#[test]
fn a_server_killed_in_a_call_leaves_the_call_unknown_and_the_path_free() {
    let place = Place::new();
    let mut process = Process::start("child_server", &place);
    process.says("ready");
    let client = connect(&place);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.with_timeout(Duration::MAX).wait());
        process.says("waiting");
        process.kill();
        assert_eq!(gone(waiting.join().unwrap()), Outcome::Unknown);
    });
    assert_eq!(gone(client.pid()), Outcome::NotRun);
    assert!(place.socket().exists(), "a killed server cannot tidy up");

    // A new server takes the path over, in this process and then in another.
    let (service, _keeper) = in_parent();
    let server = Server::builder().service(service).listen(place.endpoint()).start().unwrap();
    assert_eq!(connect(&place).pid(), Ok(std::process::id()));
    server.shutdown(BOUND).unwrap();
    let mut process = Process::start("child_server", &place);
    process.says("ready");
    assert_eq!(connect(&place).pid(), Ok(process.child.id()));
    assert_eq!(gone(client.pid()), Outcome::NotRun, "a connection is never mended");
}

#[test]
fn every_thread_learns_that_the_server_was_killed() {
    let place = Place::new();
    let mut process = Process::start("child_server", &place);
    process.says("ready");
    let client = connect(&place).with_timeout(Duration::MAX);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..16).map(|_| scope.spawn(|| client.wait())).collect();
        for _ in 0..16 {
            process.says("waiting");
        }
        process.kill();
        for thread in waiting {
            assert_eq!(gone(thread.join().unwrap()), Outcome::Unknown);
        }
    });
}

#[test]
fn a_view_outlives_the_process_that_wrote_it() {
    a_view_outlives_the_process("child_server");
    a_view_outlives_the_process("child_server_over_posix_shm");
}

fn a_view_outlives_the_process(server: &str) {
    let place = Place::new();
    let mut process = Process::start(server, &place);
    process.says("ready");
    let client = connect(&place);
    let large = client.view().blob(1 << 20).unwrap();
    let small = client.view().blob(100).unwrap();
    process.kill();
    assert_eq!(gone(client.pid()), Outcome::NotRun);
    assert_eq!(large.as_slice(), blob(1 << 20));
    drop(client);
    // Nor does it need the client.
    assert_eq!(large.as_slice(), blob(1 << 20));
    assert_eq!(small.as_slice(), blob(100));
}

#[test]
fn serve_ends_well_on_sigterm() {
    let place = Place::new();
    let mut process = Process::start("child_serve", &place);
    // `serve` says nothing when it listens; that it answers is the sign, and its signals are set before.
    until("the child serves", || NodeClient::connect(place.endpoint()).is_ok());
    let client = connect(&place);
    assert_eq!(client.pid(), Ok(process.child.id()));
    process.terminate();
    process.says("served");
    let status = process.ends();
    assert!(status.success(), "{status}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the socket and its lock are gone");
    assert_eq!(gone(client.pid()), Outcome::NotRun);
}

/// How often the other threads of this process have left their cores.
fn switches() -> u64 {
    let own = gettid().to_string();
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap());
    let others = tasks.filter(|task| task.file_name() != *own);
    let of = |status: &str| {
        let lines = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
        lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum::<u64>()
    };
    // A thread may end meanwhile.
    others
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|status| of(&status))
        .sum()
}

/// As many clients as a team has lanes, and one more, with the server on one core. Then they rest.
#[test]
fn child_that_shares_a_core() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let may = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|cpu| may.is_set(*cpu).unwrap()).unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    let _server = Server::builder().service(NodeServer::new(InChild)).listen(&endpoint).start().unwrap();
    let clients: Vec<_> = (0..9).map(|_| NodeClient::connect(&endpoint).unwrap()).collect();
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                for call in 0..5_000 {
                    // One of a hundred is large, and takes longer than a turn of a team may.
                    let length = if call % 100 == 0 { 100_000 } else { call % 100 };
                    assert_eq!(client.blob(length), Ok(blob(length)));
                }
            });
        }
    });
    until("nobody wakes up any more", || {
        let before = switches();
        thread::sleep(Duration::from_millis(50));
        switches() == before
    });
    say("well");
}

#[test]
fn lanes_that_share_a_core_are_all_served_and_then_sleep() {
    let place = Place::new();
    let mut process = Process::start("child_that_shares_a_core", &place);
    process.says("well");
    assert!(process.ends().success());
}

#[test]
fn a_killed_client_is_forgotten() {
    let place = Place::new();
    let (service, _keeper) = in_parent();
    let server = Server::builder().service(service).listen(place.endpoint()).start().unwrap();
    for _ in 0..3 {
        let mut process = Process::start("child_client", &place);
        process.says("ready");
        assert_eq!(server.connections(), 1);
        process.kill();
        until("the connection ends", || server.connections() == 0);
    }
    assert_eq!(connect(&place).pid(), Ok(std::process::id()));
}

#[test]
fn a_client_killed_in_a_call_gives_its_lane_back() {
    let place = Place::new();
    let (service, keeper) = in_parent();
    let server = Server::builder().service(service).listen(place.endpoint()).max_lanes(1).start().unwrap();
    let mut process = Process::start("child_client_that_waits", &place);
    keeper.entered();
    assert_eq!(server.connections(), 1);
    process.kill();
    until("the connection ends", || server.connections() == 0);
    // The handler returns into nothing, and then the one lane is for somebody else.
    keeper.release();
    until("the lane is free", || connect(&place).pid() == Ok(std::process::id()));
    server.shutdown(BOUND).unwrap();
}

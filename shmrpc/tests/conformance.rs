//! What holds over every transport, written once.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shmrpc::prelude::*;
use shmrpc::{ServerBuilder, Transport};

use crate::support::{Gate, Keeper, Place, gate};

mod support;

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
pub enum Missing {
    #[error("no such key: {0}")]
    Key(String),
}

#[shmrpc::service]
pub trait Work {
    fn add(&self, a: u32, b: u32) -> u32;
    fn get(&self, key: &str) -> Result<Entry, Missing>;
    fn sum(&self, bytes: &[u8]) -> u64;
    fn bytes(&self, length: u32) -> Vec<u8>;
    #[oneway]
    fn count(&self, by: u64);
    fn counted(&self) -> u64;
    fn wait(&self);
    fn panic(&self);
    fn mean(&self, frame: Blob<f32>) -> f32;
    fn render(&self, ctx: &Context, length: u32) -> Blob<u16>;
    fn find(&self, key: &str) -> Result<Blob, Missing>;
    fn keep(&self, frame: Blob) -> u64;
    fn kept(&self) -> u64;
    fn forget(&self);
    fn read(&self, file: OwnedFd) -> Vec<u8>;
    fn open(&self, text: &str) -> Result<OwnedFd, Missing>;
    fn join(&self, one: OwnedFd, after: &[u8], other: OwnedFd) -> OwnedFd;
    #[oneway]
    fn write(&self, to: OwnedFd, text: &str);
}

struct Worker {
    count: AtomicU64,
    kept: Mutex<Vec<Blob>>,
    gate: Gate,
}

impl Work for Worker {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn get(&self, key: &str) -> Result<Entry, Missing> {
        match key {
            "none" => Err(Missing::Key(key.into())),
            _ => Ok(Entry { key: key.into(), value: key.repeat(100).into() }),
        }
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        bytes.iter().map(|byte| u64::from(*byte)).sum()
    }
    fn bytes(&self, length: u32) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }
    fn count(&self, by: u64) {
        self.count.fetch_add(by, Ordering::Relaxed);
    }
    fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
    fn wait(&self) {
        self.gate.pass();
    }
    fn panic(&self) {
        panic!("on purpose");
    }
    fn mean(&self, frame: Blob<f32>) -> f32 {
        frame.iter().sum::<f32>() / frame.len() as f32
    }
    fn render(&self, ctx: &Context, length: u32) -> Blob<u16> {
        let mut frame = ctx.blob::<u16>(length as usize + 10);
        frame.fill(7);
        frame.truncate(length as usize);
        frame.into()
    }
    fn find(&self, key: &str) -> Result<Blob, Missing> {
        match key {
            "none" => Err(Missing::Key(key.into())),
            _ => Ok(key.as_bytes().to_vec().into()),
        }
    }
    fn keep(&self, frame: Blob) -> u64 {
        let mut kept = self.kept.lock().unwrap();
        kept.push(frame);
        kept.len() as u64
    }
    fn kept(&self) -> u64 {
        self.kept.lock().unwrap().iter().flat_map(|frame| frame.iter()).map(|byte| u64::from(*byte)).sum()
    }
    fn forget(&self) {
        self.kept.lock().unwrap().clear();
    }
    fn read(&self, file: OwnedFd) -> Vec<u8> {
        all_of(file)
    }
    fn open(&self, text: &str) -> Result<OwnedFd, Missing> {
        match text {
            "none" => Err(Missing::Key(text.into())),
            _ => Ok(holding(text)),
        }
    }
    fn join(&self, one: OwnedFd, after: &[u8], other: OwnedFd) -> OwnedFd {
        let [one, other] = [one, other].map(|file| String::from_utf8(all_of(file)).unwrap());
        holding(&format!("{one} {other} {}", after.len()))
    }
    fn write(&self, to: OwnedFd, text: &str) {
        File::from(to).write_all(text.as_bytes()).unwrap();
    }
}

/// The reading end of a pipe that holds a text, and will hold no more.
fn holding(text: &str) -> OwnedFd {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader.into()
}

fn all_of(file: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).unwrap();
    bytes
}

/// One way to reach a server.
#[derive(Debug, Clone, Copy)]
enum Ground {
    Shm,
    ShmUntrusted,
    ShmPosix,
    Uds,
    UdsUntrusted,
    UdsAbstract,
    /// Unix sockets, and all messages go through them.
    UdsOnly,
    Tcp,
    Inproc,
}

struct Started {
    server: ServerHandle,
    keeper: Keeper,
    ground: Ground,
    _place: Place,
}

impl Ground {
    fn start(self) -> Started {
        self.start_with(|builder| builder)
    }

    fn start_with(self, options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Started {
        let (place, (gate, keeper)) = (Place::new(), gate());
        let endpoint = match self {
            Self::Shm | Self::ShmUntrusted | Self::ShmPosix => format!("shm:{}", place.socket().display()),
            Self::Uds | Self::UdsUntrusted | Self::UdsOnly => format!("uds:{}", place.socket().display()),
            Self::UdsAbstract => format!("uds:@{}", place.path().file_name().unwrap().display()),
            Self::Tcp => "tcp:127.0.0.1:0".into(),
            Self::Inproc => format!("inproc:{}", place.path().file_name().unwrap().display()),
        };
        let worker = Worker { count: AtomicU64::new(0), kept: Mutex::default(), gate };
        let mut builder = Server::builder().service(WorkServer::new(worker)).listen(endpoint);
        builder = match self {
            Self::ShmUntrusted | Self::UdsUntrusted => builder.trust(Peers::Nobody),
            Self::ShmPosix => builder.memory(Memory::PosixShm),
            Self::UdsOnly => builder.memory_from(u64::MAX),
            _ => builder,
        };
        let server = options(builder).start().unwrap();
        Started { server, keeper, ground: self, _place: place }
    }
}

impl Started {
    fn connect(&self) -> WorkClient {
        let mut builder = WorkClient::builder().timeout(support::BOUND);
        builder = match self.ground {
            Ground::ShmUntrusted | Ground::UdsUntrusted => builder.trust(Peers::Nobody),
            Ground::ShmPosix => builder.memory(Memory::PosixShm),
            _ => builder,
        };
        builder.connect(self.server.endpoints()[0].to_string()).unwrap()
    }
}

fn calls_of_every_kind(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    assert_eq!(client.add(1, 2), Ok(3));
    assert_eq!(client.get("a").unwrap(), Entry { key: "a".into(), value: vec![b'a'; 100] });
    assert_eq!(client.get("none"), Err(CallError::Service(Missing::Key("none".into()))));
    assert_eq!(client.view().get("b").unwrap().key, "b");
    for by in 1..=100 {
        client.count(by).unwrap();
    }
    assert_eq!(client.counted(), Ok(5050));
}

fn payloads_of_every_size(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    for length in [0, 1, 39, 40, 41, 4095, 4096, 4097, 32 << 10, (32 << 10) + 1, 1 << 20, 16 << 20] {
        let bytes = vec![3; length];
        assert_eq!(client.sum(&bytes), Ok(3 * length as u64), "{length}");
        let length = u32::try_from(length).unwrap();
        let expected: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        assert!(client.bytes(length).unwrap() == expected, "{length}");
        assert!(**client.view().bytes(length).unwrap() == *expected, "{length}");
    }
}

fn blobs_go_both_ways(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    for length in [1, 10, 1000, 1024, 1025, 300_000, 4_000_000] {
        let mut frame = client.blob::<f32>(length + 1).unwrap();
        frame.fill(1.5);
        frame[length] = 1e30;
        frame.truncate(length);
        assert_eq!(client.mean(frame), Ok(1.5), "{length}");
        let rendered = client.render(u32::try_from(length).unwrap()).unwrap();
        assert_eq!((rendered.len(), rendered.iter().all(|number| *number == 7)), (length, true));
    }
    assert_eq!(client.mean(vec![1.0, 3.0]), Ok(2.0));
    assert_eq!(*client.find("a key").unwrap(), *b"a key");
    assert_eq!(client.find("none").err(), Some(CallError::Service(Missing::Key("none".into()))));
    // What one server sent goes to another, and back.
    let other = ground.start();
    let rendered = client.render(100_000).unwrap();
    let same: Vec<f32> = rendered.iter().map(|number| f32::from(*number)).collect();
    assert_eq!(other.connect().mean(same), Ok(7.0));
    drop(client);
    assert_eq!(rendered.len(), 100_000, "a blob outlives its client");
}

fn a_blob_may_be_kept_and_a_loan_that_is_not_sent_comes_back(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 20));
    let client = started.connect();
    for count in 1..=3 {
        let mut frame = client.blob(100_000).unwrap();
        frame.fill(1);
        assert_eq!(client.keep(frame), Ok(count));
    }
    // Other calls use their own memory.
    assert_eq!(client.sum(&vec![9; 200_000]), Ok(1_800_000));
    assert_eq!(client.kept(), Ok(300_000));
    // As many as would never fit at once: each goes back, unsent, or once it was read.
    for _ in 0..100 {
        drop(client.blob::<u8>((1 << 20) - 64).unwrap());
        let mut frame = client.blob::<f32>((1 << 18) - 16).unwrap();
        frame.fill(0.0);
        assert_eq!(client.mean(frame), Ok(0.0));
    }
    client.forget().unwrap();
    assert_eq!(client.kept(), Ok(0));
    let error = client.blob::<u8>((1 << 20) + 1).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("1048576")), "{error}");
    let frame = client.blob(10).unwrap();
    drop(started);
    assert!(client.keep(frame).is_err());
}

fn descriptors_go_both_ways(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    if matches!(ground, Ground::Tcp) {
        return descriptors_do_not_go(&client);
    }
    for length in [0, 10, 5_000, 300_000] {
        assert_eq!(client.read(holding("a text")).unwrap(), b"a text");
        assert_eq!(all_of(client.open("a text").unwrap()), b"a text");
        assert_eq!(client.open("none").unwrap_err(), CallError::Service(Missing::Key("none".into())));
        let joined = client.view().join(holding("one"), &vec![1; length], holding("other")).unwrap();
        assert_eq!(String::from_utf8(all_of(joined)).unwrap(), format!("one other {length}"));
    }
    // What is passed on is the same file.
    let passed = client.open("through two hands").unwrap();
    assert_eq!(client.read(passed).unwrap(), b"through two hands");
    let (reader, writer) = std::io::pipe().unwrap();
    for call in 0..200 {
        client.write(writer.try_clone().unwrap(), &format!("{call} ")).unwrap();
    }
    drop(writer);
    let expected: String = (0..200).map(|call| format!("{call} ")).collect();
    assert_eq!(String::from_utf8(all_of(reader.into())).unwrap(), expected);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..50 {
                    let text = format!("{thread} {call}");
                    assert_eq!(client.read(client.open(&text).unwrap()).unwrap(), text.as_bytes());
                }
            });
        }
    });
}

/// Over a network there is no way for them; the connection goes on.
fn descriptors_do_not_go(client: &WorkClient) {
    let error = client.read(holding("a text")).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("uds:")), "{error}");
    let error = client.open("a text").unwrap_err();
    assert!(matches!(&error, CallError::BadReply(text) if text.contains("uds:")), "{error}");
    assert_eq!(error.outcome(), Outcome::Ran);
    assert_eq!(client.open("none").unwrap_err(), CallError::Service(Missing::Key("none".into())));
    assert_eq!(client.write(holding(""), "x").unwrap_err().outcome(), Outcome::NotRun);
    assert_eq!(client.add(1, 2), Ok(3));
}

fn sixty_four_threads_call_at_once(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..50 {
                    assert_eq!(client.add(thread, call), Ok(thread + call));
                }
                assert_eq!(client.sum(&vec![1; 100_000]), Ok(100_000));
            });
        }
    });
}

fn a_slow_call_holds_up_nobody_and_its_deadline_holds(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    // So that there is a lane.
    assert_eq!(client.add(1, 2), Ok(3));
    let error = client.with_timeout(Duration::from_millis(20)).wait().unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    started.keeper.entered();
    assert_eq!(client.add(1, 2), Ok(3));
    started.keeper.release();
    assert_eq!(client.add(3, 4), Ok(7));
}

fn failures_are_told(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 20));
    let client = started.connect();
    assert_eq!(client.panic(), Err(CallError::Panicked("on purpose".into())));
    let error = client.sum(&vec![0; 2 << 20]).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("1048576")), "{error}");
    assert_eq!(client.add(1, 2), Ok(3));
}

fn a_server_that_drains_finishes_what_it_began(ground: Ground) {
    let Started { server, keeper, ground, _place } = ground.start();
    let started = Started { server, keeper, ground, _place };
    let client = started.connect();
    assert_eq!(client.add(1, 2), Ok(3));
    let Started { server, keeper, .. } = started;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.wait());
        keeper.entered();
        let shutdown = scope.spawn(|| server.shutdown(support::BOUND));
        // New calls are refused, and were not run.
        let impatient = client.with_timeout(Duration::from_millis(50));
        let error = loop {
            match impatient.add(1, 2) {
                // A lane that had just ended its work when the call came (ARCHITECTURE.md, Known gaps).
                Ok(3) | Err(CallError::DeadlineExceeded { .. }) => {}
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(error.outcome(), Outcome::NotRun, "{error}");
        keeper.release();
        assert_eq!(call.join().unwrap(), Ok(()));
        assert!(shutdown.join().unwrap().is_ok());
    });
}

fn the_transport_is_what_was_asked_for(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let transport = client.transport();
    let (expected, shares) = match ground {
        Ground::Shm | Ground::ShmUntrusted | Ground::ShmPosix => (Transport::Shm, true),
        Ground::Uds | Ground::UdsUntrusted | Ground::UdsAbstract => (Transport::Uds, true),
        Ground::UdsOnly => (Transport::Uds, false),
        Ground::Tcp => (Transport::Tcp, false),
        Ground::Inproc => (Transport::Inproc, false),
    };
    assert_eq!(transport.transport(), expected, "{transport}");
    assert_eq!(transport.memory().is_some(), shares, "{transport}");
}

#[test]
fn whoever_shares_no_memory_has_none_of_the_others_and_is_told_why() {
    let place = Place::new();
    let endpoint = format!("shm:{}", place.socket().display());
    let start = |memory_from| {
        let worker = Worker { count: AtomicU64::new(0), kept: Mutex::default(), gate: gate().0 };
        let server = Server::builder().service(WorkServer::new(worker)).listen(&endpoint);
        server.memory_from(memory_from).start().unwrap()
    };
    let connect = |memory_from| WorkClient::builder().memory_from(memory_from).connect(&endpoint).unwrap();
    for (servers, clients, why) in [
        (0, u64::MAX, Some("this client was told to share none")),
        (u64::MAX, 0, Some("the server was told to share none")),
        (u64::MAX, u64::MAX, Some("this client was told to share none")),
        (0, 0, None),
    ] {
        let server = start(servers);
        let client = connect(clients);
        let transport = client.transport();
        assert_eq!(transport.memory().is_none(), why.is_some(), "{transport}");
        let expected = if why.is_some() { Transport::Uds } else { Transport::Shm };
        assert_eq!(transport.transport(), expected, "{transport}");
        assert!(transport.reason().contains(why.unwrap_or("shares memory")), "{transport}");
        assert_eq!(client.sum(&vec![1; 1 << 20]), Ok(1 << 20));
        assert_eq!(client.bytes(1 << 20).map(|bytes| bytes.len()), Ok(1 << 20));
        drop((client, server));
    }
}

macro_rules! over_every_transport {
    ($($ground:ident = $name:ident,)*) => {
        $(mod $name {
            over_every_transport!(@ super::Ground::$ground;
                calls_of_every_kind
                payloads_of_every_size
                blobs_go_both_ways
                a_blob_may_be_kept_and_a_loan_that_is_not_sent_comes_back
                descriptors_go_both_ways
                sixty_four_threads_call_at_once
                a_slow_call_holds_up_nobody_and_its_deadline_holds
                failures_are_told
                a_server_that_drains_finishes_what_it_began
                the_transport_is_what_was_asked_for
            );
        })*
    };
    (@ $ground:expr; $($test:ident)*) => {
        $(#[test]
        fn $test() {
            super::$test($ground);
        })*
    };
}

over_every_transport! {
    Shm = shm,
    ShmUntrusted = shm_untrusted,
    ShmPosix = shm_posix,
    Uds = uds,
    UdsUntrusted = uds_untrusted,
    UdsAbstract = uds_abstract,
    UdsOnly = uds_only,
    Tcp = tcp,
    Inproc = inproc,
}

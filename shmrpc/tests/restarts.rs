//! Servers in processes of their own that are restarted under clients that call all the time: no call is lost, and none
//! runs twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shmrpc::prelude::*;

use crate::support::process::{ENDPOINT, Process, say};
use crate::support::{BOUND, Place, until};

mod support;

/// Where all servers of a test write down what they run.
const JOURNAL: &str = "SHMRPC_TEST_JOURNAL";
const THREADS: usize = 8;
const RESTARTS: usize = 5;
/// Calls of each thread between two restarts, at least.
const CALLS: u64 = 20;

#[shmrpc::service]
pub trait Journal {
    fn write(&self, id: u64) -> u64;
    fn write_blob(&self, id: u64, frame: Blob) -> u64;
}

struct Writer(File);

impl Writer {
    fn note(&self, id: u64) {
        // Whole and at the end, whoever else writes.
        assert_eq!((&self.0).write(&id.to_le_bytes()).unwrap(), 8);
    }
}

impl Journal for Writer {
    fn write(&self, id: u64) -> u64 {
        self.note(id);
        id
    }
    fn write_blob(&self, id: u64, frame: Blob) -> u64 {
        assert!(frame.len() == 5000 && frame.iter().all(|byte| *byte == 7));
        self.note(id);
        id
    }
}

#[test]
fn child_server() {
    let (Ok(endpoint), Ok(journal)) = (std::env::var(ENDPOINT), std::env::var(JOURNAL)) else { return };
    let writer = Writer(File::options().create(true).append(true).open(journal).unwrap());
    let server = Server::builder().service(JournalServer::new(writer)).listen(endpoint);
    let server = server.wait_for_endpoints(BOUND).start().unwrap();
    say(&format!("at {}", server.endpoints()[0]));
    std::io::stdin().read_line(&mut String::new()).unwrap();
    server.shutdown(BOUND).unwrap();
}

/// How one server gives way to the next.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The old one ends, and then the new one starts.
    OldFirst,
    /// The new one starts, and waits for the old one to give the endpoint up.
    NewFirst,
    /// The old one is killed.
    Killed,
}

struct Scene {
    place: Place,
    endpoint: String,
}

impl Scene {
    fn new(scheme: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let place = Place::new();
        let endpoint = match scheme {
            // An address of this test's own, so that no other test gets the port between two servers.
            "tcp" => {
                let [low, high, ..] = std::process::id().to_le_bytes();
                format!("tcp:127.{}.{high}.{low}:0", 100 + NEXT.fetch_add(1, Ordering::Relaxed))
            }
            _ => format!("{scheme}:{}", place.socket().display()),
        };
        Self { place, endpoint }
    }

    fn journal(&self) -> PathBuf {
        self.place.path().join("journal")
    }

    fn start(&self) -> Process {
        Process::start_with("child_server", &self.endpoint, |command| command.env(JOURNAL, self.journal()))
    }

    /// How often each call ran.
    fn runs(&self) -> HashMap<u64, u32> {
        let mut runs = HashMap::new();
        let bytes = std::fs::read(self.journal()).unwrap();
        for id in bytes.chunks(8) {
            *runs.entry(u64::from_le_bytes(id.try_into().unwrap())).or_default() += 1;
        }
        runs
    }
}

fn listening(process: &mut Process) -> String {
    process.tells("at ").strip_prefix("at ").unwrap().to_owned()
}

/// What one thread's calls came to: those that ran, and those of which nobody knows.
#[derive(Default)]
struct Calls {
    well: Vec<u64>,
    unknown: Vec<u64>,
}

fn call_on(client: &JournalClient, thread: u64, goes_on: &AtomicBool, made: &AtomicU64) -> Calls {
    let mut calls = Calls::default();
    for number in 0.. {
        if !goes_on.load(Ordering::Relaxed) {
            break;
        }
        let id = thread << 32 | number;
        let result = if number % 4 == 0 {
            let mut frame = client.blob(5000).unwrap();
            frame.fill(7);
            client.write_blob(id, frame)
        } else {
            client.write(id)
        };
        match result {
            Ok(back) => {
                assert_eq!(back, id);
                calls.well.push(id);
            }
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
                calls.unknown.push(id);
            }
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    calls
}

fn restarted(scheme: &str, ways: &[Way]) {
    let mut scene = Scene::new(scheme);
    let mut server = scene.start();
    scene.endpoint = listening(&mut server);
    let client = JournalClient::builder().timeout(BOUND).connect(&scene.endpoint).unwrap();
    let (goes_on, made) = (AtomicBool::new(true), [const { AtomicU64::new(0) }; THREADS]);
    let (called, mut server) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(&made)
            .map(|(thread, made)| {
                let (client, goes_on) = (&client, &goes_on);
                scope.spawn(move || call_on(client, thread, goes_on, made))
            })
            .collect();
        let all_call = || {
            let before = made.each_ref().map(|made| made.load(Ordering::Relaxed));
            let has_called =
                |(made, before): (&AtomicU64, u64)| made.load(Ordering::Relaxed) >= before + CALLS;
            until("each thread calls", || made.iter().zip(before).all(has_called));
        };
        for way in ways.iter().cycle().take(RESTARTS) {
            all_call();
            server = replaced(&scene, *way, server);
        }
        all_call();
        goes_on.store(false, Ordering::Relaxed);
        let called: Vec<Calls> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (called, server)
    });
    assert!(client.transport().times_connected() > RESTARTS as u64, "{}", client.transport());
    server.tell();
    assert!(server.ends().success());
    let mut runs = scene.runs();
    let (well, unknown) = called
        .iter()
        .fold((0, 0), |(well, unknown), calls| (well + calls.well.len(), unknown + calls.unknown.len()));
    println!("{scheme}, {ways:?}, {RESTARTS} restarts: {well} calls answered, {unknown} unknown");
    for calls in called {
        for id in calls.well {
            assert_eq!(runs.remove(&id), Some(1), "a call that returned");
        }
        for id in calls.unknown {
            assert!(ways.iter().any(|way| matches!(way, Way::Killed)), "a call was lost");
            assert!(runs.remove(&id).unwrap_or(0) <= 1, "a call that nobody knows of");
        }
    }
    assert!(runs.is_empty(), "{runs:?} ran without being called");
}

fn replaced(scene: &Scene, way: Way, mut old: Process) -> Process {
    let mut new = match way {
        Way::OldFirst => {
            old.tell();
            assert!(old.ends().success());
            scene.start()
        }
        Way::NewFirst => {
            let new = scene.start();
            old.tell();
            assert!(old.ends().success());
            new
        }
        Way::Killed => {
            old.kill();
            scene.start()
        }
    };
    assert_eq!(listening(&mut new), scene.endpoint);
    new
}

macro_rules! over {
    ($($name:ident = $scheme:literal, $ways:expr;)*) => {
        $(#[test]
        fn $name() {
            restarted($scheme, $ways);
        })*
    };
}

over! {
    shm_shut_down = "shm", &[Way::OldFirst, Way::NewFirst];
    uds_shut_down = "uds", &[Way::OldFirst, Way::NewFirst];
    tcp_shut_down = "tcp", &[Way::OldFirst, Way::NewFirst];
    shm_killed = "shm", &[Way::Killed];
    uds_killed = "uds", &[Way::Killed];
    tcp_killed = "tcp", &[Way::Killed];
}

/// Who waits for a name that is not given up is told so in time.
#[test]
fn a_successor_waits_as_long_as_it_was_told() {
    let scene = Scene::new("shm");
    let mut server = scene.start();
    listening(&mut server);
    let writer = Writer(File::create(scene.journal()).unwrap());
    let second = Server::builder().service(JournalServer::new(writer)).listen(&scene.endpoint);
    let error = second.wait_for_endpoints(Duration::from_millis(50)).start().unwrap_err();
    assert!(error.to_string().contains("a server already listens at"), "{error}");
}

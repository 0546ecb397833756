//! Descriptors are closed, whatever becomes of their call: by whoever sent them, and by whoever did not take them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_arguments,
    reason = "tests"
)]

use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmrpc::prelude::*;

use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{BOUND, Gate, Keeper, Place, gate, until};

#[path = "descriptors/deaths.rs"]
mod deaths;
#[path = "descriptors/refusals.rs"]
mod refusals;
mod support;

/// One inside the other.
#[derive(Debug, Clone)]
#[shmrpc::message(recursive)]
pub struct Nest(Option<Box<Nest>>);

#[shmrpc::service]
pub trait Files {
    /// Descriptors of `/dev/zero` that the server's process has.
    fn zeros(&self) -> u64;
    fn take(&self, file: OwnedFd);
    fn take_before(&self, file: OwnedFd, text: &str) -> u64;
    fn take_nest(&self, file: OwnedFd, nest: Nest);
    fn take_between(&self, a: OwnedFd, on: bool, b: OwnedFd) -> bool;
    fn take_or_open(&self, file: OwnedFd, on: bool) -> Result<OwnedFd, String>;
    #[oneway]
    fn leave_between(&self, a: OwnedFd, on: bool, b: OwnedFd);
    fn take_many(
        &self,
        a: OwnedFd,
        b: OwnedFd,
        c: OwnedFd,
        d: OwnedFd,
        e: OwnedFd,
        f: OwnedFd,
        g: OwnedFd,
        h: OwnedFd,
    );
    fn wait_with(&self, file: OwnedFd);
    fn wait_and_open(&self) -> OwnedFd;
    fn panic_with(&self, file: OwnedFd);
    fn open(&self) -> OwnedFd;
    fn zero(&self) -> OwnedFd;
    fn wait_and_zero(&self) -> OwnedFd;
    /// Calls of `wait_and_zero` and `wait_with` that have come in, and that were let out.
    fn waits(&self) -> (u64, u64);
    #[oneway]
    fn leave(&self, file: OwnedFd);
    #[oneway]
    fn leave_many(
        &self,
        a: OwnedFd,
        b: OwnedFd,
        c: OwnedFd,
        d: OwnedFd,
        e: OwnedFd,
        f: OwnedFd,
        g: OwnedFd,
        h: OwnedFd,
    );
    #[oneway]
    fn wait(&self);
    fn let_out(&self);
}

/// What the handlers open are the writing ends of pipes, whose readers are kept here.
type Opened = Arc<Mutex<Vec<PipeReader>>>;

struct Server {
    gate: Gate,
    keeper: Mutex<Option<Keeper>>,
    opened: Opened,
    waits: [AtomicU64; 2],
}

impl Server {
    fn new(gate: Gate, keeper: Option<Keeper>, opened: Opened) -> Self {
        Self { gate, keeper: Mutex::new(keeper), opened, waits: Default::default() }
    }

    fn wait_for<T>(&self, what: impl FnOnce() -> T) -> T {
        let [came, went] = &self.waits;
        came.fetch_add(1, Ordering::Relaxed);
        self.gate.pass();
        let what = what();
        went.fetch_add(1, Ordering::Relaxed);
        what
    }
}

impl Files for Server {
    fn zeros(&self) -> u64 {
        zeros_held()
    }
    fn take(&self, file: OwnedFd) {
        drop(file);
    }
    fn take_before(&self, file: OwnedFd, text: &str) -> u64 {
        drop(file);
        text.len() as u64
    }
    fn take_nest(&self, _: OwnedFd, _: Nest) {}
    fn take_between(&self, _: OwnedFd, on: bool, _: OwnedFd) -> bool {
        on
    }
    fn take_or_open(&self, _: OwnedFd, on: bool) -> Result<OwnedFd, String> {
        on.then(|| self.open()).ok_or_else(|| "off".into())
    }
    fn leave_between(&self, _: OwnedFd, _: bool, _: OwnedFd) {}
    fn take_many(
        &self,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
    ) {
    }
    fn wait_with(&self, file: OwnedFd) {
        self.wait_for(|| drop(file));
    }
    fn wait_and_open(&self) -> OwnedFd {
        self.gate.pass();
        self.open()
    }
    fn panic_with(&self, _file: OwnedFd) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    fn open(&self) -> OwnedFd {
        let (reader, writer) = pipe().unwrap();
        self.opened.lock().unwrap().push(reader);
        writer.into()
    }
    fn zero(&self) -> OwnedFd {
        zero().into()
    }
    fn wait_and_zero(&self) -> OwnedFd {
        self.wait_for(|| zero().into())
    }
    fn waits(&self) -> (u64, u64) {
        let [came, went] = self.waits.each_ref().map(|waits| waits.load(Ordering::Relaxed));
        (came, went)
    }
    fn leave(&self, file: OwnedFd) {
        drop(file);
    }
    fn leave_many(
        &self,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
        _: OwnedFd,
    ) {
    }
    fn wait(&self) {
        self.gate.pass();
    }
    fn let_out(&self) {
        if let Some(keeper) = &*self.keeper.lock().unwrap() {
            keeper.release();
        }
    }
}

/// Descriptors of this process.
fn all_held() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Those of `/dev/zero`, which nobody opens but the tests.
fn zeros_held() -> u64 {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    // One that was closed meanwhile leads nowhere.
    let targets = all.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    targets.filter(|target| target.as_os_str() == "/dev/zero").count() as u64
}

/// Whether no process has the writing end of the pipe.
fn is_forgotten(reader: &PipeReader, within: Duration) -> bool {
    let timeout = PollTimeout::try_from(within).unwrap();
    let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout).unwrap() == 1 && (&*reader).read(&mut [0]).unwrap() == 0
}

fn assert_forgotten(reader: &PipeReader) {
    assert!(is_forgotten(reader, BOUND), "somebody keeps a descriptor");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    Shm,
    Uds,
    Inproc,
}

struct Started {
    server: shmrpc::ServerHandle,
    client: FilesClient,
    keeper: Keeper,
    opened: Opened,
    endpoint: String,
    _place: Place,
}

impl Ground {
    fn start(self) -> Started {
        let (place, (gate, keeper), opened) = (Place::new(), gate(), Opened::default());
        let endpoint = match self {
            Self::Shm => place.endpoint(),
            Self::Uds => format!("uds:{}", place.socket().display()),
            Self::Inproc => format!("inproc:{}", place.path().file_name().unwrap().display()),
        };
        let files = Server::new(gate, None, Arc::clone(&opened));
        let server = shmrpc::Server::builder().service(FilesServer::new(files)).listen(&endpoint);
        let server = server.max_message(1 << 20).start().unwrap();
        let client = FilesClient::builder().timeout(BOUND).reconnect(false).connect(&endpoint).unwrap();
        Started { server, client, keeper, opened, endpoint, _place: place }
    }
}

impl Started {
    /// One that gives up, while its call is in the handler.
    fn impatient(&self) -> FilesClient {
        // So that there is a lane.
        self.client.zeros().unwrap();
        self.client.with_timeout(Duration::from_millis(50))
    }
}

fn a_handler_that_is_done_keeps_nothing(ground: Ground) {
    let Started { client, server, .. } = ground.start();
    for length in [0, 10_000] {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(client.take_before(writer, &"x".repeat(length)), Ok(length as u64));
        assert_forgotten(&reader);
    }
    let (reader, writer) = pipe().unwrap();
    assert_eq!(client.panic_with(writer), Err(CallError::Panicked("on purpose".into())));
    assert_forgotten(&reader);
    let (reader, writer) = pipe().unwrap();
    client.leave(writer).unwrap();
    assert_forgotten(&reader);
    drop(server);
}

fn what_is_not_sent_is_closed(ground: Ground) {
    let Started { client, server, .. } = ground.start();
    let (reader, writer) = pipe().unwrap();
    let error = client.take_before(writer, &"x".repeat(2 << 20)).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("1048576")), "{error}");
    assert_forgotten(&reader);
    // A value that was refused leaves the lane as it was.
    let (reader, writer) = pipe().unwrap();
    assert_eq!(client.take_before(writer, "x"), Ok(1));
    assert_forgotten(&reader);
    drop(server);
    let (reader, writer) = pipe().unwrap();
    assert!(client.take(writer).is_err());
    assert_forgotten(&reader);
}

fn arguments_of_a_call_that_timed_out_are_the_handlers(ground: Ground) {
    let started = ground.start();
    let (reader, writer) = pipe().unwrap();
    let error = started.impatient().wait_with(writer).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    started.keeper.entered();
    assert!(!is_forgotten(&reader, Duration::ZERO), "the handler has it");
    started.keeper.release();
    assert_forgotten(&reader);
}

fn a_result_that_comes_too_late_is_closed(ground: Ground) {
    for again in [true, false] {
        let started = ground.start();
        let error = started.impatient().wait_and_open().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        started.keeper.entered();
        // On a lane of its own: what comes on the other one is not found by the way.
        started.client.zeros().unwrap();
        started.keeper.release();
        until("the result", || !started.opened.lock().unwrap().is_empty());
        let reader = started.opened.lock().unwrap().pop().unwrap();
        if again {
            // Whoever asks for one finds the other.
            until("the end of the descriptor", || {
                drop(started.client.open());
                is_forgotten(&reader, Duration::ZERO)
            });
        } else {
            drop(started.client);
            assert_forgotten(&reader);
        }
    }
}

fn what_nobody_takes_ends_with_its_client(ground: Ground) {
    let Started { server, keeper, endpoint, _place, .. } = ground.start();
    // Its last handle waits for one-way calls as long as a call may take.
    let hasty = FilesClient::builder().timeout(Duration::from_millis(50)).reconnect(false);
    let hasty = hasty.connect(&endpoint).unwrap();
    let client = hasty.with_timeout(BOUND);
    let (reader, writer) = pipe().unwrap();
    client.wait().unwrap();
    keeper.entered();
    client.leave(writer).unwrap();
    drop((client, hasty));
    if ground == Ground::Shm {
        // The handler before it need not even end.
        assert_forgotten(&reader);
    }
    keeper.release();
    assert_forgotten(&reader);
    drop(server);
}

fn what_nobody_takes_ends_with_its_server(ground: Ground) {
    let Started { server, client, keeper, .. } = ground.start();
    let (reader, writer) = pipe().unwrap();
    client.wait().unwrap();
    keeper.entered();
    client.leave(writer).unwrap();
    drop(server);
    keeper.release();
    assert_forgotten(&reader);
    drop(client);
}

macro_rules! over {
    ($($name:ident = $ground:ident,)*) => {
        $(mod $name {
            over!(@ super::Ground::$ground;
                a_handler_that_is_done_keeps_nothing
                what_is_not_sent_is_closed
                arguments_of_a_call_that_timed_out_are_the_handlers
                a_result_that_comes_too_late_is_closed
                what_nobody_takes_ends_with_its_client
                what_nobody_takes_ends_with_its_server
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

over! {
    shm = Shm,
    uds = Uds,
    inproc = Inproc,
}

/// The server of the tests below, with so few descriptors that one client may let 15 of them wait.
#[test]
fn serves() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 240, hard).unwrap();
    let (gate, keeper) = gate();
    let files = Server::new(gate, Some(keeper), Opened::default());
    let server = shmrpc::Server::builder().service(FilesServer::new(files)).listen(endpoint);
    let _server = server.start().unwrap();
    say("serving");
    until_orphaned();
}

/// The client of a test below: it uses the server in every way, and has at the end what it had before.
#[test]
fn has_what_it_had() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = FilesClient::builder().timeout(BOUND).connect(endpoint).unwrap();
    let once = || {
        client.take(zero()).unwrap();
        drop(client.zero().unwrap());
        drop(client.view().zero().unwrap());
        client.leave(zero()).unwrap();
        client.panic_with(zero()).unwrap_err();
        client.take_many(zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()).unwrap();
    };
    // Lanes and threads are there from now on.
    once();
    let before = all_held();
    (0..200).for_each(|_| once());
    until("as many descriptors as before", || zeros_held() == 0 && all_held() <= before);
    say("well");
    until_orphaned();
}

fn zero() -> File {
    File::open("/dev/zero").unwrap()
}

/// Over shared memory and over Unix sockets: a server with few descriptors, and a client of it.
fn with_a_server(test: impl Fn(&str, &mut Process, FilesClient)) {
    for scheme in ["shm", "uds"] {
        let place = Place::new();
        let endpoint = format!("{scheme}:{}", place.socket().display());
        let mut server = Process::start_with("serves", &endpoint, |command| command);
        server.says("serving");
        let client = FilesClient::builder().timeout(BOUND).reconnect(false).connect(&endpoint).unwrap();
        test(&endpoint, &mut server, client);
    }
}

#[test]
fn neither_process_keeps_any() {
    with_a_server(|endpoint, _, client| {
        let mut other = Process::start_with("has_what_it_had", endpoint, |command| command);
        other.says("well");
        until("the end of the last one", || client.zeros().unwrap() == 0);
    });
}

#[test]
fn more_than_may_wait_fail_their_call_and_no_other() {
    with_a_server(|endpoint, _, one| {
        if endpoint.starts_with("uds") {
            // There they wait in the system, at the cost of whoever sent them.
            return;
        }
        let connect = || FilesClient::builder().timeout(BOUND).connect(endpoint).unwrap();
        let (other, third) = (connect(), connect());
        for client in [&one, &other] {
            client.wait().unwrap();
        }
        one.leave_many(zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()).unwrap();
        until("eight that wait", || third.zeros().unwrap() == 8);
        std::thread::scope(|scope| {
            let call = || other.take_many(zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero());
            let refused = scope.spawn(call);
            until("seven more", || third.zeros().unwrap() == 15);
            third.let_out().unwrap();
            third.let_out().unwrap();
            let error = refused.join().unwrap().unwrap_err();
            assert!(
                matches!(&error, CallError::Overloaded(text) if text.contains("15 descriptors")),
                "{error}"
            );
        });
        until("the end of them all", || third.zeros().unwrap() == 0);
        other.take_many(zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()).unwrap();
    });
}

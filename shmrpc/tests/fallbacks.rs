//! What older kernels and sandboxes lack, each taken from a process of its own before it begins: all works without it. And
//! that no program that is started later gets a descriptor that we keep.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

mod fallbacks {
    pub(crate) mod lack;
}

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fallbacks::lack::Lack;
use nix::libc;
use shmrpc::Transport;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, forked, say, until_orphaned};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Plain {
    fn add(&self, a: u32, b: u32) -> u32;
    fn blob(&self, length: u32) -> Vec<u8>;
    fn length(&self, bytes: &[u8]) -> u32;
    #[oneway]
    fn note(&self, text: &str);
    /// Never returns.
    fn wait(&self);
}

struct Served;

impl Plain for Served {
    fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
    fn blob(&self, length: u32) -> Vec<u8> {
        vec![7; usize::try_from(length).unwrap()]
    }
    fn length(&self, bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).unwrap()
    }
    fn note(&self, _text: &str) {}
    fn wait(&self) {
        say("waiting");
        loop {
            std::thread::park();
        }
    }
}

const MEMORY: &str = "SHMRPC_TEST_MEMORY";

fn start(part: &str, endpoint: &str, lack: Lack, memory: Memory) -> Process {
    Process::start_with(part, endpoint, |command| lack.deprive(command.env(MEMORY, memory.to_string())))
}

/// In a child: where to go, and with what. `None` in the test's own process.
fn told() -> Option<(String, Memory)> {
    let endpoint = std::env::var(ENDPOINT).ok()?;
    Lack::own().expect();
    let posix = std::env::var(MEMORY).unwrap() == Memory::PosixShm.to_string();
    Some((endpoint, if posix { Memory::PosixShm } else { Memory::Memfd }))
}

fn serve(endpoint: &str, memory: Memory) -> ServerHandle {
    let server = Server::builder().service(PlainServer::new(Served)).memory(memory);
    server.listen(endpoint).start().unwrap()
}

fn connect(endpoint: &str, memory: Memory) -> PlainClient {
    let client = PlainClient::builder().timeout(BOUND).memory(memory).connect(endpoint).unwrap();
    let asked = if endpoint.starts_with("uds:") { Transport::Uds } else { Transport::Shm };
    assert_eq!(client.transport().transport(), asked, "{}", client.transport());
    client
}

/// Bytes that no base segment has room for.
const LARGE: u32 = (1 << 20) + (1 << 16);

/// Calls of every kind.
fn talk(client: &PlainClient) {
    let bytes = vec![7; usize::try_from(LARGE).unwrap()];
    assert_eq!(client.add(1, 2), Ok(3));
    client.note("one-way").unwrap();
    assert_eq!(client.length(&bytes), Ok(LARGE));
    assert_eq!(client.view().blob(LARGE).unwrap().as_slice(), bytes);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(client.add(2, 3), Ok(5)));
        }
    });
}

#[test]
fn child_server() {
    let Some((endpoint, memory)) = told() else { return };
    let server = serve(&endpoint, memory);
    say("serving");
    until_orphaned();
    // Lanes that sleep end.
    server.shutdown(BOUND).unwrap();
    say("well");
}

#[test]
fn child_client() {
    let Some((endpoint, memory)) = told() else { return };
    talk(&connect(&endpoint, memory));
    say("well");
}

/// What a child of the server holds does not keep its clients waiting.
#[test]
fn child_server_with_an_heir() {
    let Some((endpoint, memory)) = told() else { return };
    let _server = serve(&endpoint, memory);
    say("serving");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    forked(until_orphaned);
    say("forked");
    loop {
        std::thread::park();
    }
}

/// Waits for its call's deadline, and then for the end of its server.
#[test]
fn child_client_that_waits() {
    let Some((endpoint, memory)) = told() else { return };
    let client = connect(&endpoint, memory);
    assert_eq!(client.add(1, 2), Ok(3));
    let error = client.with_timeout(Duration::from_millis(150)).wait().unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { outcome: Outcome::Unknown, .. }), "{error:?}");
    say("connected");
    let error = client.wait().unwrap_err();
    assert!(matches!(error, CallError::Disconnected { outcome: Outcome::Unknown, .. }), "{error:?}");
    say("well");
}

/// Whether each thread of the process sleeps.
fn is_asleep(process: &Process) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.child.id())).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('S'))
    })
}

fn all_works_without(lack: Lack) {
    if !lack.is_possible() {
        return;
    }
    for memory in [Memory::Memfd, Memory::PosixShm] {
        for (of_server, of_client) in [(lack, Lack::Nothing), (Lack::Nothing, lack), (lack, lack)] {
            let place = Place::new();
            let at = lack.endpoint(&place);
            let mut server = start("child_server", &at, of_server, memory);
            server.says("serving");
            let mut client = start("child_client", &at, of_client, memory);
            client.says("well");
            assert!(client.ends().success());
            // Its client is here now, with an open lane.
            let client = connect(&at, memory);
            talk(&client);
            until("the server sleeps", || is_asleep(&server));
            talk(&client);
            drop(server.child.stdin.take());
            server.says("well");
            assert!(server.ends().success());
        }
        let place = Place::new();
        let at = lack.endpoint(&place);
        let mut server = start("child_server_with_an_heir", &at, Lack::Nothing, memory);
        server.says("serving");
        let mut client = start("child_client_that_waits", &at, lack, memory);
        client.says("connected");
        server.says("waiting");
        server.says("waiting");
        let stdin = server.child.stdin.take().unwrap();
        io::Write::write_all(&mut &stdin, b"\n").unwrap();
        server.says("forked");
        until("the client sleeps", || is_asleep(&client));
        server.kill();
        client.says("well");
        assert!(client.ends().success());
        // The heir reads its end from here.
        drop(stdin);
    }
}

#[test]
fn all_works_without_futex_waitv() {
    all_works_without(Lack::Waitv);
}

#[test]
fn all_works_without_scm_pidfd() {
    all_works_without(Lack::Pidfd);
}

/// Lanes over Unix sockets have room for descriptors then, whatever their service.
#[test]
fn all_works_where_descriptors_cannot_be_refused() {
    all_works_without(Lack::Rights);
}

#[test]
fn all_works_without_proc() {
    all_works_without(Lack::Proc);
}

/// Where no memory can be had, calls go over the socket, and whoever asks is told which side lacks what.
fn goes_over_the_socket(endpoint: &str, side: &str, lack: Lack) {
    let over_socket = endpoint.replace("shm:", "uds:");
    for (endpoint, asked) in [
        (endpoint, "shared memory cannot be had: "),
        (&over_socket, "the endpoint asks for it, and no memory is shared: "),
    ] {
        let client = PlainClient::builder().timeout(BOUND).connect(endpoint).unwrap();
        let transport = client.transport();
        assert_eq!((transport.transport(), transport.memory()), (Transport::Uds, None), "{transport}");
        let [what, said] = lack.refusal().unwrap();
        let (start, reason) = (format!("{asked}{side} can share none: {what}"), transport.reason());
        assert!(reason.starts_with(&start) && reason.contains(said), "{start}, {said}: {transport}");
        talk(&client);
    }
}

#[test]
fn child_client_without_memory() {
    let Some((endpoint, _)) = told() else { return };
    goes_over_the_socket(&endpoint, "this client", Lack::own());
    say("well");
}

fn falls_back_without(lack: Lack) {
    let place = Place::new();
    let mut server = start("child_server", &place.endpoint(), lack, Memory::Memfd);
    server.says("serving");
    goes_over_the_socket(&place.endpoint(), "the server", lack);
    // Both lack it: what the client knows of itself is said.
    let mut client = start("child_client_without_memory", &place.endpoint(), lack, Memory::Memfd);
    client.says("well");
    assert!(client.ends().success());
    drop(server.child.stdin.take());
    server.says("well");
    assert!(server.ends().success());

    let place = Place::new();
    let server = serve(&place.endpoint(), Memory::Memfd);
    let mut client = start("child_client_without_memory", &place.endpoint(), lack, Memory::Memfd);
    client.says("well");
    assert!(client.ends().success());
    // Others share memory with it, and so does a process that makes it another way.
    talk(&connect(&place.endpoint(), Memory::Memfd));
    // Unless it may not ask what it was sent.
    let part = if lack == Lack::AskSeals { "child_client_without_memory" } else { "child_client" };
    let mut client = start(part, &place.endpoint(), lack, Memory::PosixShm);
    client.says("well");
    assert!(client.ends().success());
    drop(server);
}

#[test]
fn without_memfd_create_calls_go_over_the_socket() {
    falls_back_without(Lack::Memfd);
}

#[test]
fn without_seals_calls_go_over_the_socket() {
    falls_back_without(Lack::Seals);
}

#[test]
fn without_asking_for_seals_calls_go_over_the_socket() {
    falls_back_without(Lack::AskSeals);
}

fn descriptors() -> BTreeSet<i32> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Whether it is closed when another program begins; `None` if there is none.
fn closes_on_exec(descriptor: i32) -> Option<bool> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
    Some(flags & libc::O_CLOEXEC != 0)
}

/// Both sides with all that they have: listeners, locks, sockets, peers, memory that grew, and its witnesses.
#[test]
fn child_that_counts_descriptors() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let before = descriptors();
    let memories = [Memory::Memfd, Memory::PosixShm].map(|memory| {
        let endpoint = format!("{endpoint}-{memory}");
        let server = serve(&endpoint, memory);
        let client = connect(&endpoint, memory);
        talk(&client);
        let view = client.view().blob(LARGE).unwrap();
        // Somebody who says nothing.
        let silent = UnixStream::connect(endpoint.strip_prefix("shm:").unwrap()).unwrap();
        // Whoever comes next is let in after them.
        let other = connect(&endpoint, memory);
        (server, client, view, silent, other)
    });
    // Lanes that are sockets, ports, and what there is inside the process.
    let over_socket = format!("{}-uds", endpoint.replace("shm:", "uds:"));
    let others = [&over_socket, "tcp:127.0.0.1:0", "inproc:counted"].map(|endpoint| {
        let server = Server::builder().service(PlainServer::new(Served)).listen(endpoint).start().unwrap();
        let at = server.endpoints()[0].to_string();
        let client = PlainClient::builder().timeout(BOUND).connect(at).unwrap();
        talk(&client);
        (server, client)
    });
    let ours: Vec<_> = descriptors().difference(&before).copied().collect();
    let kept = ours.iter().filter(|descriptor| closes_on_exec(**descriptor) == Some(false));
    let kept: Vec<_> = kept.map(|kept| std::fs::read_link(format!("/proc/self/fd/{kept}"))).collect();
    assert!(kept.is_empty(), "{kept:?}");
    say(&format!("descriptors {}", ours.len()));
    drop((memories, others));
}

#[test]
fn no_descriptor_that_we_keep_outlives_an_exec() {
    let place = Place::new();
    let mut process = Process::start("child_that_counts_descriptors", &place);
    let told = process.tells("descriptors ");
    assert!(process.ends().success());
    // For each memory at least: listener, lock, two peers of two ends with a socket and a pidfd each, memory beyond the base.
    let count: u32 = told.strip_prefix("descriptors ").unwrap().parse().unwrap();
    assert!(count >= 24, "only {count}");
}

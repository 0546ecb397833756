//! Who is at the other end: forked processes, heirs of sockets, other users.
//!
//! The children are this test program again; those that fork do it there, where no other test holds a lock.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, forked, say, until_orphaned};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Who {
    /// The server's process.
    fn pid(&self) -> u32;
    /// The caller's process, user and group, and the process that its pidfd stands for.
    fn caller(&self, ctx: &Context) -> (i32, u32, u32, i32);
    fn bytes(&self, length: u32) -> Vec<u8>;
    /// Whether the bytes are read in memory that is shared.
    fn in_place(&self, bytes: &[u8]) -> bool;
    /// Never returns.
    fn wait(&self);
}

struct Here;

impl Who for Here {
    fn pid(&self) -> u32 {
        std::process::id()
    }
    fn caller(&self, ctx: &Context) -> (i32, u32, u32, i32) {
        let peer = ctx.peer();
        let who = peer.credentials().unwrap();
        let fdinfo = format!("/proc/self/fdinfo/{}", peer.pidfd().unwrap().as_raw_fd());
        let fdinfo = std::fs::read_to_string(fdinfo).unwrap();
        let pid = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
        (who.pid.unwrap(), who.uid, who.gid, pid.trim().parse().unwrap())
    }
    fn bytes(&self, length: u32) -> Vec<u8> {
        static CALLS: AtomicU8 = AtomicU8::new(7);
        vec![CALLS.fetch_add(1, Ordering::Relaxed); usize::try_from(length).unwrap()]
    }
    fn in_place(&self, bytes: &[u8]) -> bool {
        let at = bytes.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let shared = maps.lines().filter(|line| line.contains("memfd:shmrpc") || line.contains("/dev/shm/"));
        let mut ranges = shared.filter_map(|line| line.split_whitespace().next()?.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        ranges.any(|(start, end)| (number(start)..number(end)).contains(&at))
    }
    fn wait(&self) {
        say("waiting");
        loop {
            std::thread::park();
        }
    }
}

fn serve(endpoint: impl Into<String>) -> ServerHandle {
    Server::builder().service(WhoServer::new(Here)).listen(endpoint).start().unwrap()
}

fn connect(endpoint: impl AsRef<str>) -> WhoClient {
    WhoClient::builder().timeout(BOUND).reconnect(false).connect(endpoint).unwrap()
}

// The children's parts. They return at once when they run as tests.

#[test]
fn child_that_forks() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let server = serve(&endpoint);
    let client = connect(&endpoint);
    // In options, so that the child can drop them while the parent keeps them.
    let other = connect(&endpoint);
    let view = other.view().bytes(1 << 20).unwrap();
    let mut held = Some((other, view));
    let mut shut_down = Some(serve(format!("{endpoint}-shut-down")));
    let mut dropped = Some(serve(format!("{endpoint}-dropped")));
    let parents = std::process::id();

    let child = forked(|| {
        let (client, view) = held.take().unwrap();
        assert!(view.is_in_place());
        assert_eq!(client.pid(), Err(CallError::Forked));
        assert_eq!(client.view().bytes(10).map(drop), Err(CallError::Forked));
        assert_eq!(client.pid().unwrap_err().outcome(), Outcome::NotRun);
        assert_eq!(view.as_slice(), [7; 1 << 20]);
        drop(view);
        drop(client);
        assert!(matches!(shut_down.take().unwrap().shutdown(BOUND), Err(shmrpc::ServeError::Forked)));
        drop(dropped.take());
        // It may be a client and a server of its own.
        assert_eq!(connect(&endpoint).pid(), Ok(parents));
        let own = serve(format!("{endpoint}-child"));
        assert_eq!(connect(format!("{endpoint}-child")).pid(), Ok(std::process::id()));
        own.shutdown(BOUND).unwrap();
    });
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));

    // Nothing of ours has changed: the connection, the servers and their locks, the memory under the view.
    assert_eq!(client.pid(), Ok(parents));
    for _ in 0..10 {
        client.bytes(1 << 20).unwrap();
    }
    let (other, view) = held.take().unwrap();
    assert_eq!(other.pid(), Ok(parents));
    drop(other);
    assert_eq!(view.as_slice(), [7; 1 << 20]);
    for endpoint in ["", "-shut-down", "-dropped"].map(|end| format!("{endpoint}{end}")) {
        assert_eq!(connect(&endpoint).pid(), Ok(parents), "{endpoint}");
        let again = Server::builder().service(WhoServer::new(Here)).listen(&endpoint).start();
        assert!(matches!(again, Err(shmrpc::ServeError::Listen { .. })), "{endpoint}");
    }
    until("only the client is left", || server.connections() == 1);
    say("well");
}

/// A server whose child lives on and holds every descriptor of it.
#[test]
fn child_server_with_an_heir() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let _server = serve(&endpoint);
    let client = connect(&endpoint);
    client.pid().unwrap();
    // Forked when somebody is connected: on a line of its own, the parent says when.
    let mut go = [0];
    say("ready");
    std::io::stdin().lock().read_exact(&mut go).unwrap();
    forked(|| {
        // Said by the child: it has run since it was forked.
        say("forked");
        drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
    });
    until_orphaned();
}

/// A client, the same.
#[test]
fn child_client_with_an_heir() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = connect(&endpoint);
    client.pid().unwrap();
    forked(|| {
        drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
    });
    say("forked");
    until_orphaned();
}

/// A client that says what it sees of the server, and the server of it.
#[test]
fn child_that_asks() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let memory = match std::env::var("SHMRPC_TEST_MEMORY") {
        Ok(_) => Memory::PosixShm,
        Err(_) => Memory::Memfd,
    };
    if std::env::var_os("SHMRPC_TEST_BECOME").is_some() {
        // As a program does that gives its rights up for a while: the real user stays.
        setegid(Gid::from_raw(65534)).unwrap();
        seteuid(Uid::from_raw(65534)).unwrap();
    }
    let allow = match std::env::var("SHMRPC_TEST_ALLOW") {
        Ok(user) => Peers::Users(vec![user.parse().unwrap()]),
        Err(_) => Peers::SameUser,
    };
    let trust = if memory.is_sealed() { Peers::SameUser } else { allow.clone() };
    match WhoClient::builder().allow(allow).trust(trust).memory(memory).connect(&endpoint) {
        Ok(client) => {
            let (pid, uid, gid, pidfd) = client.caller().unwrap();
            assert_eq!(pid, i32::try_from(std::process::id()).unwrap());
            assert_eq!(pidfd, pid);
            let taken = client.in_place(&[7; 1 << 20]).unwrap();
            let view = client.view().bytes(1 << 20).unwrap();
            let in_place = view.is_in_place() || client.transport().reads_in_place();
            say(&format!("user {uid} group {gid} in place {in_place} taken in place {taken}"));
        }
        Err(error) => say(&error.to_string().replace(&endpoint, "there")),
    }
}

// The tests.

#[test]
fn a_forked_child_cannot_hurt_its_parent() {
    let place = Place::new();
    let mut process = Process::start("child_that_forks", &place);
    process.says("well");
    assert!(process.ends().success());
}

#[test]
fn a_server_is_dead_though_its_child_holds_the_socket() {
    let place = Place::new();
    let mut process = Process::start("child_server_with_an_heir", &place);
    process.says("ready");
    let client = connect(place.endpoint());
    assert_eq!(client.pid(), Ok(process.child.id()));
    let stdin = process.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut &stdin, b"!").unwrap();
    process.says("forked");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.with_timeout(Duration::MAX).wait());
        process.says("waiting");
        process.kill();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
    });
    assert_eq!(client.pid().unwrap_err().outcome(), Outcome::NotRun);
    // The heir has nothing of the server: nobody waits at its door, and the name is free.
    let error = WhoClient::connect(place.endpoint()).unwrap_err().to_string();
    assert!(error.contains("nobody listens at"), "{error}");
    let server = serve(place.endpoint());
    assert_eq!(connect(place.endpoint()).pid(), Ok(std::process::id()));
    server.shutdown(BOUND).unwrap();
    // The heir reads its end from here.
    drop(stdin);
}

#[test]
fn a_client_is_dead_though_its_child_holds_the_socket() {
    let place = Place::new();
    let server = serve(place.endpoint());
    let mut process = Process::start("child_client_with_an_heir", &place);
    process.says("forked");
    let stdin = process.child.stdin.take();
    assert_eq!(server.connections(), 1);
    process.kill();
    until("the connection ends", || server.connections() == 0);
    drop(stdin);
}

/// How `child_that_asks` becomes user 65534.
#[derive(Clone, Copy, PartialEq)]
enum Become {
    /// Started as that user.
    Real,
    /// Its effective user only.
    Effective,
}

/// What `child_that_asks` says as user 65534; `None` if this process may not become somebody else.
fn asked_by_another(place: &Place, allow: Option<u32>, how: Become, memory: Memory) -> Option<String> {
    if !geteuid().is_root() {
        support::skipped("only root can start a process of another user");
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_asks", "--nocapture"]).env(ENDPOINT, place.endpoint());
    match how {
        Become::Real => command.uid(65534).gid(65534).current_dir("/"),
        Become::Effective => command.env("SHMRPC_TEST_BECOME", "1"),
    };
    // Backtraces and the like are of no use here, and another user cannot write where ours go.
    command.env("TMPDIR", "/tmp");
    if let Some(user) = allow {
        command.env("SHMRPC_TEST_ALLOW", user.to_string());
    }
    if memory == Memory::PosixShm {
        command.env("SHMRPC_TEST_MEMORY", "");
    }
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            support::skipped("another user may not run this program where it lies");
            return None;
        }
        output => output.unwrap(),
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    Some(text.lines().find(|line| line.contains("user") || line.contains("there")).unwrap().to_owned())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn another_user_gets_in_only_where_both_sides_allow_it() {
    let own = geteuid().as_raw();
    if own == 65534 {
        return support::skipped("the other user is 65534, and so are we");
    }
    let start = |place: &Place, allow, trust| {
        let server = Server::builder().service(WhoServer::new(Here)).listen(place.endpoint());
        server.allow(allow).trust(trust).start().unwrap()
    };

    let place = Place::open_to_all();
    // Trust lets nobody in.
    let server = start(&place, Peers::SameUser, Peers::Any);
    assert_eq!(mode(&place.socket()), 0o600);
    if let Some(said) = asked_by_another(&place, Some(own), Become::Real, Memory::Memfd) {
        assert!(said.contains("Permission denied"), "{said}");
        // Past the file's mode there is still the check of credentials.
        std::fs::set_permissions(place.socket(), PermissionsExt::from_mode(0o666)).unwrap();
        for how in [Become::Real, Become::Effective] {
            let said = asked_by_another(&place, Some(own), how, Memory::Memfd).unwrap();
            assert!(said.contains("user 65534 may not talk to this server, only the same user"), "{said}");
        }
    }
    server.shutdown(BOUND).unwrap();

    let both = || Peers::Users(vec![own, 65534]);
    for (allow, trust, taken) in [
        // Allowed is not trusted.
        (both(), Peers::SameUser, false),
        (both(), Peers::Nobody, false),
        (both(), both(), true),
        (Peers::Any, Peers::Users(vec![65534]), true),
        (Peers::Any, Peers::Any, true),
    ] {
        let server = start(&place, allow, trust);
        assert_eq!(mode(&place.socket()), 0o666);
        for how in [Become::Real, Become::Effective] {
            let Some(said) = asked_by_another(&place, None, how, Memory::Memfd) else { break };
            assert!(said.contains(&format!("is user {own}, and only the same user may talk")), "{said}");
            let said = asked_by_another(&place, Some(own), how, Memory::Memfd).unwrap();
            assert_eq!(said, format!("user 65534 group 65534 in place false taken in place {taken}"));
        }
        assert_eq!(connect(place.endpoint()).caller().unwrap().1, own);
        server.shutdown(BOUND).unwrap();
    }
}

/// A set, and whether we are in it. Nobody has the last number.
fn sets() -> [(Peers, bool); 6] {
    let own = geteuid().as_raw();
    [
        (Peers::SameUser, true),
        (Peers::Users(vec![u32::MAX - 1, own]), true),
        (Peers::Users(vec![u32::MAX - 1]), false),
        (Peers::Users(vec![]), false),
        (Peers::Any, true),
        (Peers::Nobody, false),
    ]
}

#[test]
fn allow_and_trust_mean_what_they_say_on_both_sides() {
    let own = geteuid().as_raw();
    for (set, ours) in sets() {
        let place = Place::new();
        let server = Server::builder().service(WhoServer::new(Here)).listen(place.endpoint());
        let server = server.allow(set.clone()).start().unwrap();
        match WhoClient::connect(place.endpoint()) {
            Ok(client) => assert_eq!((client.pid(), ours), (Ok(std::process::id()), true), "{set:?}"),
            Err(error) => {
                let why = format!("user {own} may not talk to this server, only {set}");
                assert!(!ours && error.to_string().contains(&why), "{set:?}: {error}");
            }
        }
        server.shutdown(BOUND).unwrap();

        let server = Server::builder().service(WhoServer::new(Here)).listen(place.endpoint());
        let server = server.trust(set.clone()).start().unwrap();
        match WhoClient::builder().allow(set.clone()).connect(place.endpoint()) {
            Ok(client) => {
                assert!(ours, "{set:?}");
                assert_eq!(client.in_place(&[7; 10_000]), Ok(ours), "{set:?}");
            }
            Err(error) => {
                let why = format!("is user {own}, and only {set} may talk");
                assert!(!ours && error.to_string().contains(&why), "{set:?}: {error}");
            }
        }
        let client = WhoClient::builder().trust(set.clone()).connect(place.endpoint()).unwrap();
        assert_eq!(client.in_place(&[7; 10_000]), Ok(ours), "the server trusts {set:?}");
        assert_eq!(client.in_place(&[7; 4_000]), Ok(false), "small messages are copied");
        let view = client.view().bytes(10_000).unwrap();
        assert_eq!((view.is_in_place(), client.transport().reads_in_place()), (ours, ours), "{set:?}");
        server.shutdown(BOUND).unwrap();
    }
}

/// Trusted on both sides, each may lend the other memory that only it can write.
#[test]
fn memory_without_seals_and_another_user() {
    let own = geteuid().as_raw();
    if own == 65534 {
        return support::skipped("the other user is 65534, and so are we");
    }
    let both = || Peers::Users(vec![own, 65534]);
    let place = Place::open_to_all();
    let start = |trust, memory| {
        let server = Server::builder().service(WhoServer::new(Here)).listen(place.endpoint());
        server.allow(both()).trust(trust).memory(memory).start().unwrap()
    };
    let ask = || asked_by_another(&place, Some(own), Become::Real, Memory::PosixShm);
    let server = start(Peers::SameUser, Memory::Memfd);
    if let Some(said) = ask() {
        let why = "the server trusts the same user, and at its other end is user 65534";
        assert!(said.contains(why), "{said}");
    }
    server.shutdown(BOUND).unwrap();
    let server = start(both(), Memory::PosixShm);
    if let Some(said) = ask() {
        assert_eq!(said, "user 65534 group 65534 in place true taken in place true");
    }
    server.shutdown(BOUND).unwrap();
}

/// What a client is told that shares `clients` memory with a server of `servers` memory; each trusts whom it is given.
fn told(servers: (Memory, Peers), clients: (Memory, Peers)) -> String {
    let place = Place::new();
    let server = Server::builder().service(WhoServer::new(Here)).listen(place.endpoint());
    let server = server.memory(servers.0).trust(servers.1).start().unwrap();
    let client = WhoClient::builder().memory(clients.0).trust(clients.1);
    let told = match client.connect(place.endpoint()) {
        Ok(client) => client.pid().map(|_| "welcome".to_owned()).unwrap(),
        Err(error) => error.to_string(),
    };
    // Whoever was refused is gone, and others are welcome.
    until("nobody is left", || server.connections() == 0);
    assert_eq!(connect_with(&place, servers.0).pid(), Ok(std::process::id()));
    told
}

fn connect_with(place: &Place, memory: Memory) -> WhoClient {
    let trust = if memory.is_sealed() { Peers::Nobody } else { Peers::SameUser };
    WhoClient::builder().timeout(BOUND).trust(trust).connect(place.endpoint()).unwrap()
}

#[test]
fn memory_without_seals_is_shared_only_by_those_who_trust_each_other() {
    use Memory::{Memfd, PosixShm};
    let (same, nobody) = (Peers::SameUser, Peers::Nobody);
    let refusal = |owner: &str, by: &str, trust: &str| {
        let uid = geteuid().as_raw();
        format!(
            "the {owner}'s memory is PosixShm, which cannot be sealed, so it is for peers that trust each other; the \
             {by} trusts {trust}, and at its other end is user {uid}: widen the {by}'s `.trust(..)`, or give the \
             {owner} `.memory(Memory::Memfd)`"
        )
    };
    for (servers, clients) in [(PosixShm, Memfd), (PosixShm, PosixShm), (Memfd, PosixShm)] {
        assert_eq!(told((servers, same.clone()), (clients, same.clone())), "welcome");
    }
    let said = told((Memfd, nobody.clone()), (PosixShm, same.clone()));
    assert!(
        said.contains(&format!("the server refused: {}", refusal("client", "server", "nobody"))),
        "{said}"
    );
    let said = told((PosixShm, same.clone()), (Memfd, Peers::Users(vec![])));
    assert!(said.ends_with(&refusal("server", "client", "users []")), "{said}");
    let said = told((Memfd, same.clone()), (PosixShm, nobody));
    assert!(said.ends_with(&refusal("client", "client", "nobody")), "{said}");
}

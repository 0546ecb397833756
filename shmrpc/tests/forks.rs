//! A server that binds, forks its worker and exits; and numbers of processes that are used again.
//!
//! The children are this test program again; those that fork do it there, where no other test holds a lock.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid, pipe, read, write};
use shmrpc::PeerInfo;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, forked, say, until_orphaned};
use support::{BOUND, Place, until};

#[shmrpc::service]
pub trait Who {
    /// The server's process.
    fn pid(&self) -> i32;
    /// The caller's process, if it has a number here.
    fn caller(&self, ctx: &Context) -> Option<i32>;
    /// Never returns.
    fn wait(&self);
}

/// Remembers who called.
#[derive(Clone, Default)]
struct Here(Arc<Mutex<Vec<PeerInfo>>>);

impl Who for Here {
    fn pid(&self) -> i32 {
        getpid().as_raw()
    }
    fn caller(&self, ctx: &Context) -> Option<i32> {
        self.0.lock().unwrap().push(ctx.peer().clone());
        pid_of(ctx.peer())
    }
    fn wait(&self) {
        say("waiting");
        loop {
            std::thread::park();
        }
    }
}

fn builder(endpoint: impl Into<String>) -> shmrpc::ServerBuilder {
    Server::builder().service(WhoServer::new(Here::default())).listen(endpoint)
}

fn connect(endpoint: impl AsRef<str>) -> WhoClient {
    WhoClient::builder().timeout(BOUND).connect(endpoint).unwrap()
}

fn own_pid() -> i32 {
    getpid().as_raw()
}

// The children's parts. They return at once when they run as tests.

/// Listens, forks its worker and exits.
#[test]
fn child_with_a_worker() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let server = builder(&endpoint).bind().unwrap();
    let parent = getpid();
    forked(|| {
        until("the parent is gone", || getppid() != parent);
        let _server = server.start().unwrap();
        // Of this one's children none has the name.
        forked(|| {
            say("serves");
            until_orphaned();
        });
        until_orphaned();
    });
}

/// Serves a name of this process, binds another one, and forks.
#[test]
fn child_with_names_of_its_own() {
    if std::env::var(ENDPOINT).is_err() {
        return;
    }
    let (at, later) = ("inproc:forks", "inproc:forks-later");
    // In options, so that the child can drop and start them while the parent keeps them.
    let (mut server, mut bound) = (Some(builder(at).start().unwrap()), Some(builder(later).bind().unwrap()));
    assert_eq!(connect(at).pid(), Ok(own_pid()));
    let child = forked(|| {
        let error = WhoClient::connect(at).unwrap_err().to_string();
        assert!(error.contains("forks"), "{error}");
        let own = builder(at).start().unwrap();
        assert_eq!(connect(at).pid(), Ok(own_pid()));
        drop(server.take());
        assert_eq!(connect(at).pid(), Ok(own_pid()), "the parent's end is not the child's");
        drop(own);
        WhoClient::connect(at).unwrap_err();
        let _later = bound.take().unwrap().start().unwrap();
        assert_eq!(connect(later).pid(), Ok(own_pid()));
    });
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    assert_eq!(connect(at).pid(), Ok(own_pid()));
    let _later = bound.take().unwrap().start().unwrap();
    assert_eq!(connect(later).pid(), Ok(own_pid()));
    server.unwrap().shutdown(BOUND).unwrap();
    say("well");
}

/// In a pid namespace of its own, where numbers can be chosen: a client dies, its child keeps the socket, and another
/// process gets its number.
#[test]
fn child_in_a_pid_namespace() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWPID) {
        return say(&format!("skipped: no pid namespace: {errno}"));
    }
    // The first process of a namespace: all others end with it.
    let first = forked(|| {
        if let Err(error) = fs::write(LAST_PID, "100") {
            return say(&format!("skipped: {LAST_PID}: {error}"));
        }
        serve_one_number_twice(&endpoint);
    });
    assert_eq!(waitpid(first, None).unwrap(), WaitStatus::Exited(first, 0));
}

/// What the next process's number comes after.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

fn serve_one_number_twice(endpoint: &str) {
    let here = Here::default();
    let server = Server::builder().service(WhoServer::new(here.clone())).listen(endpoint).start().unwrap();
    assert_eq!(own_pid(), 1);
    say("serves");
    // Somebody outside, who has no number in here.
    until_told();
    until("nobody is left", || server.connections() == 0);
    let outside = here.0.lock().unwrap().pop().unwrap();
    assert_eq!((pid_of(&outside), has_ended(&outside)), (None, false), "it has a pidfd all the same");

    let (heard, tell) = pipe().unwrap();
    let client = forked(|| {
        let client = connect(endpoint);
        assert_eq!(client.caller(), Ok(Some(own_pid())));
        forked(until_orphaned);
        write(&tell, b"!").unwrap();
        until_orphaned();
    });
    hear(&heard);
    kill(client, Signal::SIGKILL).unwrap();
    waitpid(client, None).unwrap();
    // Its number is free, its child has the socket still. Somebody else takes the number.
    let again = loop {
        fs::write(LAST_PID, (client.as_raw() - 1).to_string()).unwrap();
        let again = forked(until_orphaned);
        if again == client {
            break again;
        }
        kill(again, Signal::SIGKILL).unwrap();
        waitpid(again, None).unwrap();
    };
    until("the death is seen", || server.connections() == 0);
    kill(again, None).unwrap();
    let peer = here.0.lock().unwrap().pop().unwrap();
    assert_eq!((pid_of(&peer), has_ended(&peer)), (Some(again.as_raw()), true));

    // The same number once more, now as a client.
    kill(again, Signal::SIGKILL).unwrap();
    waitpid(again, None).unwrap();
    until("the number is had", || {
        fs::write(LAST_PID, (client.as_raw() - 1).to_string()).unwrap();
        let again = forked(|| {
            let client = connect(endpoint);
            assert_eq!(client.caller(), Ok(Some(own_pid())));
            write(&tell, b"!").unwrap();
            until_orphaned();
        });
        hear(&heard);
        again == client
    });
    let second = here.0.lock().unwrap().pop().unwrap();
    assert_eq!(pid_of(&second), pid_of(&peer));
    assert!(has_ended(&peer) && !has_ended(&second));
    say("well");
}

fn pid_of(peer: &PeerInfo) -> Option<i32> {
    peer.credentials().unwrap().pid
}

fn has_ended(peer: &PeerInfo) -> bool {
    let mut fds = [PollFd::new(peer.pidfd().unwrap(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// Waits for a byte of a child.
fn hear(pipe: &OwnedFd) {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(30_000_u16)), Ok(1), "the child says nothing");
    assert_eq!(read(pipe, &mut [0]), Ok(1));
}

/// Until the parent has written one byte.
fn until_told() {
    let _ = std::io::stdin().lock().read_exact(&mut [0]);
}

// The tests.

#[test]
fn clients_of_a_forked_worker_are_served_by_it() {
    let place = Place::new();
    let mut process = Process::start("child_with_a_worker", &place);
    let stdin = process.child.stdin.take();
    process.says("serves");
    // The one that listened is gone.
    assert!(process.child.wait().unwrap().success());
    let client = connect(place.endpoint());
    let worker = client.pid().unwrap();
    assert_ne!(worker, i32::try_from(process.child.id()).unwrap());
    let transport = client.transport();
    let peer = transport.peer();
    assert_eq!((pid_of(peer), has_ended(peer)), (Some(worker), false));
    assert_eq!(client.caller(), Ok(Some(own_pid())));
    let taken = builder(place.endpoint()).start().unwrap_err().to_string();
    assert!(taken.contains("a server already listens at"), "{taken}");

    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.with_timeout(Duration::MAX).wait());
        process.says("waiting");
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap_err().outcome(), Outcome::Unknown);
    });
    // The system tells of the process last, after it has closed everything.
    until("the worker has ended", || has_ended(client.transport().peer()));
    // Its own child lives, and keeps nothing.
    let server = builder(place.endpoint()).start().unwrap();
    assert_eq!(connect(place.endpoint()).pid(), Ok(own_pid()));
    server.shutdown(BOUND).unwrap();
    drop(stdin);
}

#[test]
fn a_forked_child_has_none_of_the_names_inside_its_parent() {
    let place = Place::new();
    let mut process = Process::start("child_with_names_of_its_own", &place);
    process.says("well");
    assert!(process.ends().success());
}

#[test]
fn a_forked_worker_tidies_up() {
    let place = Place::new();
    let mut process = Process::start("child_with_a_worker", &place);
    let stdin = process.child.stdin.take();
    process.says("serves");
    assert!(process.child.wait().unwrap().success());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    drop(stdin);
    until("the worker is gone", || fs::read_dir(place.path()).unwrap().count() == 0);
}

#[test]
fn clients_that_come_before_a_server_starts_are_served_when_it_does() {
    let place = Place::new();
    let server = builder(place.endpoint()).bind().unwrap();
    thread::scope(|scope| {
        let early = scope.spawn(|| connect(place.endpoint()).pid());
        let _server = server.start().unwrap();
        assert_eq!(early.join().unwrap(), Ok(own_pid()));
    });
}

#[test]
fn a_number_that_is_used_again_is_another_process() {
    let place = Place::new();
    let mut process = Process::start("child_in_a_pid_namespace", &place);
    let said = process.tells("s");
    if let Some(why) = said.strip_prefix("skipped: ") {
        support::skipped(why);
        assert!(process.ends().success());
        return;
    }
    assert_eq!(said, "serves");
    // From here the server has number 1 in there, and a number here; we have one here only.
    let client = connect(place.endpoint());
    assert_eq!(client.pid(), Ok(1));
    assert_ne!(pid_of(client.transport().peer()), Some(1));
    assert_eq!(client.caller(), Ok(None), "we have no number in there");
    drop(client);
    process.child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    process.says("well");
    assert!(process.ends().success());
}

//! Calls that are refused on their way with their descriptors: by the system, by the client, or by the server. Their
//! descriptors are closed, and the connection goes on.

use std::fs::File;
use std::io::{IoSlice, PipeReader, PipeWriter, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use shmrpc::prelude::*;

use super::{Ground, Nest, Started, assert_forgotten, zero};
use crate::support::process::{ENDPOINT, Process, say};
use crate::support::{BOUND, Place};

/// The same service, by somebody whose booleans are bytes.
mod liar {
    pub(crate) use crate::support::liar::Bool;
    use shmrpc::prelude::*;

    #[shmrpc::service]
    pub(crate) trait Files {
        fn take_between(&self, a: OwnedFd, on: Bool, b: OwnedFd) -> bool;
        fn take_or_open(&self, file: OwnedFd, on: Bool) -> Result<OwnedFd, String>;
        #[oneway]
        fn leave_between(&self, a: OwnedFd, on: Bool, b: OwnedFd);
    }
}

use liar::Bool;

fn two_pipes() -> ([PipeReader; 2], [PipeWriter; 2]) {
    let [(a, to_a), (b, to_b)] = [pipe().unwrap(), pipe().unwrap()];
    ([a, b], [to_a, to_b])
}

fn what_the_server_cannot_read_is_closed_there(ground: Ground) {
    let Started { client, server, endpoint, opened, _place, .. } = ground.start();
    let liar = liar::FilesClient::builder().timeout(BOUND).reconnect(false).connect(&endpoint).unwrap();
    for _ in 0..3 {
        let (readers, [a, b]) = two_pipes();
        let error = liar.take_between(a, Bool(2), b).unwrap_err();
        assert!(matches!(&error, CallError::BadArguments(text) if text.contains("bool")), "{error}");
        readers.iter().for_each(assert_forgotten);
        let (readers, [a, _]) = two_pipes();
        let error = liar.take_or_open(a, Bool(2)).unwrap_err();
        assert!(matches!(&error, CallError::BadArguments(text) if text.contains("bool")), "{error}");
        assert_forgotten(&readers[0]);
        let (readers, [a, b]) = two_pipes();
        liar.leave_between(a, Bool(2), b).unwrap();
        readers.iter().for_each(assert_forgotten);
        // The lane is as it was, and the next call's descriptors are its own.
        let (readers, [a, b]) = two_pipes();
        assert_eq!(liar.take_between(a, Bool(1), b), Ok(true));
        readers.iter().for_each(assert_forgotten);
    }
    assert!(opened.lock().unwrap().is_empty(), "it did not run");
    let (reader, writer) = pipe().unwrap();
    let error = client.take_or_open(writer, false).unwrap_err();
    assert_eq!(error, CallError::Service("off".into()));
    assert_forgotten(&reader);
    drop(client.take_or_open(zero(), true).unwrap());
    assert_eq!(server.connections(), 2);
}

fn what_the_client_cannot_write_is_closed_here(ground: Ground) {
    let Started { client, server, .. } = ground.start();
    let nest = |depth| (0..depth).fold(Nest(None), |inside, _| Nest(Some(Box::new(inside))));
    for _ in 0..3 {
        let (reader, writer) = pipe().unwrap();
        let error = client.take_nest(writer, nest(1000)).unwrap_err();
        assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("128")), "{error}");
        assert_forgotten(&reader);
        let (reader, writer) = pipe().unwrap();
        assert_eq!(client.take_nest(writer, nest(10)), Ok(()));
        assert_forgotten(&reader);
    }
    assert_eq!(server.connections(), 1);
}

macro_rules! over {
    ($($name:ident = $ground:ident,)*) => {
        $(mod $name {
            #[test]
            fn what_the_server_cannot_read_is_closed_there() {
                super::what_the_server_cannot_read_is_closed_there(super::Ground::$ground);
            }

            #[test]
            fn what_the_client_cannot_write_is_closed_here() {
                super::what_the_client_cannot_write_is_closed_here(super::Ground::$ground);
            }
        })*
    };
}

over! {
    shm = Shm,
    uds = Uds,
    inproc = Inproc,
}

/// As many descriptors on their way as the kernel allows this user, until dropped.
struct Jam {
    _ends: (UnixStream, UnixStream),
}

impl Jam {
    fn new() -> Self {
        let ends = UnixStream::pair().unwrap();
        let file = zero();
        let ten = [file.as_raw_fd(); 10];
        let send = || {
            let rights = [ControlMessage::ScmRights(&ten)];
            let flags = MsgFlags::MSG_DONTWAIT;
            sendmsg::<()>(ends.0.as_raw_fd(), &[IoSlice::new(b"x")], &rights, flags, None)
        };
        let refused = (0..100).find_map(|_| send().err());
        assert_eq!(refused, Some(Errno::ETOOMANYREFS));
        Self { _ends: ends }
    }
}

/// A user of this test's own: the kernel counts for users. The server and the client are one process.
#[test]
fn too_many_on_their_way_fail_their_call_alone() {
    let place = Place::open_to_all();
    let part = "refusals::sends_too_many";
    let Some(mut process) = Process::start_as(65533, part, &place) else { return };
    process.says("well");
}

#[test]
fn sends_too_many() {
    if std::env::var(ENDPOINT).is_err() {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200, hard).unwrap();
    [Ground::Shm, Ground::Uds].into_iter().for_each(too_many);
    say("well");
}

fn too_many(ground: Ground) {
    let why = "are on their way through sockets; raise the limit";
    let Started { client, server, opened, .. } = ground.start();
    let last_result = || opened.lock().unwrap().pop().unwrap();
    // So that there is a lane.
    client.zeros().unwrap();
    let jam = Jam::new();
    let of_the_jam = client.zeros().unwrap();
    for _ in 0..3 {
        let (reader, writer) = pipe().unwrap();
        let error = client.take(writer).unwrap_err();
        assert!(matches!(&error, CallError::NotEncoded(text) if text.contains(why)), "{ground:?}: {error}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        assert_forgotten(&reader);
        let (reader, writer) = pipe().unwrap();
        let error = client.leave(writer).unwrap_err();
        assert!(matches!(&error, CallError::NotEncoded(text) if text.contains(why)), "{ground:?}: {error}");
        assert_forgotten(&reader);
        let error = client.open().unwrap_err();
        assert!(matches!(&error, CallError::BadReply(text) if text.contains(why)), "{ground:?}: {error}");
        assert_forgotten(&last_result());
        // What has none goes as before.
        assert_eq!(client.zeros(), Ok(of_the_jam));
    }
    drop(jam);
    let (reader, writer) = pipe().unwrap();
    assert_eq!(client.take(writer), Ok(()));
    assert_forgotten(&reader);
    let file = File::from(client.open().unwrap());
    drop(file);
    assert_forgotten(&last_result());
    assert_eq!(server.connections(), 1);
}

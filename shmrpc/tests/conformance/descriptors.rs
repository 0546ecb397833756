//! Descriptors as arguments and results, and that they do not go over a network.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use shmrpc::prelude::*;
use shmrpc::{Outcome, Transport};

use crate::ground::Ground;
use crate::service::Missing;
use crate::support::Place;

/// A service of its own: lanes of one that has no descriptors may be others.
#[shmrpc::service]
trait Hand {
    fn add(&self, a: u32, b: u32) -> u32;
    fn read(&self, file: OwnedFd) -> Vec<u8>;
    fn open(&self, text: &str) -> Result<OwnedFd, Missing>;
    fn join(&self, one: OwnedFd, after: &[u8], other: OwnedFd) -> OwnedFd;
    #[oneway]
    fn write(&self, to: OwnedFd, text: &str);
}

impl Hand for () {
    fn add(&self, a: u32, b: u32) -> u32 {
        a + b
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

pub(crate) fn descriptors_go_both_ways(ground: Ground) {
    let place = Place::new();
    let server = ground.server().service(HandServer::new(())).listen(ground.endpoint(&place));
    let server = server.start().unwrap();
    let client: HandClient = ground.client().connect(server.endpoints()[0].to_string()).unwrap();
    if matches!(client.transport().transport(), Transport::Tcp | Transport::Tls) {
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
    // So is what owns one: a file, and a socket.
    assert_eq!(client.read(File::open("/dev/null").unwrap()).unwrap(), b"");
    let (here, mut there) = UnixStream::pair().unwrap();
    there.write_all(b"over a socket").unwrap();
    drop(there);
    assert_eq!(client.read(here).unwrap(), b"over a socket");
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
fn descriptors_do_not_go(client: &HandClient) {
    let error = client.read(holding("a text")).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("uds:")), "{error}");
    let error = client.open("a text").unwrap_err();
    assert!(matches!(&error, CallError::BadReply(text) if text.contains("uds:")), "{error}");
    assert_eq!(error.outcome(), Outcome::Ran);
    assert_eq!(client.open("none").unwrap_err(), CallError::Service(Missing::Key("none".into())));
    assert_eq!(client.write(holding(""), "x").unwrap_err().outcome(), Outcome::NotRun);
    assert_eq!(client.add(1, 2), Ok(3));
}

/// The reading end of a pipe that holds a text, and will hold no more.
fn holding(text: &str) -> OwnedFd {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader.into()
}

/// What is in a file that was received, which a program that is started meanwhile has not.
fn all_of(file: OwnedFd) -> Vec<u8> {
    assert_eq!(fcntl(&file, FcntlArg::F_GETFD), Ok(FdFlag::FD_CLOEXEC.bits()));
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).unwrap();
    bytes
}

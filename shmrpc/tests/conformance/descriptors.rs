//! Descriptors as arguments and results, and that they do not go over a network.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;

use shmrpc::prelude::*;
use shmrpc::{Outcome, Transport};

use crate::ground::Ground;
use crate::service::{Missing, WorkClient, all_of, holding};

pub(crate) fn descriptors_go_both_ways(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    if matches!(started.connect().transport().transport(), Transport::Tcp | Transport::Tls) {
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

//! Calls that go well.

use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::{Entry, Missing, pattern};

pub(crate) fn calls_of_every_kind(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    assert_eq!(client.add(1, 2), Ok(3));
    assert_eq!(client.get("a").unwrap(), Entry { key: "a".into(), value: vec![b'a'; 100] });
    assert_eq!(client.get("none"), Err(CallError::Service(Missing::Key("none".into()))));
    assert_eq!(client.view().get("b").unwrap().key, "b");
    assert_eq!(client.nothing(), Ok(()));
    client.note(1, 2).unwrap();
    assert_eq!(client.noted(1), Ok(vec![2]));
    // Clones and other clients are served alike.
    assert_eq!(client.clone().add(3, 4), Ok(7));
    assert_eq!(started.connect().noted(1), Ok(vec![2]));
}

pub(crate) fn payloads_of_every_size(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let sizes =
        [1, 39, 40, 41, 4095, 4096, 4097, 8191, 8192, 8193, 32 << 10, (32 << 10) + 1, 1 << 20, 16 << 20];
    for length in sizes {
        assert_eq!(client.is_pattern(pattern(length)), Ok(true), "{length}");
        assert!(client.pattern(length).unwrap() == pattern(length), "{length}");
        assert!(**client.view().pattern(length).unwrap() == *pattern(length), "{length}");
    }
    assert_eq!(client.is_pattern(&[1]), Ok(false), "what is compared is compared");
}

pub(crate) fn payloads_of_no_size(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    assert_eq!(client.is_pattern(&[]), Ok(true));
    assert_eq!(client.pattern(0), Ok(vec![]));
    assert_eq!(client.view().pattern(0).map(|view| view.len()), Ok(0));
    assert_eq!(client.echo(""), Ok(String::new()));
    assert_eq!(client.get(""), Err(CallError::Service(Missing::Key(String::new()))));
    assert_eq!(client.keep(client.blob(0).unwrap()), Ok(1));
    assert_eq!(client.render(0).map(|frame| frame.len()), Ok(0));
    assert_eq!(client.find("").map(|found| found.len()), Ok(0));
}

/// Of each thread, whatever lanes its calls travel on; a call that is answered has what came before behind it.
pub(crate) fn one_way_calls_keep_their_order(ground: Ground) {
    const CALLS: u32 = 200;
    let started = ground.start();
    let client = started.connect();
    thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for number in 0..CALLS {
                    client.note(thread, number).unwrap();
                    if number % 50 == 49 {
                        assert_eq!(client.noted(thread).map(|noted| noted.len() as u32), Ok(number + 1));
                    }
                }
            });
        }
    });
    for thread in 0..4 {
        assert_eq!(client.noted(thread), Ok((0..CALLS).collect()), "thread {thread}");
    }
}

/// Neither on its lane, nor on another one.
pub(crate) fn no_call_overtakes_a_one_way_call(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let short = client.with_timeout(Duration::from_millis(30));
    client.linger(&[]).unwrap();
    started.keeper.entered();
    // It waits behind the first one, and nobody waits for it any more.
    let error = short.nothing().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    // Its lane is set aside, and all others are free.
    let error = short.noted(0).unwrap_err();
    assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    started.keeper.release();
    assert_eq!(client.noted(0), Ok(vec![]));
    assert_eq!(client.ran(), Ok(3));
}

pub(crate) fn sixty_four_threads_call_at_once(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    thread::scope(|scope| {
        for thread in 0..64 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..20 {
                    assert_eq!(client.add(thread, call), Ok(thread + call));
                }
                let length = 100_000 + thread;
                assert_eq!(client.is_pattern(pattern(length)), Ok(true));
                assert!(client.pattern(length).unwrap() == pattern(length));
            });
        }
    });
}

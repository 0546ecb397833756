//! Loaned memory.

use std::time::Duration;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::limits::{LIMIT, around};
use crate::service::{Missing, WorkClient, pattern};
use crate::support::process::{ENDPOINT, say, until_orphaned};

pub(crate) fn blobs_go_both_ways(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    for length in [1, 10, 1000, 1024, 1025, 300_000] {
        let mut frame = client.blob::<f32>(length + 1).unwrap();
        frame.fill(1.5);
        frame[length] = 1e30;
        frame.truncate(length);
        assert_eq!(client.mean(frame), Ok(1.5), "{length}");
        let rendered = client.render(length as u32).unwrap();
        assert_eq!((rendered.len(), rendered.iter().all(|number| *number == 7)), (length, true));
    }
    assert_eq!(client.mean(vec![1.0, 3.0]), Ok(2.0));
    assert_eq!(*client.find("a key").unwrap(), *b"a key");
    assert_eq!(client.find("none").err(), Some(CallError::Service(Missing::Key("none".into()))));
    // What one server sent goes to another.
    let other = ground.start();
    let rendered = client.render(100_000).unwrap();
    assert_eq!(rendered.is_in_place(), ground.in_place);
    let same: Vec<f32> = rendered.iter().map(|number| f32::from(*number)).collect();
    assert_eq!(other.connect().mean(same), Ok(7.0));
    drop((client, started));
    assert_eq!((rendered.len(), rendered[99_999]), (100_000, 7), "a blob outlives its client and server");
}

pub(crate) fn a_blob_may_be_kept_and_a_loan_that_is_not_sent_comes_back(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 20));
    let client = started.connect_once();
    for count in 1..=3 {
        let mut frame = client.blob(10_000).unwrap();
        frame.fill(1);
        assert_eq!(client.keep(frame), Ok(count));
    }
    // Other calls use their own memory.
    assert_eq!(client.is_pattern(&[9; 200_000]), Ok(false));
    assert_eq!(client.kept(), Ok(3));
    // As many as would never fit at once: each goes back, unsent, or once it was read.
    for _ in 0..100 {
        drop(client.blob::<u8>((1 << 20) - 64).unwrap());
    }
    for _ in 0..10 {
        let mut frame = client.blob::<f32>((1 << 18) - 16).unwrap();
        frame.fill(0.0);
        frame[0] = 1.0;
        assert!(client.mean(frame).unwrap() > 0.0);
    }
    client.forget().unwrap();
    assert_eq!(client.kept(), Ok(0));
    let error = client.blob::<u8>((1 << 20) + 1).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("1048576")), "{error}");
    let frame = client.blob(10).unwrap();
    drop(started);
    let error = client.keep(frame).unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
}

pub(crate) fn blobs_of_sixteen_mebibytes(ground: Ground) {
    const LARGE: u32 = 16 << 20;
    let started = ground.start();
    let client = started.connect();
    for _ in 0..2 {
        let mut frame = client.blob(LARGE as usize).unwrap();
        frame.copy_from_slice(pattern(LARGE));
        let back = client.back(frame).unwrap();
        assert_eq!(back.is_in_place(), ground.in_place);
        assert!(*back == *pattern(LARGE));
    }
}

pub(crate) fn blobs_around_the_limit_pass_or_are_refused(ground: Ground) {
    let started = ground.start();
    let small = ground.start_with(|builder| builder.max_message(LIMIT.into()));
    let refused = |error: &CallError| {
        matches!(error, CallError::NotEncoded(text) if text.contains("100000"))
            && error.outcome() == Outcome::NotRun
    };
    let client = small.connect();
    around(|length| client.back(client.blob(length as usize)?), refused);
    // Made elsewhere.
    around(|length| client.back(pattern(length).to_vec()), refused);
    let client = started.connect_with(|builder| builder.max_message(LIMIT.into()));
    let refused =
        |error: &CallError| matches!(error, CallError::BadReply(_)) && error.outcome() == Outcome::Ran;
    around(|length| client.back(pattern(length).to_vec()), refused);
    assert!(*client.back(pattern(LIMIT - 100).to_vec()).unwrap() == *pattern(LIMIT - 100));
}

/// Lends a server that takes messages of 1 MiB nearly all of one.
fn lend(client: &WorkClient) -> Result<u64, CallError> {
    let mut frame = client.with_timeout(Duration::from_millis(50)).blob(900_000)?;
    frame.fill(1);
    client.keep(frame)
}

/// Lends until there is no more room; how many, and what is said then.
fn lend_all(client: &WorkClient) -> (u64, CallError) {
    let mut kept = 0;
    loop {
        match lend(client) {
            Ok(count) => kept = count,
            Err(error) => return (kept, error),
        }
        assert!(kept < 20, "there is no limit");
    }
}

/// A handler that keeps what it was lent has less and less for others of that client, who is told so.
pub(crate) fn blobs_that_are_kept_push_back(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 20));
    let client = started.connect();
    let (kept, error) = lend_all(&client);
    assert!((3..=8).contains(&kept), "{kept}: {error}");
    // Either its own memory is all lent, or the server has no room for one more copy.
    let expected = if ground.in_place { "NotEncoded" } else { "Overloaded" };
    assert!(format!("{error:?}").starts_with(expected), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    // Small calls go on. So does another connection of this process, with what is its own: a base segment, or, where no
    // memory is shared, all that a connection may have. Copies of shared memory count for the process.
    assert_eq!(client.kept(), Ok(kept));
    let other = started.connect();
    assert_eq!(other.kept(), Ok(kept));
    let copied = other.transport().memory().is_some() && !ground.in_place;
    let mut frame = other.blob::<f32>(75_000).unwrap();
    frame.fill(1.0);
    match other.mean(frame) {
        Err(error) if copied => assert!(matches!(error, CallError::Overloaded(_)), "{error:?}"),
        mean => assert_eq!(mean, Ok(1.0)),
    }
    // And everything does when there is room again.
    client.forget().unwrap();
    assert_eq!(lend(&client), Ok(1));
}

pub(crate) fn what_one_process_lent_is_no_others(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 20));
    let client = started.connect();
    let (kept, _) = lend_all(&client);
    let mut process = ground.child("child_lender", &started.at());
    process.says("lent");
    assert!(client.kept().unwrap() > kept);
    let error = lend(&client).unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
}

/// Another process, and as much.
pub(crate) fn lender() {
    let (Some(ground), Ok(endpoint)) = (Ground::of_child(), std::env::var(ENDPOINT)) else { return };
    let client = ground.client::<WorkClient>().connect(&endpoint).unwrap();
    let before = client.kept().unwrap();
    let (kept, error) = lend_all(&client);
    assert!(kept >= before + 3, "{kept} of which {before} are others': {error}");
    say("lent");
    until_orphaned();
}

/// How large it is to be, callers say.
pub(crate) fn a_blob_that_its_caller_does_not_take_fails_its_call(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let error = client.render(u32::MAX).map(drop).unwrap_err();
    assert!(matches!(&error, CallError::Panicked(text) if text.contains("raise max_message")), "{error:?}");
    assert_eq!(client.render(10).map(|frame| frame.len()), Ok(10));
}

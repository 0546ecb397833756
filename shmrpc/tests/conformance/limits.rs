//! What there is no more of.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::pattern;
use crate::support::until;

/// No power of two, so that blocks are larger than it.
pub(crate) const LIMIT: u32 = 100_000;

/// How many lengths around the limit pass; what does not is refused by `refuses`, and nothing in between.
pub(crate) fn around<R>(call: impl Fn(u32) -> Result<R, CallError>, refuses: fn(&CallError) -> bool) {
    // A blob leaves 64 bytes for what is beside it.
    let lengths = LIMIT - 80..LIMIT + 40;
    let passed = lengths.clone().take_while(|length| match call(*length) {
        Ok(_) => true,
        Err(error) => {
            assert!(refuses(&error), "{length}: {error:?}");
            false
        }
    });
    let passed = passed.count() as u32;
    assert!((1..120).contains(&passed), "{passed} passed");
    for length in lengths.skip(passed as usize) {
        assert!(call(length).is_err_and(|error| refuses(&error)), "{length}");
    }
}

pub(crate) fn arguments_around_the_limit_pass_or_are_refused(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(LIMIT.into()));
    let client = started.connect();
    let refused = |error: &CallError| {
        matches!(error, CallError::NotEncoded(text) if text.contains("100000"))
            && error.outcome() == Outcome::NotRun
    };
    around(|length| client.is_pattern(pattern(length)), refused);
    assert_eq!(client.is_pattern(pattern(LIMIT - 100)), Ok(true));
}

pub(crate) fn results_around_the_limit_pass_or_are_refused(ground: Ground) {
    let started = ground.start();
    let client = started.connect_with(|builder| builder.max_message(LIMIT.into()));
    let refused =
        |error: &CallError| matches!(error, CallError::BadReply(_)) && error.outcome() == Outcome::Ran;
    around(|length| client.pattern(length), refused);
    around(|length| client.view().pattern(length).map(drop), refused);
    assert!(client.pattern(LIMIT - 100).unwrap() == pattern(LIMIT - 100));
}

pub(crate) fn lanes_are_shared_where_the_server_has_no_more(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lanes(4).max_lanes_per_client(2));
    let client = started.connect();
    thread::scope(|scope| {
        let calling: Vec<_> = (0..8).map(|_| scope.spawn(|| client.wait())).collect();
        for _ in 0..8 {
            started.keeper.entered();
            started.keeper.release();
        }
        assert!(calling.into_iter().all(|call| call.join().unwrap() == Ok(42)));
    });
    assert!(started.worker.most_inside.load(Ordering::SeqCst) <= 2);
}

/// As many as a connection has lanes for, and then one more.
pub(crate) fn sixty_four_calls_are_all_at_once(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    thread::scope(|scope| {
        let calling: Vec<_> = (0..64).map(|_| scope.spawn(|| client.wait())).collect();
        for _ in 0..64 {
            started.keeper.entered();
        }
        let error = client.with_timeout(Duration::from_millis(20)).nothing().unwrap_err();
        assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        for _ in 0..64 {
            started.keeper.release();
        }
        assert!(calling.into_iter().all(|call| call.join().unwrap() == Ok(42)));
    });
    assert_eq!(client.nothing(), Ok(()));
}

/// Of the server's memory where it is read in place, and of the client's copies where there is a socket to send through.
pub(crate) fn views_that_are_held_push_back(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lent(4 << 20));
    let client = started.connect_with(|builder| builder.max_message(1 << 20));
    let mut views = Vec::new();
    let error = loop {
        match client.view().pattern(900_000) {
            Ok(view) => views.push(view),
            Err(error) => break error,
        }
        assert!(views.len() < 20, "there is no limit");
    };
    assert!((2..=12).contains(&views.len()), "{}: {error}", views.len());
    assert!(matches!(error, CallError::BadReply(_)), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Ran);
    // Small ones pass; and all do as soon as there is room.
    assert_eq!(client.add(1, 2), Ok(3));
    assert!(views.iter().all(|view| ***view == *pattern(900_000)));
    views.clear();
    assert!(client.pattern(900_000).unwrap() == pattern(900_000));
}

/// Copies of what they send, and what they hold of the server's memory. Each of them would have room for more.
pub(crate) fn all_clients_together_have_so_much(ground: Ground) {
    const LARGE: u32 = 2_000_000;
    let started = ground.start_with(|builder| builder.max_memory(3 << 20));
    let [one, other] = [started.connect(), started.connect()];
    if ground.in_place {
        let view = one.view().pattern(LARGE).unwrap();
        let error = other.pattern(LARGE).expect_err("there is no limit");
        assert!(matches!(&error, CallError::BadReply(text) if text.contains("max_memory")), "{error:?}");
        assert!(**view == *pattern(LARGE));
        drop(view);
        until("the memory is given back", || other.pattern(LARGE).is_ok());
        return;
    }
    let large = pattern(LARGE);
    thread::scope(|scope| {
        let held = scope.spawn(|| one.hold(large));
        started.keeper.entered();
        let error = other.is_pattern(large).expect_err("there is no limit");
        assert!(matches!(&error, CallError::Overloaded(text) if text.contains("max_memory")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        assert_eq!(other.is_pattern(pattern(4000)), Ok(true));
        started.keeper.release();
        assert_eq!(held.join().unwrap(), Ok(LARGE));
    });
    assert_eq!(other.is_pattern(large), Ok(true));
}

/// Whether the message is copied first or its values are made of it where it lies. The same bytes, borrowed, need no values.
pub(crate) fn values_have_a_bound(ground: Ground) {
    const LARGE: u32 = 2_000_000;
    let started = ground.start_with(|builder| builder.max_memory(3 << 20));
    let [one, other] = [started.connect(), started.connect()];
    let large = pattern(LARGE).to_vec();
    thread::scope(|scope| {
        let held = scope.spawn(|| one.hold_own(large.clone()));
        started.keeper.entered();
        let error = other.hold_own(large.clone()).expect_err("there is no limit");
        assert!(matches!(&error, CallError::Overloaded(text) if text.contains("max_memory")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        if ground.in_place {
            assert_eq!(other.is_pattern(&large), Ok(true));
        }
        started.keeper.release();
        assert_eq!(held.join().unwrap(), Ok(LARGE));
    });
    // One that panics gives it back, too.
    assert_eq!(other.spend(large.clone()), Err(CallError::Panicked("2000000 bytes".into())));
    assert_eq!(other.is_pattern(&large), Ok(true));
    started.keeper.release();
    assert_eq!(other.hold_own(large), Ok(LARGE));
}

//! Every variant of `CallError`, with its outcome: names begin with the variant's.

use std::thread;
use std::time::Duration;

use shmrpc::Transport;
use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::{Missing, Nest, liar, newer, pattern};
use crate::support::{Place, until};

/// Time that is over at once where it has to pass.
const SHORT: Duration = Duration::from_millis(20);

pub(crate) fn service_errors_are_the_handlers_own(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    let expected = CallError::Service(Missing::Key("none".into()));
    let error = client.get("none").unwrap_err();
    assert_eq!((error.outcome(), error), (Outcome::Ran, expected.clone()));
    let error = client.view().get("none").map(drop).unwrap_err();
    assert_eq!((error.outcome(), error), (Outcome::Ran, expected));
    assert_eq!(started.worker.ran(), 2);
}

pub(crate) fn panicked_and_the_server_goes_on(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lanes(2).max_lanes_per_client(1));
    let client = started.connect();
    for text in ["", "grü", &"long ".repeat(100)] {
        let error = client.panic(text).unwrap_err();
        assert_eq!(error, CallError::Panicked(format!("told to: {text}")));
        assert_eq!(error.outcome(), Outcome::Ran);
        client.panic_alone().unwrap();
    }
    // On the one lane that there is, in order.
    assert_eq!(client.ran(), Ok(6));
}

pub(crate) fn bad_reply_if_the_result_is_too_large(ground: Ground) {
    let started = ground.start();
    let client = started.connect_with(|builder| builder.max_message(1 << 16));
    for error in [client.pattern(1 << 17).unwrap_err(), client.view().pattern(1 << 17).map(drop).unwrap_err()]
    {
        assert!(matches!(&error, CallError::BadReply(text) if text.contains("65536")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Ran);
    }
    assert!(client.pattern(1 << 15).unwrap() == pattern(1 << 15));
    assert_eq!(started.worker.ran(), 3);
}

pub(crate) fn bad_reply_if_the_result_is_not_what_it_should_be(ground: Ground) {
    let place = Place::new();
    let server =
        ground.server().service(liar::WorkServer::new(liar::Neither)).listen(ground.endpoint(&place));
    let server = server.start().unwrap();
    let client = ground.client::<crate::service::WorkClient>();
    let client = client.connect(server.endpoints()[0].to_string()).unwrap();
    for _ in 0..3 {
        let error = client.flip(true).unwrap_err();
        assert!(matches!(&error, CallError::BadReply(text) if text.contains("bool")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Ran);
    }
}

pub(crate) fn bad_arguments_fail_their_call_only(ground: Ground) {
    let started = ground.start();
    let liar = ground.client::<liar::WorkClient>().connect(started.at()).unwrap();
    assert_eq!(liar.flip(liar::Bool(1)), Ok(liar::Bool(0)));
    for _ in 0..3 {
        let error = liar.flip(liar::Bool(2)).unwrap_err();
        assert!(matches!(&error, CallError::BadArguments(text) if text.contains("bool")), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
    }
    assert_eq!(liar.flip(liar::Bool(0)), Ok(liar::Bool(1)));
    assert_eq!(started.worker.ran(), 2);
}

pub(crate) fn unknown_method_of_a_newer_client(ground: Ground) {
    let started = ground.start();
    let client = ground.client::<newer::WorkClient>().connect(started.at()).unwrap();
    let error = client.brand_new(1).unwrap_err();
    assert_eq!(error, CallError::UnknownMethod("brand_new".into()));
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert_eq!(client.brand_new_oneway(), Err(CallError::UnknownMethod("brand_new_oneway".into())));
    // What both have works.
    assert_eq!(client.ran(), Ok(0));
}

pub(crate) fn overloaded_if_no_lane_is_served(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lanes(0));
    let client = started.connect();
    for _ in 0..2 {
        let error = client.nothing().unwrap_err();
        assert!(
            matches!(&error, CallError::Overloaded(text) if text.contains("serves no lane")),
            "{error:?}"
        );
        assert_eq!(error.outcome(), Outcome::NotRun);
    }
    assert_eq!(started.worker.ran(), 0);
}

pub(crate) fn overloaded_if_every_lane_is_in_use(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lanes(2).max_lanes_per_client(1));
    let client = started.connect();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        started.keeper.entered();
        let error = client.with_timeout(SHORT).nothing().unwrap_err();
        assert!(matches!(&error, CallError::Overloaded(_)), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        started.keeper.release();
        assert_eq!(waiting.join().unwrap(), Ok(42));
    });
    assert_eq!(client.nothing(), Ok(()));
    assert_eq!(started.worker.ran(), 2, "what was refused has not run");
}

/// Four messages of the largest size are what a server copies at once; each is held by its handler.
pub(crate) fn overloaded_if_there_is_no_room_for_a_copy(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(4 << 20));
    let room: u64 = if ground.shares { 17 << 20 } else { 16 << 20 };
    let client = started.connect();
    thread::scope(|scope| {
        let holding: Vec<_> = (0..4)
            .map(|_| {
                let call = scope.spawn(|| client.hold(pattern(4_000_000)));
                started.keeper.entered();
                call
            })
            .collect();
        let error = client.hold(pattern(4_000_000)).unwrap_err();
        assert!(
            matches!(&error, CallError::Overloaded(text) if text.contains(&room.to_string())),
            "{error:?}"
        );
        assert_eq!(error.outcome(), Outcome::NotRun);
        // There is always room for what is small.
        assert_eq!(client.add(1, 2), Ok(3));
        holding.iter().for_each(|_| started.keeper.release());
        assert!(holding.into_iter().all(|call| call.join().unwrap() == Ok(4_000_000)));
    });
    assert_eq!(client.is_pattern(pattern(4_000_000)), Ok(true));
    assert_eq!(started.worker.ran(), 6);
}

pub(crate) fn not_encoded_if_too_large_or_too_deep(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_message(1 << 16));
    let client = started.connect();
    let error = client.is_pattern(pattern(1 << 17)).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("65536")), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    let error = client.depth(Nest::of(1000)).unwrap_err();
    assert!(matches!(&error, CallError::NotEncoded(text) if text.contains("128")), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert_eq!(started.worker.ran(), 0);
    // What is smaller passes, on the same lane.
    assert_eq!(client.depth(Nest::of(50)), Ok(50));
    assert_eq!(client.is_pattern(pattern(1 << 15)), Ok(true));
}

pub(crate) fn not_encoded_if_no_memory_is_left(ground: Ground) {
    let started = ground.start();
    let client = started.connect_with(|builder| builder.max_lent(2 << 20));
    // So that there is a lane.
    assert_eq!(client.nothing(), Ok(()));
    let short = client.with_timeout(SHORT);
    let mut loans = Vec::new();
    let error = loop {
        match short.blob::<u8>(500_000) {
            Ok(loan) => loans.push(loan),
            Err(error) => break error,
        }
        assert!(loans.len() < 100, "there is no limit");
    };
    assert!(matches!(&error, CallError::NotEncoded(_)), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    // Nor is there memory for arguments, but for small ones, and for those that go through a socket then.
    match (ground.transport, short.is_pattern(pattern(500_000))) {
        (Transport::Shm, Err(CallError::NotEncoded(_))) => {}
        (Transport::Uds, Ok(true) | Err(CallError::DeadlineExceeded { .. })) => {}
        (_, other) => panic!("{other:?}"),
    }
    assert_eq!(client.add(1, 2), Ok(3));
    loans.clear();
    assert_eq!(client.is_pattern(pattern(500_000)), Ok(true));
}

pub(crate) fn deadline_exceeded_is_unknown_once_it_was_sent(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    // So that there is a lane.
    assert_eq!(client.nothing(), Ok(()));
    let error = client.with_timeout(SHORT).wait().unwrap_err();
    assert_eq!(error, CallError::DeadlineExceeded { timeout: SHORT, outcome: Outcome::Unknown });
    assert_eq!(error.outcome(), Outcome::Unknown);
    // It runs, for nobody.
    started.keeper.entered();
    started.keeper.release();
    assert_eq!(client.ran(), Ok(2));
}

/// Nobody reads, so at some time there is no room for one more.
pub(crate) fn deadline_exceeded_is_not_run_if_it_never_left(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    assert_eq!(client.nothing(), Ok(()));
    let hasty = client.with_timeout(SHORT);
    let mut sent = 0;
    let expected = CallError::DeadlineExceeded { timeout: SHORT, outcome: Outcome::NotRun };
    let error = loop {
        match hasty.linger(pattern(3500)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "there is no end to it");
    };
    assert_eq!(error, expected);
    for _ in 0..sent {
        started.keeper.release();
    }
    // What was refused has not run, nor will it.
    assert_eq!(client.ran(), Ok(sent + 1));
}

pub(crate) fn disconnected_is_unknown_in_the_handler_and_not_run_later(ground: Ground) {
    let started = ground.start();
    let (client, idle) = (started.connect_once(), started.connect_once());
    assert_eq!(idle.nothing(), Ok(()));
    let crate::ground::Started { server, worker, keeper, .. } = started;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        drop(server);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    });
    for client in [&client, &idle] {
        // As soon as its end is known; before, a call may be sent to nobody.
        until("the client knows", || {
            let error = client.nothing().unwrap_err();
            assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
            error.outcome() == Outcome::NotRun
        });
        let error = client.nothing().unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
        assert!(matches!(client.note(1, 1), Err(CallError::Disconnected { .. })));
    }
    assert_eq!(worker.ran(), 2, "a server that is dropped runs nothing more");
    keeper.release();
}

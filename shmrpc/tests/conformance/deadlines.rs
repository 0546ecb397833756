//! Calls that take longer than they may.

use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;

use crate::death::serve;
use crate::ground::Ground;
use crate::service::pattern;
use crate::support::{Gate, Place, gate, until};

const SHORT: Duration = Duration::from_millis(30);

fn is_late<T: std::fmt::Debug>(result: Result<T, CallError>) -> Outcome {
    match result {
        Err(CallError::DeadlineExceeded { timeout, outcome }) => {
            assert_eq!(timeout, SHORT);
            outcome
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_slow_call_holds_up_nobody(ground: Ground) {
    let started = ground.start();
    let client = started.connect();
    // So that there is a lane.
    assert_eq!(client.nothing(), Ok(()));
    for _ in 0..3 {
        assert_eq!(is_late(client.with_timeout(SHORT).wait()), Outcome::Unknown);
        started.keeper.entered();
        assert_eq!(client.add(1, 2), Ok(3));
    }
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        started.keeper.entered();
        assert_eq!(client.add(3, 4), Ok(7));
        (0..4).for_each(|_| started.keeper.release());
        assert_eq!(waiting.join().unwrap(), Ok(42));
    });
}

/// The one lane that there is carries the late reply, and then the next one.
pub(crate) fn a_late_reply_is_for_no_other_call(ground: Ground) {
    let started = ground.start_with(|builder| builder.max_lanes(2).max_lanes_per_client(1));
    let client = started.connect();
    assert_eq!(client.nothing(), Ok(()));
    for (number, length) in [10, 100, 5000, 1 << 20, 10].into_iter().enumerate() {
        let number = number as u32;
        assert_eq!(is_late(client.with_timeout(SHORT).pattern_later(length)), Outcome::Unknown);
        started.keeper.entered();
        // While the handler is in there is no lane.
        let error = client.with_timeout(SHORT).nothing().unwrap_err();
        assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
        started.keeper.release();
        assert_eq!(client.add(number, 1), Ok(number + 1), "{length}");
        assert_eq!(client.echo("own"), Ok("own".into()), "{length}");
        assert!(client.pattern(7000).unwrap() == pattern(7000), "{length}");
    }
    assert_eq!(client.ran(), Ok(1 + 5 * 4), "each ran once, and what was refused did not");
}

/// Says how long its caller waits.
#[shmrpc::service]
pub(crate) trait Clock {
    fn wait(&self);
    fn left(&self, ctx: &Context) -> Option<Duration>;
}

struct Told(Gate);

impl Clock for Told {
    fn wait(&self) {
        self.0.pass();
    }
    fn left(&self, ctx: &Context) -> Option<Duration> {
        ctx.timeout()
    }
}

/// What a call waits for its lane is no time that its handler has.
pub(crate) fn a_handler_is_told_what_is_left(ground: Ground) {
    let (gate, keeper) = gate();
    let place = Place::new();
    let server = ground.server().service(ClockServer::new(Told(gate))).max_lanes(2).max_lanes_per_client(1);
    let server = server.listen(ground.endpoint(&place)).start().unwrap();
    let client = ground.client::<ClockClient>().connect(server.endpoints()[0].to_string()).unwrap();
    let hour = Duration::from_secs(3600);
    // The first one waits until it has a lane.
    assert!(client.with_timeout(hour).left().unwrap() <= Some(hour));
    assert_eq!(client.with_timeout(hour).left(), Ok(Some(hour)));
    // The machine may be slow, and the call come when the lane is free already.
    let told = (0..1000).any(|_| {
        thread::scope(|scope| {
            let holds = scope.spawn(|| client.wait());
            keeper.entered();
            let waits = scope.spawn(|| client.with_timeout(hour).left());
            thread::sleep(Duration::from_millis(5));
            keeper.release();
            holds.join().unwrap().unwrap();
            let left = waits.join().unwrap().unwrap().unwrap();
            assert!(left <= hour);
            left < hour
        })
    });
    assert!(told, "none was told that it had waited");
}

/// It is stopped with a signal, and goes on later.
pub(crate) fn a_frozen_server_costs_its_callers_their_time_and_no_more(ground: Ground) {
    let (mut process, at, _place) = serve(ground);
    let client = ground.client::<crate::service::WorkClient>().connect(&at).unwrap();
    thread::scope(|scope| {
        // Three lanes, so that there are some to call on.
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| client.wait())).collect();
        (0..3).for_each(|_| process.says("in"));
        (0..3).for_each(|_| process.tell());
        assert!(calls.into_iter().all(|call| call.join().unwrap() == Ok(42)));
    });
    process.stop();
    let short = client.with_timeout(SHORT);
    let outcomes = [
        is_late(short.add(1, 2).map(drop)),
        is_late(short.pattern(100_000).map(drop)),
        // More than a socket holds: where it goes through one, half of it has left.
        is_late(short.is_pattern(pattern(16 << 20)).map(drop)),
    ];
    let last = if ground.shares { Outcome::Unknown } else { Outcome::NotRun };
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Unknown, last]);
    process.go_on();
    assert_eq!(client.add(3, 4), Ok(7));
    let published = outcomes.iter().filter(|outcome| **outcome == Outcome::Unknown).count() as u64;
    // What was published runs once, and nothing else does.
    until("all ran", || client.ran() == Ok(4 + published));
    assert_eq!(client.is_pattern(pattern(16 << 20)), Ok(true));
    assert_eq!(client.ran(), Ok(5 + published));
}

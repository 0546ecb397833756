//! A server that is shut down beside a hostile client (promises 2 and 10): `ServerHandle::shutdown` returns in its time, whatever
//! that client does, and says truly whether somebody was still busy; each call that it accepted of good clients is answered,
//! and the others were not run; and its endpoint is free.
//!
//! Time is judged as in `deadlines`, whose `pulse` says how.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod support;

#[path = "deadlines/pulse.rs"]
mod pulse;
#[allow(dead_code, reason = "the parts that hostile clients need")]
#[path = "evil/raw.rs"]
mod raw;
#[allow(dead_code, reason = "the same")]
#[path = "evil/target.rs"]
mod target;
#[allow(dead_code, reason = "the same")]
#[path = "sockets/peer.rs"]
mod peer;

mod shutdown {
    pub(crate) mod hostile;
}

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use peer::{At, Way};
use pulse::in_time;
use shmrpc::prelude::*;
use shmrpc::{Endpoint, ServeError};
use shutdown::hostile::{Attack, RINGS, STREAMS};
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Place};
use target::{GATE, Here, TargetClient, TargetServer, blob};

const ATTACK: &str = "SHMRPC_SHUTDOWN_ATTACK";

/// What `shutdown` is given.
const TIME: Duration = Duration::from_millis(400);
/// Clients that call all the time.
const GOOD: usize = 3;

/// What it has to come to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// Nobody holds it up.
    Well,
    /// Somebody does, and it says so.
    Busy,
    /// One or the other.
    Either,
}

#[test]
fn child_evil() {
    let (Ok(endpoint), Ok(name)) = (std::env::var(ENDPOINT), std::env::var(ATTACK)) else { return };
    // Where it is not, nobody goes.
    let at = match endpoint.parse().unwrap() {
        Endpoint::Tcp(at) => At { unix: "".into(), tcp: ([127, 0, 0, 1], at.port).into() },
        _ => At { unix: endpoint.split_at(4).1.into(), tcp: ([127, 0, 0, 1], 0).into() },
    };
    let way = if endpoint.starts_with("tcp:") { Way::Tcp } else { Way::Uds };
    let rings = RINGS.iter().find(|(known, ..)| *known == name);
    let streams = STREAMS.iter().find(|(known, ..)| *known == name);
    let (.., attack) = rings.or(streams).unwrap();
    let _held = attack(&at, way);
    say("ready");
    until_orphaned();
}

/// Calls until the server takes no more, and says when it has begun. What was accepted is answered.
fn call_on(endpoint: &str, begun: impl FnOnce()) -> Result<(), String> {
    let builder = TargetClient::builder().timeout(BOUND).connect_timeout(BOUND).reconnect(false);
    let client = builder.connect(endpoint).map_err(|error| error.to_string())?;
    let mut begun = Some(begun);
    for round in 0_u32.. {
        let length = [16, 5000][round as usize % 2];
        match client.blob(length, round as u8) {
            Ok(bytes) if bytes == blob(length, round as u8) => {}
            Ok(bytes) => return Err(format!("{} wrong bytes in round {round}", bytes.len())),
            Err(error) if error.outcome() == Outcome::NotRun && round > 8 => break,
            Err(error) => return Err(format!("{:?} in round {round}: {error}", error.outcome())),
        }
        if round == 8 {
            begun.take().into_iter().for_each(|begun| begun());
        }
    }
    Ok(())
}

fn server(endpoint: &str) -> Result<ServerHandle, ServeError> {
    Server::builder().service(TargetServer::new(Here)).listen(endpoint).start()
}

/// One server, one hostile client, and some good ones. Returns how much longer than its time the shutdown took; if it came to
/// something else than `end`, all of its time.
fn attempt(listen: &str, name: &str, freezes: bool, end: End) -> Duration {
    let gate = GATE.write();
    let server = server(listen).unwrap();
    let endpoint = server.endpoints()[0].to_string();
    let mut evil = Process::start_with("child_evil", &endpoint, |command| command.env(ATTACK, name));
    evil.says("ready");
    if freezes {
        evil.stop();
    }
    let (begun, have_begun) = channel();
    let (answer, took) = thread::scope(|scope| {
        let good: Vec<_> = (0..GOOD)
            .map(|_| (begun.clone(), &endpoint))
            .map(|(begun, endpoint)| scope.spawn(move || call_on(endpoint, || begun.send(()).unwrap())))
            .collect();
        (0..GOOD).for_each(|_| have_begun.recv_timeout(BOUND).expect("a good client is not served"));
        let (done, is_done) = channel();
        let start = Instant::now();
        // So that one that hangs is told of.
        thread::spawn(move || done.send((server.shutdown(TIME), start.elapsed())));
        let answer = is_done.recv_timeout(BOUND).expect("shutdown hangs");
        for client in good {
            assert_eq!(client.join().unwrap(), Ok(()), "{name}: a good client");
        }
        answer
    });
    drop(self::server(&endpoint).expect("the endpoint is free"));
    drop(gate);
    let came_to = match answer {
        Ok(()) => End::Well,
        Err(ServeError::StillBusy { lanes: 1.., timeout: TIME }) => End::Busy,
        Err(other) => panic!("{name}: {other:?}"),
    };
    println!("{name} over {listen}: {came_to:?} after {took:?}");
    if end == End::Either || end == came_to { took.saturating_sub(TIME) } else { TIME }
}

fn attacked(listen: &str, attacks: &[Attack]) {
    for (name, freezes, end, _) in attacks {
        in_time(&format!("{name} over {listen}"), || attempt(listen, name, *freezes, *end));
    }
}

#[test]
fn shutdown_beside_an_evil_client_ends_in_time() {
    let place = Place::new();
    attacked(&place.endpoint(), &RINGS);
    attacked(&format!("uds:{}", place.socket().display()), &STREAMS);
    attacked("tcp:127.0.0.1:0", &STREAMS);
}

//! Processes that are killed.

use std::fmt::{Debug, Display};
use std::io::BufRead;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use shmrpc::Transport;
use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::{WorkClient, WorkServer, Worker, pattern};
use crate::support::process::{ENDPOINT, Process, say, until_orphaned};
use crate::support::{BOUND, Place, gate, until};

/// A server in a process of its own, and where it is. It says who comes to the gate, and each line that it is told lets
/// one out.
pub(crate) fn serve(ground: Ground) -> (Process, String, Place) {
    let place = Place::new();
    let mut process = ground.child("child_server", &ground.endpoint(&place));
    let at = process.tells("at ").split_off(3);
    (process, at, place)
}

pub(crate) fn server() {
    let (Some(ground), Ok(endpoint)) = (Ground::of_child(), std::env::var(ENDPOINT)) else { return };
    let (gate, keeper) = gate();
    let mut worker = Worker::new(gate);
    worker.aloud = true;
    let server = ground.server().service(WorkServer::new(Arc::new(worker))).listen(endpoint).start().unwrap();
    say(&format!("at {}", server.endpoints()[0]));
    for line in std::io::stdin().lock().lines() {
        line.unwrap();
        keeper.release();
    }
}

/// Tries until there is room.
fn soon<T, E: Debug + Display>(tries: impl Fn() -> Result<T, E>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        match tries() {
            Err(error) if error.to_string().contains("this server's limit") && Instant::now() < end => {}
            done => return done.unwrap(),
        }
    }
}

/// Four threads of it are at the gate, and it holds what it was sent.
pub(crate) fn client() {
    let (Some(ground), Ok(endpoint)) = (Ground::of_child(), std::env::var(ENDPOINT)) else { return };
    // What those before had comes back when their handlers' threads have ended.
    let client = soon(|| ground.client::<WorkClient>().timeout(Duration::MAX).connect(&endpoint));
    soon(|| client.nothing());
    let _view = client.view().pattern(900_000).unwrap();
    let mut frame = client.blob(900_000).unwrap();
    frame.fill(1);
    client.keep(frame).unwrap();
    for _ in 0..4 {
        let client = client.clone();
        thread::spawn(move || client.hold(pattern(100_000)));
    }
    until_orphaned();
}

pub(crate) fn a_killed_server_is_told_to_every_thread_once(ground: Ground) {
    let (mut process, at, _place) = serve(ground);
    let builder = ground.client::<WorkClient>().timeout(Duration::MAX).reconnect(false);
    let client = builder.connect(&at).unwrap();
    let view = client.view().pattern(300_000).unwrap();
    let frame = client.render(100_000).unwrap();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| client.hold(pattern(10_000)))).collect();
        (0..8).for_each(|_| process.says("in"));
        process.kill();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    }
    until("the client knows", || {
        let error = client.nothing().unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        error.outcome() == Outcome::NotRun
    });
    // What the dead has left can be read.
    assert!(**view == *pattern(300_000));
    assert!(frame.iter().all(|number| *number == 7));
    // And whoever comes now has to look elsewhere, or be the next server.
    assert!(ground.client::<WorkClient>().connect(&at).is_err());
    let service = WorkServer::new(Arc::new(Worker::new(gate().0)));
    let _next = ground.server().service(service).listen(&at).start().unwrap();
    assert_eq!(ground.client::<WorkClient>().connect(&at).unwrap().add(1, 2), Ok(3));
}

pub(crate) fn a_killed_client_gives_everything_back(ground: Ground) {
    // So much is in use at once: ours, the child's, and what the last child's handlers still hold. A third child needs more
    // if the first one's is lost. Peers of networks have half of all.
    let (connections, lanes) = (3, 9);
    let all = if matches!(ground.transport, Transport::Tcp | Transport::Tls) { 2 } else { 1 };
    let started = ground.start_with(|builder| {
        let builder = builder.max_connections(connections * all).max_connections_per_client(connections);
        builder.max_lanes(lanes * all).max_lanes_per_client(lanes)
    });
    let other = started.connect();
    for _ in 0..3 {
        let mut process = ground.child("child_client", &started.at());
        (0..4).for_each(|_| started.keeper.entered());
        assert_eq!(other.kept(), Ok(1));
        process.kill();
        // Others go on, before and after its death is known.
        assert!(other.pattern(300_000).unwrap() == pattern(300_000));
        until("the connection ends", || started.server.connections() == 1);
        assert_eq!(other.is_pattern(pattern(300_000)), Ok(true));
        // What it lent and was kept is still there.
        assert_eq!(other.kept(), Ok(1));
        other.forget().unwrap();
        // The handlers return into nothing.
        (0..4).for_each(|_| started.keeper.release());
    }
}

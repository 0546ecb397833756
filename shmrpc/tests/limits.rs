//! What happens at the limits: of a message, of the messages that may be out, of time, of what a panic may do.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::panic_any;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmrpc::ServerBuilder;
use shmrpc::prelude::*;
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Gate, Keeper, Place, gate, until};

/// A result that panics when the server drops it.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Bomb {
    pub armed: bool,
}

fn on_a_lane() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("shmrpc-lane"))
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!(self.armed && on_a_lane()), "a result that cannot be dropped");
    }
}

/// What a handler throws: it panics when it is dropped, and so does what it throws then.
struct Thrown(u32);

impl Drop for Thrown {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Thrown(self.0 - 1));
        }
    }
}

#[shmrpc::service]
pub trait Edge {
    fn count(&self, a: &[u8], b: &[u8]) -> u32;
    fn bytes(&self, length: u32) -> Vec<u8>;
    fn bomb(&self, armed: bool) -> Bomb;
    fn throw(&self, deep: u32);
    fn wait(&self) -> u32;
    /// Waits with its argument in hand.
    fn hold(&self, bytes: &[u8]) -> u32;
    /// The same, with an argument that is its own.
    fn hold_own(&self, bytes: Vec<u8>) -> u32;
}

struct Here(Gate);

impl Edge for Here {
    fn count(&self, a: &[u8], b: &[u8]) -> u32 {
        u32::try_from(a.len() + b.len()).unwrap()
    }
    fn bytes(&self, length: u32) -> Vec<u8> {
        vec![7; usize::try_from(length).unwrap()]
    }
    fn bomb(&self, armed: bool) -> Bomb {
        Bomb { armed }
    }
    fn throw(&self, deep: u32) {
        panic_any(Thrown(deep));
    }
    fn wait(&self) -> u32 {
        self.0.pass();
        42
    }
    fn hold(&self, bytes: &[u8]) -> u32 {
        self.0.pass();
        u32::try_from(bytes.len()).unwrap()
    }
    fn hold_own(&self, bytes: Vec<u8>) -> u32 {
        self.hold(&bytes)
    }
}

fn start(options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (ServerHandle, EdgeClient, Keeper, Place) {
    let place = Place::new();
    let (gate, keeper) = gate();
    let server = options(Server::builder().service(EdgeServer::new(Here(gate))));
    let server = server.listen(place.endpoint()).start().unwrap();
    let client = EdgeClient::builder().timeout(BOUND).connect(place.endpoint()).unwrap();
    (server, client, keeper, place)
}

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let (gate, keeper) = gate();
    let _server = Server::builder().service(EdgeServer::new(Here(gate))).listen(endpoint).start().unwrap();
    say("ready");
    keeper.entered();
    say("waiting");
    until_orphaned();
}

/// A limit that is no power of two, so that blocks are larger than it.
const LIMIT: u32 = 1_000_000;

/// Has what others have at the limit: a connection, a lane, memory of both sides, a copy, a view.
#[test]
fn child_client() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = EdgeClient::connect(endpoint).unwrap();
    assert_eq!(client.count(b"1", b"2"), Ok(2));
    assert_eq!(client.count(&[1; 900_000], &[]), Ok(900_000));
    assert_eq!(client.view().bytes(900_000).map(|view| view.len()), Ok(900_000));
    say("served");
    until_orphaned();
}

fn another_is_served(place: &Place) {
    let mut other = Process::start("child_client", place);
    other.says("served");
}

/// Has few descriptors from the beginning on.
#[test]
fn child_server_with_few_descriptors() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 128, hard).unwrap();
    let (gate, _keeper) = gate();
    let server = Server::builder().service(EdgeServer::new(Here(gate))).listen(endpoint).start().unwrap();
    say("ready");
    until_orphaned();
    drop(server);
}

#[test]
fn arguments_around_the_limit_pass_or_are_refused() {
    let (_server, client, _keeper, _place) = start(|server| server.max_message(LIMIT.into()));
    let mut passed = 0;
    for length in LIMIT - 40..LIMIT + 40 {
        let bytes = vec![1; usize::try_from(length).unwrap()];
        match client.count(&bytes, &[]) {
            Ok(found) => {
                assert_eq!(found, length);
                passed += 1;
            }
            Err(error) => {
                assert!(
                    matches!(&error, CallError::NotEncoded(text) if text.contains("1000000")),
                    "{error:?}"
                );
            }
        }
    }
    assert!((1..80).contains(&passed), "{passed} passed");
    let error = client.count(&vec![1; 900_000], &vec![1; 600_000]).unwrap_err();
    assert!(matches!(error, CallError::NotEncoded(_)), "{error:?}");
    assert_eq!(client.count(&vec![1; 600_000], &vec![1; 300_000]), Ok(900_000));
}

#[test]
fn results_around_the_limit_pass_or_are_refused() {
    let (_server, _, _keeper, place) = start(|server| server);
    let builder = EdgeClient::builder().timeout(BOUND).max_message(LIMIT.into());
    let client = builder.connect(place.endpoint()).unwrap();
    let mut passed = 0;
    for length in LIMIT - 40..LIMIT + 40 {
        match client.bytes(length) {
            Ok(bytes) => {
                assert_eq!(bytes.len(), usize::try_from(length).unwrap());
                passed += 1;
            }
            Err(error) => assert!(matches!(error, CallError::BadReply(_)), "{error:?}"),
        }
    }
    assert!((1..80).contains(&passed), "{passed} passed");
}

#[test]
fn a_result_finds_no_block_while_all_are_held_as_views() {
    let (_server, client, _keeper, _place) = start(|server| server.max_lanes(1));
    let mut views = Vec::new();
    let error = loop {
        match client.view().bytes(4200) {
            Ok(view) => views.push(view),
            Err(error) => break error,
        }
    };
    assert_eq!(views.len(), 4096);
    assert_eq!(error, CallError::BadReply("no memory; drop some views".into()));
    assert_eq!(error.outcome(), Outcome::Ran);
    // What fits into a slot passes, on the same lane; and the rest as soon as there is room.
    assert_eq!(client.count(&[1], &[2]), Ok(2));
    views.truncate(4095);
    assert_eq!(client.bytes(4200).unwrap(), [7; 4200]);
}

#[test]
fn times_without_end_are_times_without_end() {
    let place = Place::new();
    let (gate, keeper) = gate();
    let server =
        Server::builder().service(EdgeServer::new(Here(gate))).listen(place.endpoint()).start().unwrap();
    let client = EdgeClient::builder()
        .timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .connect(place.endpoint())
        .unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        let ended = scope.spawn(|| server.shutdown(Duration::MAX));
        keeper.release();
        assert_eq!(waiting.join().unwrap(), Ok(42));
        ended.join().unwrap().unwrap();
    });
}

#[test]
fn a_thread_that_opens_a_lane_keeps_no_other_waiting() {
    let place = Place::new();
    let mut process = Process::start("child_server", &place);
    process.says("ready");
    let client = EdgeClient::connect(place.endpoint()).unwrap().with_timeout(Duration::MAX);
    thread::scope(|scope| {
        let first = scope.spawn(|| client.wait());
        process.says("waiting");
        process.stop();
        // It needs a second lane, and the server does not answer.
        let second = scope.spawn(|| client.count(&[1], &[2]));
        for _ in 0..5 {
            let error = client.with_timeout(Duration::from_millis(20)).count(&[1], &[2]).unwrap_err();
            assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
        }
        process.go_on();
        assert_eq!(second.join().unwrap(), Ok(2));
        process.kill();
        assert!(matches!(first.join().unwrap(), Err(CallError::Disconnected { .. })));
    });
}

#[test]
fn a_server_that_drains_refuses_new_calls_at_once() {
    let (server, client, keeper, place) = start(|server| server);
    let idle = EdgeClient::connect(place.endpoint()).unwrap();
    assert_eq!(idle.count(&[1], &[2]), Ok(2));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        let ended = scope.spawn(|| server.shutdown(BOUND));
        let short = idle.with_timeout(Duration::from_millis(50));
        until("the client knows", || {
            let error = short.count(&[1], &[2]);
            matches!(error, Err(CallError::Disconnected { ref reason, .. }) if reason.contains("shutting down"))
        });
        keeper.release();
        assert_eq!(waiting.join().unwrap(), Ok(42));
        ended.join().unwrap().unwrap();
    });
}

#[test]
fn a_result_that_panics_while_it_is_dropped_is_a_result() {
    let (_server, client, _keeper, _place) = start(|server| server.max_lanes(1));
    for armed in [true, false, true] {
        assert_eq!(client.bomb(armed), Ok(Bomb { armed }));
    }
}

#[test]
fn what_a_handler_throws_may_throw_again() {
    let (_server, client, _keeper, _place) = start(|server| server.max_lanes(1));
    for deep in [0, 1, 2, 3] {
        let error = client.throw(deep).unwrap_err();
        assert!(matches!(error, CallError::Panicked(_)), "{error:?}");
    }
    assert_eq!(client.count(&[1], &[2]), Ok(2));
}

/// Whoever keeps what it was lent and connects anew has no more than whoever stays.
#[test]
fn views_of_ended_connections_count() {
    let (_server, first, _keeper, place) = start(|server| server.max_lent(8 << 20));
    let mut held = vec![first.view().bytes(3 << 20).unwrap()];
    drop(first);
    let refused = loop {
        match EdgeClient::connect(place.endpoint()) {
            Ok(client) => match client.view().bytes(3 << 20) {
                Ok(view) => held.push(view),
                Err(error) => break error.to_string(),
            },
            Err(error) => break error.to_string(),
        }
        assert!(held.len() < 10, "nothing counts");
    };
    assert!(refused.contains("held") || refused.contains("still mapped"), "{refused}");
    assert!(held.iter().all(|view| view.is_in_place() && view.len() == 3 << 20));
    drop(held);
    until("all is given back", || {
        EdgeClient::connect(place.endpoint()).is_ok_and(|client| client.view().bytes(3 << 20).is_ok())
    });
}

#[test]
fn one_client_leaves_room_for_others() {
    let limit = |server: ServerBuilder| server.max_connections(3).max_connections_per_client(2);
    let (server, first, _keeper, place) = start(limit);
    let second = EdgeClient::connect(place.endpoint()).unwrap();
    let refused = EdgeClient::connect(place.endpoint()).unwrap_err().to_string();
    assert!(
        refused.contains("2 connections are open for this process, which is this server's limit for one"),
        "{refused}"
    );

    // There is room for another process.
    let mut other = Process::start("child_client", &place);
    other.says("served");
    assert_eq!(server.connections(), 3);
    drop((first, second));
}

#[test]
fn the_lanes_of_one_client_leave_some_for_others() {
    let limit = |server: ServerBuilder| server.max_lanes(3).max_lanes_per_client(2);
    let (_server, client, keeper, place) = start(limit);
    let second = EdgeClient::connect(place.endpoint()).unwrap();
    let third = EdgeClient::connect(place.endpoint()).unwrap();
    assert_eq!(client.count(b"1", b"2"), Ok(2));
    assert_eq!(second.count(b"1", b"2"), Ok(2));
    let refused = third.count(b"1", b"2").unwrap_err();
    assert_eq!(refused.outcome(), Outcome::NotRun);
    assert!(refused.to_string().contains("2 threads serve clients for this process"), "{refused}");
    let mut other = Process::start("child_client", &place);
    other.says("served");
    drop(keeper);
}

// One process at its limit, and another one is served.

/// What a process is told that wants one more, with as many held as it may have.
fn as_many_as_it_may<T>(mut more: impl FnMut() -> Result<T, String>) -> (Vec<T>, String) {
    let mut held = Vec::new();
    loop {
        match more() {
            Ok(one) => held.push(one),
            Err(refused) => return (held, refused),
        }
        assert!(held.len() < 10_000, "there is no limit");
    }
}

/// Connections, memory, and peers that say nothing: all together leave descriptors for another process.
#[test]
fn the_descriptors_of_one_client_leave_some_for_others() {
    let place = Place::new();
    let mut server = Process::start("child_server_with_few_descriptors", &place);
    server.says("ready");
    let connect = || EdgeClient::builder().timeout(BOUND).connect(place.endpoint());
    let (clients, refused) = as_many_as_it_may(|| connect().map_err(|error| error.to_string()));
    assert!(refused.contains("connections are open for this process"), "{refused}");
    assert!((4..=16).contains(&clients.len()), "{} of 128 descriptors", clients.len());
    // Each brings memory, and takes as much as it gets.
    let (mut views, mut lacking) = (Vec::new(), 0);
    for client in &clients {
        assert_eq!(client.count(&[1; 900_000], &[1; 900_000]), Ok(1_800_000));
        let short = client.with_timeout(Duration::from_millis(100));
        let more = (0..20).map(|_| short.view().bytes(1_100_000));
        let lent: Vec<_> = more.take_while(Result::is_ok).flatten().collect();
        lacking += usize::from(lent.len() < 20);
        views.extend(lent);
    }
    assert!(!views.is_empty() && lacking > 0, "{} views, {lacking} refused", views.len());
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(place.socket()).unwrap()).collect();
    for mut socket in &silent {
        let _ = socket.write_all(&[1; 10]);
    }
    another_is_served(&place);
    drop((views, silent));
}

#[test]
fn a_client_that_says_no_hello_leaves_room_for_others() {
    let (_server, _client, _keeper, place) = start(|server| server);
    let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(place.socket()).unwrap()).collect();
    let is_told = |mut socket: &UnixStream, words: &str| {
        let mut refusal = Vec::new();
        let _ = socket.read_to_end(&mut refusal).unwrap();
        let refusal = String::from_utf8_lossy(&refusal);
        assert!(refusal.contains(words), "{refusal}");
    };
    // It has 32 places, and none of those who have them has been silent for long.
    silent[32..].iter().for_each(|socket| is_told(socket, "32 peers are saying hello for this process"));
    another_is_served(&place);
    // Then its oldest one makes room, and is told so.
    let begin = Instant::now();
    while let Err(error) = EdgeClient::builder().timeout(BOUND).connect(place.endpoint()) {
        assert!(begin.elapsed() < BOUND && error.to_string().contains("try again"), "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    is_told(&silent[0], "it said no hello yet, and its place was wanted");
    let nobody_hung_up = || silent[31].set_nonblocking(true).and_then(|()| (&silent[31]).read(&mut [0]));
    assert_eq!(nobody_hung_up().unwrap_err().kind(), ErrorKind::WouldBlock, "it was served too late");
}

/// What a call brings if four of them have room. Base segments make it more: there are six.
const QUARTER: u32 = 8_300_000;
const ROOM: u64 = 4 * (8 << 20) + 6 * (1 << 20);

/// Over all of its connections: four calls have [`QUARTER`] bytes each, and a fifth one finds no room.
fn four_have_room(
    hold: impl Fn(&EdgeClient) -> Result<u32, CallError> + Sync,
    keeper: &Keeper,
    place: &Place,
) {
    let builder = || EdgeClient::builder().timeout(BOUND).max_lent(64 << 20);
    let clients: Vec<_> = (0..5).map(|_| builder().connect(place.endpoint()).unwrap()).collect();
    let (last, first) = clients.split_last().unwrap();
    thread::scope(|scope| {
        let hold = &hold;
        let holding: Vec<_> = first.iter().map(|client| scope.spawn(|| hold(client))).collect();
        (0..4).for_each(|_| keeper.entered());
        let refused = hold(last).unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotRun);
        assert!(
            matches!(&refused, CallError::Overloaded(text) if text.contains(&ROOM.to_string())),
            "{refused}"
        );
        // What is small needs no room.
        let small = scope.spawn(|| last.hold_own(vec![1; 4000]));
        keeper.entered();
        another_is_served(place);
        (0..5).for_each(|_| keeper.release());
        assert_eq!(small.join().unwrap(), Ok(4000));
        assert!(holding.into_iter().all(|call| call.join().unwrap() == Ok(QUARTER)));
        // What is warm makes room.
        keeper.release();
        assert_eq!(hold(last), Ok(QUARTER));
    });
}

#[test]
fn copies_of_one_client_leave_room_for_others() {
    let options = |server: ServerBuilder| server.max_message(8 << 20).trust(Peers::Nobody);
    let (_server, _client, keeper, place) = start(options);
    let bytes = vec![1; QUARTER as usize];
    four_have_room(|client| client.hold(&bytes), &keeper, &place);
}

/// They are made of messages that are read where they lie, so it is no copy that finds no room. An honest client's own limit on
/// what it has on its way is the same, so it takes one that has raised that.
#[test]
fn values_made_of_one_clients_messages_leave_room_for_others() {
    let (_server, _client, keeper, place) = start(|server| server.max_message(8 << 20));
    let bytes = vec![1; QUARTER as usize];
    four_have_room(|client| client.hold_own(bytes.clone()), &keeper, &place);
}

#[test]
fn memory_that_one_client_holds_leaves_some_for_others() {
    let (_server, client, _keeper, place) = start(|server| server.max_lent(8 << 20));
    // So that there is a lane.
    assert_eq!(client.count(&[1], &[2]), Ok(2));
    let short = client.with_timeout(Duration::from_millis(50));
    let more = || short.view().bytes(900_000).map_err(|error| error.to_string());
    let (views, refused) = as_many_as_it_may(more);
    assert!((4..=12).contains(&views.len()), "{} views: {refused}", views.len());
    another_is_served(&place);
}

#[test]
fn blocks_that_one_client_holds_leave_some_for_others() {
    let (_server, client, _keeper, place) = start(|server| server);
    let (views, refused) = as_many_as_it_may(|| client.view().bytes(4200).map_err(|error| error.to_string()));
    assert_eq!(views.len(), 4096, "{refused}");
    another_is_served(&place);
}

/// Where others come, too, peers of networks have half.
#[test]
fn peers_of_networks_have_all_of_a_server_that_nobody_else_reaches() {
    let place = Place::new();
    for (others, most) in [(None, 4), (Some(place.endpoint()), 2)] {
        let (gate, _keeper) = gate();
        let server = Server::builder().service(EdgeServer::new(Here(gate))).max_connections(4);
        let server = server.max_connections_per_client(4).listen("tcp:127.0.0.1:0");
        let server = others.into_iter().fold(server, ServerBuilder::listen).start().unwrap();
        let at = server.endpoints()[0].to_string();
        let connect = || EdgeClient::connect(&at).map_err(|error| error.to_string());
        let (clients, refused) = as_many_as_it_may(connect);
        assert_eq!(clients.len(), most, "{refused}");
        assert_eq!(refused.contains("for peers of networks"), most == 2, "{refused}");
        assert!(clients.iter().all(|client| client.count(&[1], &[2]) == Ok(2)));
    }
}

//! Every way in which a call, a connection or a server can fail: which error it is, and what may have happened.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests; their helpers too")]

mod support;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use shmrpc::prelude::*;
use shmrpc::{EndpointError, ServeError, ServerBuilder};
use support::{BOUND, Gate, Keeper, Place, gate, until};

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum Refusal {
    Odd { value: u32 },
    Tired,
}

#[shmrpc::service]
pub trait Work {
    fn half(&self, value: u32) -> Result<u32, Refusal>;
    fn panics(&self, text: &str) -> u32;
    fn panics_fallibly(&self) -> Result<u32, Refusal>;
    fn blob(&self, length: u32) -> Vec<u8>;
    fn length(&self, bytes: &[u8]) -> u32;
    fn wait(&self) -> u32;
    fn served(&self) -> u32;
}

struct Worker {
    gate: Gate,
    served: Arc<Mutex<u32>>,
}

impl Worker {
    fn count(&self) {
        *self.served.lock().unwrap() += 1;
    }
}

impl Work for Worker {
    fn half(&self, value: u32) -> Result<u32, Refusal> {
        self.count();
        if value == 0 {
            Err(Refusal::Tired)
        } else if value % 2 == 1 {
            Err(Refusal::Odd { value })
        } else {
            Ok(value / 2)
        }
    }
    fn panics(&self, text: &str) -> u32 {
        self.count();
        panic!("told to: {text}")
    }
    fn panics_fallibly(&self) -> Result<u32, Refusal> {
        self.count();
        panic!("a literal")
    }
    fn blob(&self, length: u32) -> Vec<u8> {
        self.count();
        vec![7; usize::try_from(length).unwrap()]
    }
    fn length(&self, bytes: &[u8]) -> u32 {
        self.count();
        u32::try_from(bytes.len()).unwrap()
    }
    fn wait(&self) -> u32 {
        self.count();
        self.gate.pass();
        42
    }
    fn served(&self) -> u32 {
        *self.served.lock().unwrap()
    }
}

/// The same service as a later client knows it.
mod newer {
    #[shmrpc::service]
    pub(crate) trait Work {
        fn brand_new(&self, value: u32) -> u32;
        #[oneway]
        fn brand_new_oneway(&self);
        fn served(&self) -> u32;
    }
}

/// The same service with another parameter.
mod other {
    #[shmrpc::service]
    pub(crate) trait Work {
        fn half(&self, value: u64) -> u32;
    }
}

/// A service that nobody serves.
#[shmrpc::service]
pub trait Play {
    fn ball(&self) -> u32;
}

fn worker() -> (ServerBuilder, Keeper) {
    let (gate, keeper) = gate();
    let server = Server::builder().service(WorkServer::new(Worker { gate, served: Arc::default() }));
    (server, keeper)
}

/// A server, a client with plenty of time, the handlers' keeper, and where they meet.
fn start(options: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (ServerHandle, WorkClient, Keeper, Place) {
    let place = Place::new();
    let (server, keeper) = worker();
    let server = options(server).listen(place.endpoint()).start().unwrap();
    let client = WorkClient::builder().timeout(BOUND).reconnect(false).connect(place.endpoint()).unwrap();
    (server, client, keeper, place)
}

#[test]
fn service_error_is_the_handlers_own() {
    let (_server, client, _keeper, _place) = start(|server| server);
    assert_eq!(client.half(8), Ok(4));
    let error = client.half(7).unwrap_err();
    assert_eq!(error, CallError::Service(Refusal::Odd { value: 7 }));
    assert_eq!(error.outcome(), Outcome::Ran);
    let error = client.view().half(0).unwrap_err();
    assert_eq!(error, CallError::Service(Refusal::Tired));
    assert_eq!(error.outcome(), Outcome::Ran);
    assert_eq!(client.served(), Ok(3));
}

#[test]
fn panicked_and_the_server_goes_on() {
    let (_server, client, _keeper, _place) = start(|server| server.max_lanes(1));
    for _ in 0..3 {
        let error = client.panics("grü").unwrap_err();
        assert_eq!(error, CallError::Panicked("told to: grü".into()));
        assert_eq!(error.outcome(), Outcome::Ran);
        let error = client.panics_fallibly().unwrap_err();
        assert_eq!(error, CallError::Panicked("a literal".into()));
        assert_eq!(error.outcome(), Outcome::Ran);
    }
    assert_eq!(client.half(8), Ok(4));
    assert_eq!(client.served(), Ok(7));
}

#[test]
fn bad_reply_if_the_result_is_too_large_for_the_client() {
    let (_server, _, _keeper, place) = start(|server| server);
    let client = WorkClient::builder().timeout(BOUND).max_message(1 << 16).connect(place.endpoint()).unwrap();
    let error = client.blob(1 << 17).unwrap_err();
    assert!(matches!(error, CallError::BadReply(_)), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Ran);
    let error = client.view().blob(1 << 17).unwrap_err();
    assert!(matches!(error, CallError::BadReply(_)), "{error:?}");
    // Smaller ones pass, on the same lane.
    assert_eq!(client.blob(1 << 15).unwrap(), vec![7; 1 << 15]);
    assert_eq!(client.served(), Ok(3));
}

#[test]
fn unknown_method_of_a_newer_client() {
    let (_server, _, _keeper, place) = start(|server| server);
    let client = newer::WorkClient::connect(place.endpoint()).unwrap();
    let error = client.brand_new(1).unwrap_err();
    assert_eq!(error, CallError::UnknownMethod("brand_new".into()));
    assert_eq!(error.outcome(), Outcome::NotRun);
    let error = client.brand_new_oneway().unwrap_err();
    assert_eq!(error, CallError::UnknownMethod("brand_new_oneway".into()));
    // What both have works.
    assert_eq!(client.served(), Ok(0));
}

#[test]
fn schemas_that_differ_are_named_when_connecting() {
    let (_server, _, _keeper, place) = start(|server| server);
    let error = other::WorkClient::connect(place.endpoint()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("half(u64)->u32"), "{text}");
    assert!(text.contains("half(u32)->"), "{text}");
    assert!(text.contains("Work::half"), "{text}");
}

#[test]
fn a_service_that_is_not_there_is_named_when_connecting() {
    let (_server, _, _keeper, place) = start(|server| server);
    let error = PlayClient::connect(place.endpoint()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("`Play`") && text.contains("Work"), "{text}");
}

#[test]
fn overloaded_if_the_server_has_no_lanes() {
    let (_server, client, _keeper, _place) = start(|server| server.max_lanes(0));
    for _ in 0..2 {
        let error = client.served().unwrap_err();
        assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
    }
}

#[test]
fn overloaded_if_the_only_lane_is_busy() {
    let (_server, client, keeper, _place) = start(|server| server.max_lanes(1));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        let error = client.with_timeout(Duration::from_millis(20)).half(8).unwrap_err();
        assert!(matches!(error, CallError::Overloaded(_)), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun);
        keeper.release();
        assert_eq!(waiting.join().unwrap(), Ok(42));
    });
    assert_eq!(client.served(), Ok(1), "what was refused has not run");
}

#[test]
fn not_encoded_if_the_argument_is_too_large_for_the_server() {
    let (_server, client, _keeper, _place) = start(|server| server.max_message(1 << 16));
    let error = client.length(&vec![1; 1 << 17]).unwrap_err();
    assert!(matches!(error, CallError::NotEncoded(_)), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun);
    assert_eq!(client.served(), Ok(0));
    // Smaller ones pass, on the same lane.
    assert_eq!(client.length(&vec![1; 1 << 15]), Ok(1 << 15));
}

#[test]
fn deadline_exceeded_while_the_handler_runs_and_the_lane_serves_again() {
    let (_server, client, keeper, _place) = start(|server| server.max_lanes(1));
    assert_eq!(client.half(8), Ok(4));
    let limit = Duration::from_millis(200);
    let error = client.with_timeout(limit).wait().unwrap_err();
    assert_eq!(error, CallError::DeadlineExceeded { timeout: limit, outcome: Outcome::Unknown });
    assert_eq!(error.outcome(), Outcome::Unknown);
    keeper.entered();
    keeper.release();
    // There is one lane: this is the one that was set aside, and the late reply is not taken for this one.
    assert_eq!(client.half(16), Ok(8));
    assert_eq!(client.served(), Ok(3), "the late call ran once");
}

#[test]
fn deadline_exceeded_leaves_other_lanes_alone() {
    let (_server, client, keeper, _place) = start(|server| server);
    assert_eq!(client.half(8), Ok(4));
    let error = client.with_timeout(Duration::from_millis(200)).wait().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    keeper.entered();
    // The handler still holds its lane.
    assert_eq!(client.half(16), Ok(8));
    keeper.release();
    assert_eq!(client.half(32), Ok(16));
}

#[test]
fn disconnected_after_the_server_is_gone() {
    let (server, client, keeper, _place) = start(|server| server);
    assert_eq!(client.half(8), Ok(4));
    drop(server);
    // No thread of the server is left that could take a call.
    keeper.abandoned();
    for _ in 0..3 {
        let error = client.half(8).unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
    }
}

#[test]
fn disconnected_at_once_when_the_server_is_dropped() {
    // Many times, since the lane's thread may still be on its way out when the call comes.
    for round in 0..100 {
        let place = Place::new();
        let (gate, _keeper) = gate();
        let served = Arc::<Mutex<u32>>::default();
        let service = WorkServer::new(Worker { gate, served: Arc::clone(&served) });
        let server = Server::builder().service(service).listen(place.endpoint()).start().unwrap();
        let client = WorkClient::builder().timeout(BOUND).reconnect(false).connect(place.endpoint()).unwrap();
        assert_eq!(client.half(8), Ok(4));
        drop(server);
        let error = client.half(8).unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(*served.lock().unwrap(), 1, "a dropped server runs nothing");
        assert_eq!(error.outcome(), Outcome::NotRun, "round {round}: {error:?}");
    }
}

/// Leaves a call without its reply: the server is dropped while the handler runs.
fn cut_off(server: ServerHandle, client: &WorkClient, keeper: &Keeper) {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        drop(server);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    });
}

#[test]
fn disconnected_while_the_handler_runs() {
    let (server, client, keeper, _place) = start(|server| server);
    cut_off(server, &client, &keeper);
    // The handler is still in; nobody can take what comes now.
    let error = client.served().unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
    keeper.release();
}

#[test]
fn disconnected_and_then_the_handler_replies() {
    let (server, client, keeper, _place) = start(|server| server);
    cut_off(server, &client, &keeper);
    keeper.release();
    // The late reply is in the ring, and the lane's thread is gone: what comes now cannot run.
    keeper.abandoned();
    for _ in 0..3 {
        let error = client.served().unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
    }
}

#[test]
fn a_server_that_ended_drops_its_services() {
    let (server, client, keeper, _place) = start(|server| server);
    assert_eq!(client.half(8), Ok(4));
    server.shutdown(BOUND).unwrap();
    keeper.abandoned();
}

#[test]
fn one_connection_too_many_is_refused_with_a_reason() {
    let (_server, client, _keeper, place) = start(|server| server.max_connections(1));
    assert_eq!(client.served(), Ok(0));
    let error = WorkClient::connect(place.endpoint()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("the server refused: 1 connections are open"), "{text}");
    // A place that is given back is there for the next. It is when the lane's thread is gone, too.
    drop(client);
    until("there is room", || {
        WorkClient::connect(place.endpoint()).is_ok_and(|client| client.served() == Ok(0))
    });
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_that_was_not_built_says_how_to_have_it() {
    let say = "this build of shmrpc has no TLS; in Cargo.toml add `features = [\"tls\"]` to shmrpc";
    let error = WorkClient::connect("tls:127.0.0.1:1").unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to tls:127.0.0.1:1: {say}"));
    let (server, _keeper) = worker();
    let error = server.listen("tls:127.0.0.1:0").start().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen at tls:127.0.0.1:0: {say}"));
}

#[test]
fn endpoints_that_are_none() {
    let connect = |endpoint: &str| match WorkClient::connect(endpoint).unwrap_err() {
        ConnectError::Endpoint(error) => error,
        error => panic!("{error:?}"),
    };
    assert!(matches!(connect("work"), EndpointError::Scheme(_)));
    assert!(matches!(connect("shm:a/b"), EndpointError::Name { .. }));
    assert!(matches!(connect(&format!("shm:/{}", "x".repeat(107))), EndpointError::TooLong { .. }));

    let (server, _keeper) = worker();
    let error = server.listen("work").start().unwrap_err();
    assert!(matches!(error, ServeError::Endpoint(EndpointError::Scheme(_))), "{error:?}");
    let (server, _keeper) = worker();
    assert!(matches!(server.start().unwrap_err(), ServeError::Incomplete(_)));
    let place = Place::new();
    let error = Server::builder().listen(place.endpoint()).start().unwrap_err();
    assert!(matches!(error, ServeError::Incomplete(_)), "{error:?}");
    let (server, _keeper) = worker();
    let (gate, _other) = gate();
    let twice = server.service(WorkServer::new(Worker { gate, served: Arc::default() }));
    let error = twice.listen(place.endpoint()).start().unwrap_err();
    assert!(matches!(error, ServeError::Duplicate("Work")), "{error:?}");
}

#[test]
fn no_server_says_where_nobody_listens() {
    let (place, second) = (Place::new(), Place::new());
    let error = WorkClient::connect(place.endpoint()).unwrap_err();
    assert!(matches!(error, ConnectError::Meet { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("nobody listens at") && text.contains(&place.endpoint()), "{text}");
    // Of a list, every failure is named.
    let list = format!("{},{}", place.endpoint(), second.endpoint());
    let error = WorkClient::connect(list).unwrap_err();
    assert!(matches!(&error, ConnectError::All(errors) if errors.len() == 2), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&place.endpoint()) && text.contains(&second.endpoint()), "{text}");
}

#[test]
fn the_first_endpoint_that_answers_is_taken() {
    let (_server, _, _keeper, place) = start(|server| server);
    let nobody = Place::new();
    let client = WorkClient::connect(format!("{},{}", nobody.endpoint(), place.endpoint())).unwrap();
    assert_eq!(client.transport().endpoint(), place.endpoint());
    assert!(client.transport().reason().contains(&nobody.endpoint()), "{}", client.transport());
    assert_eq!(client.served(), Ok(0));
}

#[test]
fn an_endpoint_that_does_not_answer_leaves_the_next_one_its_time() {
    let (_server, _, _keeper, place) = start(|server| server);
    // It is connected to, and nobody ever says hello there.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("tcp:{}", mute.local_addr().unwrap());
    let connect = |list: &str| WorkClient::builder().connect_timeout(Duration::from_secs(2)).connect(list);
    let client = connect(&format!("{mute},{}", place.endpoint())).unwrap();
    assert_eq!(client.transport().endpoint(), place.endpoint());
    assert!(client.transport().reason().contains("did not answer within 1s"), "{}", client.transport());
    let error = connect(&mute).unwrap_err();
    assert!(error.to_string().contains("did not answer within 2s"), "{error}");
    assert_eq!(format!("{error:?}"), error.to_string());
    // All of them have the same time together: the last one has what the others left.
    let error = connect(&format!("{mute},{mute}")).unwrap_err().to_string();
    assert!(error.contains("within 1s") && !error.contains("within 2s"), "{error}");
}

#[test]
fn a_second_server_at_a_live_path_is_refused() {
    let (server, client, _keeper, place) = start(|server| server);
    let (second, _other) = worker();
    match second.listen(place.endpoint()).start().unwrap_err() {
        ServeError::Listen { endpoint, error } => {
            assert_eq!(endpoint, place.endpoint());
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
        }
        error => panic!("{error:?}"),
    }
    // The first is unharmed, for old clients and new ones.
    assert_eq!(client.half(8), Ok(4));
    assert_eq!(WorkClient::connect(place.endpoint()).unwrap().half(8), Ok(4));
    // When it is gone, the path is free, and nothing is left there.
    drop(server);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let (second, _other) = worker();
    let _second = second.listen(place.endpoint()).start().unwrap();
    assert_eq!(WorkClient::connect(place.endpoint()).unwrap().served(), Ok(0));
}

#[test]
fn shutdown_lets_a_call_in_flight_finish() {
    let (server, client, keeper, place) = start(|server| server);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        let ending = scope.spawn(move || server.shutdown(BOUND));
        until("the server listens no more", || !place.socket().exists());
        keeper.release();
        assert_eq!(waiting.join().unwrap(), Ok(42));
        ending.join().unwrap().unwrap();
    });
    let error = client.served().unwrap_err();
    assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotRun, "{error:?}");
}

#[test]
fn shutdown_of_an_idle_server_ends() {
    let (server, client, _keeper, place) = start(|server| server);
    assert_eq!(client.half(8), Ok(4));
    server.shutdown(BOUND).unwrap();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let (server, _keeper) = worker();
    server.listen(place.endpoint()).start().unwrap().shutdown(Duration::ZERO).unwrap();
}

#[test]
fn shutdown_gives_up_on_a_stuck_handler() {
    let (server, client, keeper, _place) = start(|server| server);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait());
        keeper.entered();
        let error = server.shutdown(Duration::ZERO).unwrap_err();
        assert!(matches!(error, ServeError::StillBusy { lanes: 1, timeout: Duration::ZERO }), "{error:?}");
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    });
    keeper.release();
}

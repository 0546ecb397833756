//! What a client does when its connection has ended.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getsockname, setsockopt, socket,
    sockopt,
};
use shmrpc::Service;
use shmrpc::prelude::*;

use crate::ground::{At, Ground};
use crate::service::{WorkClient, WorkServer, Worker, other, pattern};
use crate::support::process::Process;
use crate::support::{BOUND, Keeper, Place, gate, until};

const LARGE: u32 = 100_000;

/// The same service of another day: methods are missing, so the others have other ids.
mod fewer {
    #[shmrpc::service]
    pub(super) trait Work {
        fn is_pattern(&self, bytes: &[u8]) -> bool;
        fn ran(&self) -> u64;
    }
}

/// Who serves it then, or with another shape.
struct Later;

impl fewer::Work for Later {
    fn is_pattern(&self, bytes: &[u8]) -> bool {
        bytes == pattern(bytes.len() as u32)
    }
    fn ran(&self) -> u64 {
        77
    }
}

impl other::Work for Later {
    fn add(&self, a: u64, b: u32) -> u32 {
        a as u32 + b
    }
}

/// A port that nobody gets by chance, so that it is free between two servers. A socket has it that does not listen.
fn own_port(endpoint: &str) -> (String, OwnedFd) {
    let (scheme, address) = endpoint.split_once(':').unwrap();
    let mut address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let keeps = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&keeps, sockopt::ReuseAddr, &true).unwrap();
    bind(keeps.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    let bound: SockaddrStorage = getsockname(keeps.as_raw_fd()).unwrap();
    let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(four), _) => four.port(),
        (_, Some(six)) => six.port(),
        _ => panic!("{:?}", bound.family()),
    };
    address.set_port(port);
    (format!("{scheme}:{address}"), keeps)
}

/// Where servers follow one another.
struct Scene {
    ground: Ground,
    endpoint: String,
    _port: Option<OwnedFd>,
    _place: Place,
}

impl Scene {
    /// A first server.
    fn new(ground: Ground) -> (Self, ServerHandle, Keeper) {
        let scene = Self::empty(ground);
        let (server, keeper) = scene.work();
        (scene, server, keeper)
    }

    fn empty(ground: Ground) -> Self {
        let place = Place::new();
        let (endpoint, port) = match ground.at {
            At::Port(any) => {
                let (endpoint, port) = own_port(any);
                (endpoint, Some(port))
            }
            _ => (ground.endpoint(&place), None),
        };
        Self { ground, endpoint, _port: port, _place: place }
    }

    /// A server in a process of its own.
    fn process(&self) -> Process {
        let mut process = self.ground.child("child_server", &self.endpoint);
        process.tells("at ");
        process
    }

    fn serve(&self, service: impl Service) -> ServerHandle {
        let builder = self.ground.server().service(service).listen(&self.endpoint);
        builder.wait_for_endpoints(BOUND).start().unwrap()
    }

    fn work(&self) -> (ServerHandle, Keeper) {
        let (gate, keeper) = gate();
        (self.serve(WorkServer::new(Arc::new(Worker::new(gate)))), keeper)
    }

    fn connect(&self, reconnect: bool) -> WorkClient {
        // Whatever waits for nothing hangs.
        let builder = self.ground.client().timeout(Duration::MAX).reconnect(reconnect);
        builder.connect(&self.endpoint).unwrap()
    }
}

/// Returns when the client knows of the old server's end.
fn reaches_the_next(client: &WorkClient) {
    let short = client.with_timeout(Duration::from_millis(50));
    until("the client comes over", || short.ran() == Ok(77));
}

pub(crate) fn a_client_comes_back_after_a_shutdown(ground: Ground) {
    let (scene, mut server, _keeper) = Scene::new(ground);
    let client = scene.connect(true);
    for times in 1..=3 {
        assert_eq!(client.add(1, 2), Ok(3));
        assert_eq!(client.transport().times_connected(), times);
        let view = client.view().pattern(LARGE).unwrap();
        // Its trail leads to a connection that ends.
        client.note(1, 1).unwrap();
        server.shutdown(BOUND).unwrap();
        server = scene.work().0;
        assert_eq!(client.is_pattern(pattern(LARGE)), Ok(true));
        assert!(**view == *pattern(LARGE));
    }
}

pub(crate) fn a_client_comes_back_after_a_death(ground: Ground) {
    let (scene, server, keeper) = Scene::new(ground);
    let client = scene.connect(true);
    let (server, _keeper) = thread::scope(|scope| {
        let call = scope.spawn(|| client.wait());
        keeper.entered();
        drop(server);
        // It ran, or so it may be.
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        // These wait for the next server.
        let client = &client;
        let calls: Vec<_> = (0..4).map(|by| scope.spawn(move || client.add(by, 1))).collect();
        let next = scene.work();
        for (by, call) in (0..).zip(calls) {
            assert_eq!(call.join().unwrap(), Ok(by + 1));
        }
        next
    });
    keeper.release();
    assert_eq!(client.transport().times_connected(), 2);
    drop(server);
}

/// The server's process is killed in the middle of a call, and another one takes its place.
pub(crate) fn a_client_comes_back_after_a_kill(ground: Ground) {
    let scene = Scene::empty(ground);
    let mut process = scene.process();
    let client = scene.connect(true);
    for times in 1..=3 {
        let view = client.view().pattern(LARGE).unwrap();
        let mut frame = client.blob::<f32>(1000).unwrap();
        frame.fill(1.5);
        client.note(1, 1).unwrap();
        assert_eq!(client.transport().times_connected(), times);
        process = thread::scope(|scope| {
            let call = scope.spawn(|| client.hold(pattern(LARGE)));
            process.says("in");
            process.kill();
            let error = call.join().unwrap().unwrap_err();
            assert!(matches!(error, CallError::Disconnected { .. }), "{error:?}");
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            // These wait for the next process.
            let client = &client;
            let calls: Vec<_> = (0..4).map(|by| scope.spawn(move || client.add(by, 1))).collect();
            let next = scene.process();
            for (by, call) in (0..).zip(calls) {
                assert_eq!(call.join().unwrap(), Ok(by + 1));
            }
            next
        });
        assert_eq!(client.noted(1), Ok(vec![]), "what the dead ran is not run again");
        assert_eq!(client.mean(frame), Ok(1.5));
        assert!(**view == *pattern(LARGE));
    }
}

pub(crate) fn new_calls_go_to_the_successor_while_the_old_server_finishes(ground: Ground) {
    let (scene, server, keeper) = Scene::new(ground);
    let client = scene.connect(true);
    thread::scope(|scope| {
        let call = scope.spawn(|| client.wait());
        keeper.entered();
        let ended = scope.spawn(|| server.shutdown(BOUND));
        let _next = scene.serve(fewer::WorkServer::new(Later));
        reaches_the_next(&client);
        assert!(!call.is_finished());
        keeper.release();
        assert_eq!(call.join().unwrap(), Ok(42));
        assert!(ended.join().unwrap().is_ok());
        assert_eq!(client.ran(), Ok(77));
    });
}

pub(crate) fn another_server_has_its_own_ids(ground: Ground) {
    let (scene, server, _keeper) = Scene::new(ground);
    let client = scene.connect(true);
    assert_eq!(client.add(1, 2), Ok(3));
    server.shutdown(BOUND).unwrap();
    let server = scene.serve(fewer::WorkServer::new(Later));
    assert_eq!(client.ran(), Ok(77));
    assert_eq!(client.is_pattern(pattern(LARGE)), Ok(true));
    assert_eq!(client.add(1, 2), Err(CallError::UnknownMethod("add".into())));
    server.shutdown(BOUND).unwrap();
    let _server = scene.work();
    assert_eq!((client.ran(), client.is_pattern(&[1]), client.add(1, 2)), (Ok(0), Ok(false), Ok(3)));
}

pub(crate) fn another_shape_is_a_clear_error(ground: Ground) {
    let (scene, server, _keeper) = Scene::new(ground);
    let client = scene.connect(true);
    assert_eq!(client.add(1, 2), Ok(3));
    server.shutdown(BOUND).unwrap();
    let server = scene.serve(other::WorkServer::new(Later));
    for _ in 0..2 {
        let error = client.add(1, 2).unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotRun, "{error}");
        assert!(error.to_string().contains("`Work::add` differs"), "{error}");
    }
    server.shutdown(BOUND).unwrap();
    let _server = scene.work();
    assert_eq!(client.add(1, 2), Ok(3));
}

pub(crate) fn a_blob_lent_before_is_not_lost(ground: Ground) {
    let (scene, server, _keeper) = Scene::new(ground);
    let client = scene.connect(true);
    let lengths = [0, 10, 1000, 1025, 300_000];
    let lent = lengths.map(|length| {
        let mut frame = client.blob::<f32>(length + 1).unwrap();
        frame.fill(1.5);
        frame[length] = 1e30;
        frame.truncate(length);
        frame
    });
    let rendered = client.render(1000).unwrap();
    server.shutdown(BOUND).unwrap();
    let _server = scene.work();
    for frame in lent {
        let length = frame.len();
        let mean = client.mean(frame).unwrap();
        assert!(mean == 1.5 || length == 0, "{mean} of {length}");
    }
    assert!(rendered.iter().all(|number| *number == 7));
    // New ones are of the new connection.
    let mut frame = client.blob::<f32>(1000).unwrap();
    frame.fill(2.5);
    assert_eq!(client.mean(frame), Ok(2.5));
    assert_eq!(client.transport().times_connected(), 2);
}

pub(crate) fn no_call_overtakes_a_one_way_call_to_the_old_server(ground: Ground) {
    let (scene, server, keeper) = Scene::new(ground);
    let client = scene.connect(true);
    // Waits at the gate.
    client.linger(&[]).unwrap();
    keeper.entered();
    thread::scope(|scope| {
        let ended = scope.spawn(|| server.shutdown(BOUND));
        let _next = scene.serve(fewer::WorkServer::new(Later));
        scope.spawn(|| reaches_the_next(&client)).join().unwrap();
        for _ in 0..2 {
            let error = client.with_timeout(Duration::from_millis(20)).ran().unwrap_err();
            assert_eq!(error.outcome(), Outcome::NotRun, "{error}");
        }
        keeper.release();
        assert_eq!(client.ran(), Ok(77));
        assert!(ended.join().unwrap().is_ok());
    });
}

pub(crate) fn a_client_that_is_told_not_to_does_not_come_back(ground: Ground) {
    let (scene, server, _keeper) = Scene::new(ground);
    let client = scene.connect(false);
    assert_eq!(client.add(1, 2), Ok(3));
    server.shutdown(BOUND).unwrap();
    let _server = scene.work();
    for _ in 0..2 {
        let error = client.add(1, 2).unwrap_err();
        assert!(matches!(error, CallError::Disconnected { outcome: Outcome::NotRun, .. }), "{error:?}");
    }
    assert_eq!(client.transport().times_connected(), 1);
    assert_eq!(scene.connect(true).add(1, 2), Ok(3));
}

pub(crate) fn without_a_server_a_call_has_its_time_and_says_why(ground: Ground) {
    let (scene, server, _keeper) = Scene::new(ground);
    let client = scene.connect(true);
    assert_eq!(client.add(1, 2), Ok(3));
    server.shutdown(BOUND).unwrap();
    let short = client.with_timeout(Duration::from_millis(30));
    // The first ones may go to a server of whose end nobody has heard yet, or have no time for an attempt.
    until("an attempt was made in time", || match short.add(1, 2).unwrap_err() {
        CallError::Disconnected { reason, outcome: Outcome::NotRun } => reason.contains(&scene.endpoint),
        _ => false,
    });
    let error = short.blob::<u8>(10).unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotRun, "{error}");
}

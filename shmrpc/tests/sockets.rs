//! Hostile bytes on sockets, Unix ones and TCP: whoever speaks something else, too slowly, too much or not at all hears
//! why, costs the server no more than it may, and leaves nothing behind; honest clients lose nothing.
//!
//! The server is a process of its own, so that what it has can be counted. `deadlines` has the hostile servers, `hellos`
//! (of the transport) those that never say hello, and the fuzz target `sockets` any bytes.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod support;

#[allow(dead_code, reason = "a part of it is used")]
#[path = "evil/target.rs"]
mod target;

mod sockets {
    pub(crate) mod peer;
}

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmrpc::Endpoint;
use shmrpc::prelude::*;
use shmrpc_transport::slot::{Header, Kind};
use sockets::peer::{At, Peer, WAYS, Way, frame, hello, lane_hello, reason, receive, reset, send};
use support::process::{ENDPOINT, Process, say, until_orphaned};
use support::{BOUND, Place, until};
use target::{BLOB, Here, SUM, TargetClient, TargetServer, archive};

/// Bytes of a message that the server takes: more than what it may have besides, so that memory which is touched before its
/// bytes have come shows. Room in the address space is taken as soon as they are announced.
const MAX_MESSAGE: u64 = 64 << 20;
/// Connections of one process, or one address.
const OF_ONE: usize = 16;
/// Lanes of a connection.
const LANES: u32 = 64;
/// KiB that a server may have more than before: what its allocator keeps.
const KEPT: u64 = 32 << 10;

#[test]
fn child_server() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    // Room for all lanes, and most systems give 1,024 at first.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let server = Server::builder().service(TargetServer::new(Here)).max_message(MAX_MESSAGE);
    let server = server.max_connections(64).max_connections_per_client(OF_ONE).max_lanes(512);
    let server = server.max_lanes_per_client(256).listen(endpoint).listen("tcp:127.0.0.1:0").start().unwrap();
    let port = server.endpoints().iter().find_map(|at| match at {
        Endpoint::Tcp(at) => Some(at.port),
        _ => None,
    });
    say(&format!("port {}", port.unwrap()));
    until_orphaned();
}

/// What a process has, by the kernel's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    fn of(server: &Process) -> Self {
        let entries = |folder| {
            let process = server.child.id();
            fs::read_dir(format!("/proc/{process}/{folder}")).unwrap().count()
        };
        Self { descriptors: entries("fd"), threads: entries("task") }
    }
}

/// A server process, and honest clients of it.
struct Scene {
    server: Process,
    at: At,
    honest: [TargetClient; 2],
    before: Holdings,
    resident: u64,
    _place: Place,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let unix = place.socket();
        let endpoint = format!("uds:{}", unix.display());
        let mut server = Process::start_with("child_server", &endpoint, |command| command);
        let port: u16 = server.tells("port").strip_prefix("port ").unwrap().parse().unwrap();
        let at = At { unix, tcp: ([127, 0, 0, 1], port).into() };
        let Holdings { descriptors, threads } = Holdings::of(&server);
        // Of each its socket and its lane; of the one at the Unix socket its process, and a witness of our memory.
        let before = Holdings { descriptors: descriptors + 6, threads: threads + 2 };
        let join = |way| TargetClient::builder().timeout(BOUND).connect(at.endpoint(way)).unwrap();
        let honest = WAYS.map(join);
        let mut scene = Self { server, at, honest, before, resident: 0, _place: place };
        // All that is made once is made: a newcomer's, and large messages'.
        scene.goes_on();
        scene.resident = scene.resident();
        scene
    }

    /// KiB that are resident.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Replies of `blob` that the server has made when it makes no more: all its threads sleep, and again after each of
    /// many questions.
    fn made_at_most(&self) -> u32 {
        let mut made = self.honest[0].blobs().unwrap();
        let mut same = 0;
        while same < 20 {
            until("all threads of the server sleep", || self.is_asleep());
            let now = self.honest[0].blobs().unwrap();
            same = if now == made { same + 1 } else { 0 };
            made = now;
        }
        made
    }

    /// Whether no thread of the server wants the CPU.
    fn is_asleep(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.server.child.id())).unwrap();
        let states = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
        states.into_iter().all(|stat| !stat.contains(") R "))
    }

    /// Those who are there are served, and whoever comes.
    fn goes_on(&self) {
        for (way, client) in WAYS.into_iter().zip(&self.honest) {
            assert_eq!(client.add(40, 2), Ok(42));
            assert_eq!(client.sum(&[1; 100_000]), Ok(100_000));
            let newcomer = TargetClient::builder().timeout(BOUND).connect(self.at.endpoint(way)).unwrap();
            assert_eq!(newcomer.add(40, 2), Ok(42));
        }
    }

    /// The server has what it had before.
    fn recovers(&self) {
        self.goes_on();
        until("all is given back", || Holdings::of(&self.server) == self.before);
        let resident = self.resident();
        assert!(resident < self.resident + KEPT, "{resident} KiB are resident, {} before", self.resident);
    }
}

/// A request on a lane.
fn request(method: u16, payload: &[u8]) -> Vec<u8> {
    frame(Header { method, call_id: 7, ..Header::new(Kind::Request) }, payload)
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut hello = hello();
    hello[at..at + bytes.len()].copy_from_slice(bytes);
    hello
}

#[test]
fn whoever_speaks_something_else_is_told() {
    let scene = Scene::new();
    let tls = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 500]].concat();
    let lone = |header: Header| header.to_frame().to_vec();
    let large = |length| lone(Header { length, ..Header::new(Kind::Hello) });
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let cases: [(Vec<u8>, [&str; 2]); 10] = [
        (http, ["bad frame: stamp 542393671", "the other end does not speak shmrpc"]),
        (tls, ["bad frame: stamp", "this port speaks plain TCP, and the client TLS; connect with `tcp:`"]),
        (changed(24, b"SHMRPC"), ["the other end does not speak shmrpc"; 2]),
        (changed(32, &[9]), ["version 9 of the wire format, and we speak"; 2]),
        (changed(36, &[9]), ["archives differently"; 2]),
        (
            large(u32::MAX),
            ["4294967295 bytes is above 1048576", "4294967295 bytes is above the limit of 1048576"],
        ),
        (
            large((1 << 20) + 1),
            ["1048577 bytes is above 1048576", "1048577 bytes is above the limit of 1048576"],
        ),
        (lone(Header::new(Kind::Request)), ["it began with Request"; 2]),
        (changed(16, &[1]), ["it began with fields that mean nothing there"; 2]),
        (frame(Header::new(Kind::Hello), b"shmrpc"), ["the other end does not speak shmrpc"; 2]),
    ];
    for (bytes, words) in &cases {
        for (way, words) in WAYS.into_iter().zip(words) {
            let socket = scene.at.dial(way);
            send(&socket, way, bytes, &[]);
            let reason = reason(&socket);
            assert!(reason.contains(words), "{way:?}: {reason:?} does not say {words:?}");
        }
    }
    scene.recovers();
}

/// A byte at a time is slow, and no fault: it holds its own lane.
#[test]
fn a_request_that_comes_byte_by_byte_is_served_and_holds_up_nobody() {
    let scene = Scene::new();
    for way in WAYS {
        let peer = scene.at.join(way);
        let lane = peer.lane(0);
        let bytes = request(SUM, &archive(&(vec![1_u8; 200],)));
        for (at, byte) in bytes.iter().enumerate() {
            send(&lane, way, &[*byte], &[]);
            if at % 50 == 0 {
                scene.goes_on();
            }
        }
        let (header, payload) = receive(&lane).unwrap();
        assert_eq!(
            (header.kind, header.call_id, payload.as_slice()),
            (Kind::Reply, 7, &200_u64.to_le_bytes()[..])
        );
    }
    scene.recovers();
}

/// Says hello, opens a lane, and begins: none of it goes on.
#[test]
fn whoever_stops_in_the_middle_holds_what_is_his_and_no_more() {
    let scene = Scene::new();
    for way in WAYS {
        let silent = scene.at.join(way);
        let opened = scene.at.join(way);
        let _never_used = opened.lane(0);
        let begun = scene.at.join(way);
        let lanes: Vec<UnixStream> = (0..4).map(|number| begun.lane(number)).collect();
        // As much as a message may have is announced; its memory comes with its bytes.
        let head = Header { length: MAX_MESSAGE as u32, ..Header::new(Kind::Request) }.to_frame();
        for (lane, part) in lanes.iter().zip([&head[..1], &head[..23], &head[..], &head[..]]) {
            send(lane, way, part, &[]);
        }
        send(&lanes[3], way, &[0; 1000], &[]);
        scene.goes_on();
        assert!(scene.resident() < scene.resident + KEPT);
        drop((silent, _never_used, opened, begun, lanes));
        scene.recovers();
    }
}

/// Asks for more than the sockets hold, and reads nothing of it.
#[test]
fn replies_that_nobody_reads_hold_one_thread_each() {
    /// Requests on each lane. Their replies have 1 MiB.
    const ASKED: usize = 64;
    /// As many may lie in the system's own memory of one lane: over TCP that is 6 MiB and what the other end has, by default.
    const IN_SOCKETS: u32 = 16;
    let scene = Scene::new();
    let asked = request(BLOB, &archive(&(1_u32 << 20, 7_u8))).repeat(ASKED);
    for way in WAYS {
        let peer = scene.at.join(way);
        let before = scene.honest[0].blobs().unwrap();
        let lanes: Vec<UnixStream> = (0..4).map(|number| peer.lane(number)).collect();
        for lane in &lanes {
            send(lane, way, &asked, &[]);
            scene.goes_on();
        }
        // A reply is written where it is sent from, and a lane has one: the rest is not even begun.
        let made = scene.made_at_most() - before;
        assert!((4..4 * IN_SOCKETS).contains(&made), "{made} replies of {} were made", 4 * ASKED);
        assert!(scene.resident() < scene.resident + KEPT, "{} KiB", scene.resident());
        let threads = Holdings::of(&scene.server).threads;
        assert!(threads >= scene.before.threads + lanes.len(), "{threads} threads");
        drop(lanes);
        drop(peer);
        scene.recovers();
    }
}

#[test]
fn a_frame_above_the_limit_ends_its_connection_alone() {
    let scene = Scene::new();
    for way in WAYS {
        for length in [u32::MAX, MAX_MESSAGE as u32 + 1] {
            let (peer, other) = (scene.at.join(way), scene.at.join(way));
            let (lane, others) = (peer.lane(0), other.lane(0));
            let head = Header { length, ..Header::new(Kind::Request) };
            send(&lane, way, &head.to_frame(), &[]);
            let said = peer.is_ended();
            let reason = format!("a frame of {length} bytes is above the limit of {MAX_MESSAGE}");
            assert!(
                said.iter().any(|(header, text)| header.kind == Kind::Failure && text.contains(&reason)),
                "{said:?}"
            );
            assert_eq!(receive(&lane).filter(|(header, _)| header.kind != Kind::GoAway), None);
            send(&others, way, &request(SUM, &archive(&(vec![1_u8; 3],))), &[]);
            assert_eq!(receive(&others).unwrap().1, 3_u64.to_le_bytes());
        }
    }
    scene.recovers();
}

/// A peer that says nothing else would keep them open in its place.
#[test]
fn a_descriptor_beside_a_ping_ends_its_connection_and_is_closed() {
    let scene = Scene::new();
    let peer = scene.at.join(Way::Uds);
    let lane = peer.lane(0);
    let ping = frame(Header::new(Kind::Ping), &[]);
    send(&lane, Way::Uds, &ping.repeat(3), &[]);
    send(&lane, Way::Uds, &request(SUM, &archive(&(vec![1_u8; 3],))), &[]);
    assert_eq!(receive(&lane).unwrap().1, 3_u64.to_le_bytes());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(BOUND)).unwrap();
    send(&lane, Way::Uds, &ping, &[theirs.as_raw_fd()]);
    drop(theirs);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    let said = peer.is_ended();
    assert!(said.iter().any(|(_, text)| text.contains("descriptor")), "{said:?}");
    scene.recovers();
}

#[test]
fn a_lane_is_for_whoever_has_the_token_of_a_connection_that_lives() {
    let scene = Scene::new();
    let gone = "there is no such connection any more";
    let peer = scene.at.join(Way::Tcp);
    let refused = |token| {
        let socket = scene.at.dial(Way::Tcp);
        send(&socket, Way::Tcp, &lane_hello(token, 0), &[]);
        reason(&socket)
    };
    for at in [0, 15] {
        let mut token = peer.token;
        token[at] ^= 1;
        assert_eq!(refused(token), gone);
    }
    // Whoever says more than that before the answer would lose it.
    let socket = scene.at.dial(Way::Tcp);
    send(&socket, Way::Tcp, &[lane_hello(peer.token, 0), request(SUM, &[])].concat(), &[]);
    assert_eq!(reason(&socket), "the hello of a lane is to be answered before anything else is said");
    drop(peer.lane(0));
    let Peer { main, token, .. } = peer;
    drop(main);
    until("the connection has ended", || {
        let socket = scene.at.dial(Way::Tcp);
        send(&socket, Way::Tcp, &lane_hello(token, 0), &[]);
        receive(&socket).is_some_and(|(header, _)| header.kind == Kind::Failure)
    });
    scene.recovers();
}

#[test]
fn lanes_are_as_many_as_were_announced() {
    let scene = Scene::new();
    for way in WAYS {
        let peer = scene.at.join(way);
        let mut lanes: Vec<UnixStream> = (0..LANES).map(|number| peer.lane(number)).collect();
        for _ in 0..3 {
            let refused = reason(&peer.ask(0));
            assert_eq!(refused, "64 lanes are all that a connection may have");
        }
        scene.goes_on();
        lanes.pop();
        until("a lane is free", || {
            receive(&peer.ask(0)).is_some_and(|(header, _)| header.kind == Kind::LaneOpen)
        });
        drop((lanes, peer));
        scene.recovers();
    }
}

#[test]
fn a_flood_of_connections_leaves_room_for_others() {
    let scene = Scene::new();
    let mut peers: Vec<Peer> = (0..OF_ONE).map(|_| scene.at.join(Way::Tcp)).collect();
    for _ in 0..20 {
        let socket = scene.at.dial(Way::Tcp);
        send(&socket, Way::Tcp, &hello(), &[]);
        let refused = reason(&socket);
        let words = "16 connections are open for this address, which is this server's limit for one";
        assert!(refused.contains(words), "{refused}");
    }
    scene.goes_on();
    peers.clear();
    scene.recovers();
}

/// Wherever it comes: in the hello, in a request, in a reply.
#[test]
fn a_reset_in_the_middle_leaves_nothing() {
    let scene = Scene::new();
    let hello = hello();
    let asked = request(BLOB, &archive(&(1_u32 << 20, 7_u8))).repeat(16);
    for way in WAYS {
        for cut in [0, 1, 23, 24, 30, hello.len() - 1, hello.len()] {
            let socket = scene.at.dial(way);
            send(&socket, way, &hello[..cut], &[]);
            reset(socket, way);
        }
        for cut in [0, 5, 30, asked.len() - 3, asked.len()] {
            let peer = scene.at.join(way);
            let lane = peer.lane(0);
            send(&lane, way, &asked[..cut], &[]);
            if cut > 100 {
                (&lane).read_exact(&mut [0; 1000]).unwrap();
            }
            reset(lane, way);
            // The connection stays, and has another lane.
            let lane = peer.lane(1);
            send(&lane, way, &request(SUM, &archive(&(vec![1_u8; 3],))), &[]);
            assert_eq!(receive(&lane).unwrap().1, 3_u64.to_le_bytes());
            reset(peer.main, way);
        }
        scene.recovers();
    }
}

/// A client of something else is told so at once.
#[test]
fn a_client_of_another_server_says_that_it_is_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("tcp:{}", listener.local_addr().unwrap());
    for said in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\nmore to come",
        &[21, 3, 3, 0, 2, 2, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let server = || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said).unwrap();
            drop(stream.read_to_end(&mut Vec::new()));
        };
        let error = std::thread::scope(|scope| {
            scope.spawn(server);
            TargetClient::builder().connect_timeout(BOUND).connect(&at).unwrap_err().to_string()
        });
        assert!(error.contains("the other end does not speak shmrpc"), "{error}");
    }
}

//! What a hostile client does while its server is shut down. Each returns what it holds on to when it has begun.

use std::any::Any;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use shmrpc_transport::slot::{HEADER, Header, Kind};

use crate::End;
use crate::peer::{self, At, Way, frame, receive};
use crate::raw::{self, ARENA, BASE, DONE, LANES, Memory, Peer, QUIET, requeue};
use crate::support::{BOUND, until};
use crate::target::{ADD, BLOB, NOTE, archive};

/// The last method that is asked for.
const STAY: u16 = 10;

type Held = Box<dyn Any>;

/// Its name, whether it is frozen when it has begun, what the shutdown comes to, and what it does.
pub(crate) type Attack = (&'static str, bool, End, fn(&At, Way) -> Held);

/// On rings.
pub(crate) const RINGS: [Attack; 10] = [
    ("idle_lanes", false, End::Well, idle_lanes),
    ("frozen_lanes", true, End::Well, idle_lanes),
    ("unread_replies", false, End::Well, unread_replies),
    ("frozen_in_calls", true, End::Well, unread_replies),
    ("handler_that_stays", false, End::Busy, handler_that_stays),
    ("stolen_waiters", false, End::Well, stolen_waiters),
    ("notes_without_end", false, End::Either, notes_without_end),
    ("stalled_hellos", false, End::Well, stalled_hellos),
    ("half_of_a_control_frame", false, End::Well, half_of_a_control_frame),
    ("pings_without_end", false, End::Well, pings_without_end),
];

/// On streams, Unix ones and TCP.
pub(crate) const STREAMS: [Attack; 9] = [
    ("idle_streams", false, End::Well, idle_streams),
    ("frozen_streams", true, End::Well, idle_streams),
    ("unread_streams", false, End::Busy, unread_streams),
    ("frozen_in_calls_on_streams", true, End::Busy, unread_streams),
    ("handler_that_stays_on_a_stream", false, End::Busy, handler_on_a_stream),
    ("stalled_hellos_of_streams", false, End::Well, stalled_hellos_of_streams),
    ("half_of_a_lane_s_frame", false, End::Well, half_of_a_lanes_frame),
    ("half_of_a_control_frame_of_streams", false, End::Well, half_of_a_streams_control_frame),
    ("notes_without_end_on_a_stream", false, End::Either, notes_on_a_stream),
];

/// A connection with some lanes.
fn join(at: &At, lanes: u32) -> Peer {
    let peer = Peer::join(&at.unix, 1 << 20).unwrap();
    (0..lanes).for_each(|lane| assert!(peer.open(lane).unwrap(), "lane {lane} is not served"));
    peer
}

/// Of each lane one call was answered.
fn called(at: &At, lanes: u32) -> Peer {
    let mut peer = join(at, lanes);
    for lane in 0..lanes {
        peer.post(lane, ADD, &archive(&(1_u32, 2_u32)), ARENA);
        assert!(peer.sure_reply(lane), "lane {lane} is not served");
    }
    peer
}

fn idle_lanes(at: &At, _: Way) -> Held {
    Box::new(called(at, LANES))
}

/// More replies than have room, and none is taken.
fn unread_replies(at: &At, _: Way) -> Held {
    let mut peer = join(at, 2);
    for lane in 0..2 {
        for _ in 0..128 {
            peer.post(lane, BLOB, &archive(&(16_u32, 1_u8)), ARENA);
        }
        until("the server has done what has room", || peer.taken_of_ours(lane) >= 127);
        peer.post(lane, BLOB, &archive(&(16_u32, 1_u8)), ARENA);
        peer.post(lane, BLOB, &archive(&(16_u32, 1_u8)), ARENA);
        until("the server waits for room", || peer.taken_of_ours(lane) >= 129);
    }
    Box::new(peer)
}

fn handler_that_stays(at: &At, _: Way) -> Held {
    let mut peer = join(at, 2);
    for lane in 0..2 {
        peer.post(lane, STAY, &archive(&()), ARENA);
        until("the handler runs", || peer.taken_of_ours(lane) == 1);
    }
    Box::new(peer)
}

/// Moves the threads of its lanes to a word where nobody wakes them.
fn stolen_waiters(at: &At, _: Way) -> Held {
    const STOLEN: u32 = 4;
    let peer = called(at, STOLEN);
    let nowhere = peer.own.word(0);
    for lane in 0..STOLEN {
        let word = peer.own.word(Peer::slot(lane, peer.sent[lane as usize]));
        until("a thread is stolen", || requeue(word, nowhere, word.load(Ordering::Relaxed)) > 0);
    }
    Box::new(peer)
}

/// One-way calls on all its lanes for as long as they are taken.
fn notes_without_end(at: &At, _: Way) -> Held {
    const FLOODED: u32 = 4;
    let mut peer = join(at, FLOODED);
    let note = archive(&("z".repeat(500),));
    thread::spawn(move || {
        loop {
            for lane in 0..FLOODED {
                let sent = peer.sent[lane as usize];
                let done = peer.theirs.word(Peer::side(lane) + DONE).load(Ordering::Acquire);
                for at in sent.wrapping_sub(done)..128 {
                    peer.post(lane, NOTE, &note, ARENA + at as usize * 4096 % (QUIET - ARENA));
                }
            }
            thread::yield_now();
        }
    });
    Box::new(())
}

/// One of each step of the hello.
fn stalled_hellos(at: &At, _: Way) -> Held {
    let (hello, memory) = (raw::hello(1 << 20), Memory::new(BASE));
    let fd = [memory.fd.as_raw_fd()];
    let steps = [(0, &[][..]), (10, &[]), (HEADER, &fd), (hello.len() - 1, &fd)];
    let stalled = steps.map(|(said, fds)| {
        let socket = raw::dial(&at.unix).unwrap();
        if said > 0 {
            raw::send(&socket, &hello[..said], fds).unwrap();
        }
        socket
    });
    // They came before.
    Box::new((stalled, join(at, 1)))
}

fn half_of_a_control_frame(at: &At, _: Way) -> Held {
    let peer = called(at, 2);
    raw::send(&peer.socket, &frame(Header::new(Kind::Ping), &[])[..10], &[]).unwrap();
    Box::new(peer)
}

/// On the connection's own socket.
fn pings_without_end(at: &At, _: Way) -> Held {
    let peer = called(at, 2);
    let mut socket = peer.socket.try_clone().unwrap();
    let pings = frame(Header::new(Kind::Ping), &[]).repeat(1000);
    thread::spawn(move || while socket.write_all(&pings).is_ok() {});
    Box::new(peer)
}

/// A request on a lane that is a stream.
fn asks(method: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if method == NOTE { Kind::OneWay } else { Kind::Request };
    frame(Header { method, ..Header::new(kind) }, payload)
}

/// A connection whose lanes have each answered a call.
fn enter(at: &At, way: Way) -> (peer::Peer, Vec<std::os::unix::net::UnixStream>) {
    let peer = at.join(way);
    let lanes: Vec<_> = (0..4).map(|number| peer.lane(number)).collect();
    for lane in &lanes {
        peer::send(lane, way, &asks(ADD, &archive(&(1_u32, 2_u32))), &[]);
        assert_eq!(receive(lane).map(|(header, _)| header.kind), Some(Kind::Reply));
    }
    (peer, lanes)
}

fn idle_streams(at: &At, way: Way) -> Held {
    Box::new(enter(at, way))
}

/// Requests until the server takes no more, since it cannot send.
fn unread_streams(at: &At, way: Way) -> Held {
    let (peer, lanes) = enter(at, way);
    let asked = asks(BLOB, &archive(&(1_u32 << 19, 1_u8))).repeat(64);
    for mut lane in &lanes[..2] {
        lane.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let end = Instant::now() + BOUND;
        while lane.write_all(&asked).is_ok() {
            assert!(Instant::now() < end, "the server takes whatever comes");
        }
    }
    Box::new((peer, lanes))
}

fn handler_on_a_stream(at: &At, way: Way) -> Held {
    let (peer, lanes) = enter(at, way);
    peer::send(&lanes[0], way, &asks(STAY, &archive(&())), &[]);
    // Taken, once it reads no more of this.
    lanes[0].set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let notes = asks(NOTE, &archive(&("z".repeat(2000),))).repeat(64);
    while (&lanes[0]).write_all(&notes).is_ok() {}
    Box::new((peer, lanes))
}

/// Of a connection, and over TCP of a lane.
fn stalled_hellos_of_streams(at: &At, way: Way) -> Held {
    let known = enter(at, way);
    let of_lane = (way == Way::Tcp).then(|| peer::lane_hello(known.0.token, 9));
    let mut stalled = Vec::new();
    for hello in [Some(peer::hello()), of_lane].into_iter().flatten() {
        for said in [0, 10, HEADER, hello.len() - 1] {
            let socket = at.dial(way);
            peer::send(&socket, way, &hello[..said], &[]);
            stalled.push(socket);
        }
    }
    // They came before.
    Box::new((known, stalled, enter(at, way)))
}

/// Of the header on one lane, and of what it heads on another.
fn half_of_a_lanes_frame(at: &At, way: Way) -> Held {
    let (peer, lanes) = enter(at, way);
    let ask = asks(ADD, &archive(&(1_u32, 2_u32)));
    peer::send(&lanes[0], way, &ask[..10], &[]);
    peer::send(&lanes[1], way, &ask[..HEADER + 3], &[]);
    let long = asks(NOTE, &archive(&("z".repeat(1 << 20),)));
    peer::send(&lanes[2], way, &long[..1 << 19], &[]);
    Box::new((peer, lanes))
}

fn half_of_a_streams_control_frame(at: &At, way: Way) -> Held {
    let (peer, lanes) = enter(at, way);
    peer::send(&peer.main, way, &frame(Header::new(Kind::Ping), &[])[..10], &[]);
    Box::new((peer, lanes))
}

/// For as long as they are taken.
fn notes_on_a_stream(at: &At, way: Way) -> Held {
    let (peer, lanes) = enter(at, way);
    let notes = asks(NOTE, &archive(&("z".repeat(2000),))).repeat(16);
    for mut lane in lanes {
        let notes = notes.clone();
        thread::spawn(move || while lane.write_all(&notes).is_ok() {});
    }
    Box::new(peer)
}

//! Attacks by what calls carry besides their bytes: descriptors that are not those that a frame, a header or a message says,
//! and blobs in memory that is none, or not theirs.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use shmrpc_transport::connection::OnWire;
use shmrpc_transport::slot::{Header, Kind};

use super::attacks::{Evil, MAX_MESSAGE};
use super::descriptors::wrong;
use super::raw::{self, ARENA, BASE, BLOCKS, Peer, QUIET, Words, send};
use super::streams::{asks, is_open, is_served};
use super::target::{ADD, PASS, WEIGH, archive, sum};
use crate::peer::{self, Way, frame, receive};

/// Where the flags of a frame count descriptors.
const FLAGS: usize = 11;
const COUNT: u32 = 4;

/// The arguments of a method that takes one descriptor: the one at this place.
fn nth(at: u32) -> Vec<u8> {
    archive(&(at,))
}

/// Says that descriptors of a call come, and sends as many.
fn hand(peer: &Peer, lane: u32, call_id: u32, announced: usize, fds: &[RawFd]) {
    let header = Header { call_id, block: lane, ..Header::new(Kind::Descriptors) };
    let _ = send(&peer.socket, &frame(header.with_descriptors(announced), &[]), fds);
}

/// Calls `method`, and says that so many descriptors belong to it.
pub(super) fn call_with(peer: &mut Peer, method: u16, payload: &[u8], count: usize) -> Option<Kind> {
    let mut words: Words = peer.compose(0, method, payload, ARENA);
    words.0[1] |= (count as u64) << (24 + COUNT);
    let stamp = peer.sent[0].wrapping_add(1);
    peer.publish(0, &words, stamp);
    answer(peer)
}

/// What the answer on the first lane is, if one comes soon.
fn answer(peer: &mut Peer) -> Option<Kind> {
    peer.sure_reply(0).then_some(peer.kind).flatten()
}

/// Waits until the server has ended the connection, as it has to.
pub(super) fn expect_end(evil: &mut Evil, peer: &Peer, what: &str) {
    while raw::receive(&peer.socket).is_ok() {}
    assert!(peer.is_over(), "the server bears {what}");
    evil.tally.ended += 1;
}

/// A descriptor goes there and comes back, whatever it is; `kept` is read off the socket by nobody else.
fn there_and_back(peer: &mut Peer, fd: &OwnedFd) -> bool {
    hand(peer, 0, peer.sent[0], 1, &[fd.as_raw_fd()]);
    let mut words = peer.compose(0, PASS, &nth(0), ARENA);
    words.0[1] |= 1 << (24 + COUNT);
    let stamp = peer.sent[0].wrapping_add(1);
    peer.publish(0, &words, stamp);
    let came = raw::receive(&peer.socket);
    let back = matches!(&came, Ok((header, _, Some(_))) if header.kind == Kind::Descriptors);
    back && answer(peer) == Some(Kind::Reply)
}

/// Descriptors of calls in rings: fewer or more than a frame, a header or a message says, of other calls and lanes, and of
/// every sort.
pub(crate) fn handed_descriptors(evil: &mut Evil) {
    let nothing = File::open("/dev/null").unwrap();
    let fds = vec![nothing.as_raw_fd(); 15];
    evil.so_often(24, 1, |evil, peer| {
        let call_id = peer.sent[0];
        match evil.tally.rounds % 12 {
            0 => {
                for (name, fd) in wrong(4096) {
                    assert!(there_and_back(peer, &fd), "{name} did not come back");
                    evil.tally.answered += 1;
                }
            }
            1 => {
                // It names one that did not come: that fails this call.
                hand(peer, 0, call_id, 1, &fds[..1]);
                assert_eq!(call_with(peer, PASS, &nth(1 + evil.rng.word() % 7), 1), Some(Kind::Failure));
                assert_eq!(call_with(peer, PASS, &nth(0), 0), Some(Kind::Failure));
                // Nobody asked for these.
                hand(peer, 0, peer.sent[0], 15, &fds);
                let added = call_with(peer, ADD, &archive(&(1_u32, 2_u32)), 15);
                assert_eq!(added, Some(Kind::Reply));
                assert!(there_and_back(peer, &nothing.try_clone().unwrap().into()));
                evil.tally.answered += 4;
            }
            turn @ 2..10 => {
                let what = announce_wrongly(evil, peer, turn, &fds);
                expect_end(evil, peer, what);
            }
            10 => {
                // They wait, and the call has none.
                hand(peer, 0, call_id, 5, &fds[..5]);
                assert_eq!(call_with(peer, ADD, &archive(&(1_u32, 2_u32)), 0), Some(Kind::Reply));
                hand(peer, 0, peer.sent[0], 5, &fds[..5]);
                expect_end(evil, peer, "descriptors that nobody takes, again and again");
            }
            // Whoever leaves meanwhile leaves nothing.
            _ => hand(peer, 0, call_id, 15, &fds),
        }
        evil.tally.deeds += 1;
    });
}

/// Sends other descriptors than a frame or a header says, of the next call or another one.
fn announce_wrongly(evil: &mut Evil, peer: &mut Peer, turn: u64, fds: &[RawFd]) -> &'static str {
    let call_id = peer.sent[0];
    match turn {
        2 => {
            hand(peer, 0, call_id, 3, &fds[..evil.rng.below(3)]);
            "fewer descriptors than a frame says"
        }
        3 => {
            hand(peer, 0, call_id, 2, &fds[..3 + evil.rng.below(12)]);
            call_with(peer, PASS, &nth(0), 2);
            "more descriptors than a frame says"
        }
        4 => {
            hand(peer, 0, call_id, 0, &fds[..1]);
            "a frame that says none"
        }
        5 => {
            let lane = [1, 64, 63, u32::MAX][(evil.tally.rounds / 12 % 4) as usize];
            hand(peer, lane, call_id, 1, &fds[..1]);
            "descriptors of a lane that is not open"
        }
        6 => {
            hand(peer, 0, call_id, 1, &fds[..1]);
            hand(peer, 0, call_id.wrapping_add(evil.rng.word() % 2), 1, &fds[..1]);
            "descriptors of two calls of a lane"
        }
        7 => {
            call_with(peer, PASS, &nth(0), 1 + evil.rng.below(15));
            "a header that counts what did not come"
        }
        8 => {
            hand(peer, 0, call_id.wrapping_add(1 + evil.rng.word() % 9), 1, &fds[..1]);
            call_with(peer, PASS, &nth(0), 1);
            "descriptors of another call"
        }
        _ => {
            hand(peer, 0, call_id, 4, &fds[..4]);
            call_with(peer, PASS, &nth(0), [1, 3, 5, 15][evil.rng.below(4)]);
            "a header that counts others"
        }
    }
}

/// A reference to a blob that no correct peer writes, and that is refused whatever trust says.
pub(crate) fn bad_blob(evil: &mut Evil, generation: u32) -> OnWire {
    let mut wire = (0, 0, 64, QUIET as u64);
    let (id, segment, length, offset) = &mut wire;
    match evil.rng.below(6) {
        0 => *id = [BLOCKS, BLOCKS + evil.rng.word() % 9, u32::MAX][evil.rng.below(3)],
        1 => *segment = [1, evil.rng.word() | 1, u32::MAX][evil.rng.below(3)],
        2 => *length = [MAX_MESSAGE + 1, 1 << 31, u32::MAX][evil.rng.below(3)],
        3 => *offset = [1, QUIET as u64 + 63, u64::MAX][evil.rng.below(3)],
        4 => (*offset, *length) = (BASE as u64 - 64, 65 + evil.rng.word() % 4000),
        _ => *offset = [BASE as u64 + 64, 1 << 40, u64::MAX - 63][evil.rng.below(3)],
    }
    let (id, segment, length, offset) = wire;
    OnWire::Block { id, segment, generation, length, offset }
}

/// Blobs of impossible lengths, at places that are none, in segments that nobody sent; and in memory of the sender's own where
/// no blob can be.
pub(crate) fn blob_references(evil: &mut Evil) {
    let bytes = vec![3; 40_000];
    evil.so_often(24, 1, |evil, peer| {
        for turn in 0..6 {
            let generation = peer.sent[0];
            peer.own.write(QUIET, &bytes);
            let good =
                OnWire::Block { id: turn, segment: 0, generation, length: 40_000, offset: QUIET as u64 };
            assert_eq!(call_with(peer, WEIGH, &archive(&(good,)), 0), Some(Kind::Reply));
            // It is read out of our own memory, whatever lies there; and released there, whatever the generation says.
            let (length, offset) = (evil.rng.word() % 4096, (evil.rng.below(ARENA) & !63) as u64);
            let generation = evil.rng.odd();
            let odd = OnWire::Block { id: evil.rng.word() % BLOCKS, segment: 0, generation, length, offset };
            assert_eq!(call_with(peer, WEIGH, &archive(&(odd,)), 0), Some(Kind::Reply));
            evil.tally.answered += 2;
        }
        let bad = bad_blob(evil, peer.sent[0]);
        let what = format!("{bad:?}");
        call_with(peer, WEIGH, &archive(&(bad,)), 0);
        expect_end(evil, peer, &what);
        evil.tally.deeds += 1;
    });
}

/// The same over streams that share no memory: blobs travel as bytes, and descriptors beside their frame or not at all.
pub(crate) fn stream_handed(evil: &mut Evil) {
    let way = evil.way;
    let nothing = File::open("/dev/null").unwrap();
    let kind = |lane: &UnixStream| receive(lane).map(|(header, _)| header.kind);
    let announced = |count: u8, at: u32| {
        let mut bytes = asks(PASS, &nth(at));
        bytes[FLAGS] = count << COUNT;
        bytes
    };
    evil.stream_by_stream(24, |evil, peer, lane| {
        let one = [nothing.as_raw_fd()];
        let fds = if way == Way::Uds { &one[..] } else { &[] };
        let of_call = Header { call_id: 7, ..Header::new(Kind::Descriptors) }.with_descriptors(1);
        let ends = match evil.tally.rounds % 7 {
            0 => {
                let bytes = vec![evil.rng.word() as u8; evil.rng.below(1 << 20)];
                peer::send(lane, way, &asks(WEIGH, &archive(&(OnWire::Bytes(bytes.clone()),))), &[]);
                let weight = receive(lane).map(|(_, weight)| weight);
                assert_eq!(weight, Some(sum(&bytes).to_le_bytes().to_vec()));
                false
            }
            1 => {
                // It names one that did not come, or there is none: that fails this call.
                peer::send(lane, way, &announced(fds.len() as u8, 1 + evil.rng.word() % 7), fds);
                assert_eq!(kind(lane), Some(Kind::Failure));
                peer::send(lane, way, &asks(PASS, &nth(0)), &[]);
                assert_eq!(kind(lane), Some(Kind::Failure));
                false
            }
            2 if way == Way::Uds => {
                for (name, fd) in wrong(4096) {
                    peer::send(lane, way, &announced(1, 0), &[fd.as_raw_fd()]);
                    assert_eq!(kind(lane), Some(Kind::Reply), "{name}");
                }
                false
            }
            2 | 3 => {
                peer::send(lane, way, &announced(1 + evil.rng.word() as u8 % 15, 0), &[]);
                // Over Unix sockets they may still come, but not with another frame.
                peer::send(lane, way, &announced(1, 0), fds);
                true
            }
            4 => {
                peer::send(lane, way, &frame(of_call, &[]), fds);
                true
            }
            5 => {
                peer::send(&peer.main, way, &frame(of_call, &[]), fds);
                true
            }
            _ => {
                let block =
                    OnWire::Block { id: 1, segment: 0, generation: 1, length: 64, offset: QUIET as u64 };
                peer::send(lane, way, &asks(WEIGH, &archive(&(block,))), &[]);
                true
            }
        };
        if ends {
            while receive(&peer.main).is_some() {}
            assert!(!is_open(&peer.main), "the server bears turn {}", evil.tally.rounds % 7);
            evil.tally.ended += 1;
        } else {
            assert!(is_served(lane, way));
            evil.tally.answered += 1;
        }
        evil.tally.deeds += 1;
    });
}

//! The same server, which answers when nobody waits any more: on every lane at once, with replies that take long to be got rid
//! of, each alone or all together.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use shmrpc_transport::connection::{Carrier, OnWire};
use shmrpc_transport::slot::{FLAG_BLOCK, Header, Kind};

use super::hostile::{Door, answer};
use super::streams::{for_ever, serve};
use crate::raw::{BASE, LANES, Memory, Peer, Words, frame, receive, send};
use crate::support::process::say;
use crate::target::archive;

/// Bytes of the largest message that the client takes.
pub(crate) const LARGEST: u32 = 1 << 30;
/// Segments that come and go before one is announced that a reply lies in, and pings after each of them: so much takes its
/// time, and is fewer frames than the 1,024 that a client reads in any case for a reply that is there.
const BETWEEN: u32 = 160;
/// Said in one go with a segment, so that the socket is never empty: a client would look for no more.
const PINGS: usize = 4;
/// Segments that come and go before a reply is there: fewer than a socket holds.
const AHEAD: u32 = 50;

/// Replies that lie in memory which the socket tells of piece by piece.
pub(crate) fn in_new_segments(door: &Door) {
    let lanes = Lanes::rings(door);
    lanes.announce(door);
    lanes.answer(|lane| Answer::in_memory(announced(lane), 64));
}

pub(crate) fn stream_in_new_segments(door: &Door) {
    let lanes = Lanes::streams(door);
    lanes.announce(door);
    lanes.answer(|lane| Answer::in_memory(announced(lane), 64));
}

/// Replies that hold blobs which lie there.
pub(crate) fn blobs_in_new_segments(door: &Door) {
    let lanes = Lanes::rings(door);
    lanes.announce(door);
    lanes.answer(|lane| Answer::with_blob(announced(lane)));
}

pub(crate) fn stream_blobs_in_new_segments(door: &Door) {
    let lanes = Lanes::streams(door);
    lanes.announce(door);
    lanes.answer(|lane| Answer::with_blob(announced(lane)));
}

/// Replies as large as the client takes them.
pub(crate) fn large(door: &Door) {
    let lanes = Lanes::rings(door);
    all_wait(door);
    add(lanes.socket(), 1, &Memory::new(LARGEST as usize), &[]);
    lanes.answer(|_| Answer::in_memory(1, LARGEST));
}

pub(crate) fn stream_large(door: &Door) {
    let lanes = Lanes::streams(door);
    all_wait(door);
    add(lanes.socket(), 1, &Memory::new(LARGEST as usize), &[]);
    lanes.answer(|_| Answer::in_memory(1, LARGEST));
}

/// A reply, and what follows its header.
struct Answer(Header, Vec<u8>);

impl Answer {
    fn in_memory(segment: u32, length: u32) -> Self {
        let header = Header { flags: FLAG_BLOCK, length, ..Header::new(Kind::Reply) };
        // Segment, generation, and offset.
        Self(header, [segment, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect())
    }

    fn with_blob(segment: u32) -> Self {
        let blob = OnWire::Block { id: 0, segment, generation: 0, length: 64, offset: 0 };
        let payload = archive(&blob);
        let length = payload.len().try_into().unwrap();
        Self(Header { length, ..Header::new(Kind::Reply) }, payload)
    }
}

/// The lanes of a client that opens all that it may.
enum Lanes {
    Rings(Box<Peer>),
    Streams(UnixStream, Arc<Mutex<BTreeMap<u32, UnixStream>>>),
}

impl Lanes {
    fn rings(door: &Door) -> Self {
        say("ready");
        Self::Rings(Box::new(door.guest_with_lanes()))
    }

    /// Streams, with memory besides.
    fn streams(door: &Door) -> Self {
        say("ready");
        let socket = door.accept();
        receive(&socket).unwrap();
        let (mut hello, memory) = (answer(), Memory::new(BASE));
        hello.carrier = Carrier::Streams;
        send(&socket, &frame(Header::new(Kind::Hello), &hello.to_bytes()), &[memory.fd.as_raw_fd()]).unwrap();
        let open = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (from, opened) = (socket.try_clone().unwrap(), Arc::clone(&open));
        thread::spawn(move || {
            while let Ok((asked, _, fd)) = receive(&from) {
                if asked.kind == Kind::LaneOpen {
                    let stream = UnixStream::from(fd.unwrap());
                    // Whoever has lost patience asks again, with another one.
                    let _ = serve(&stream);
                    opened.lock().unwrap().insert(asked.block, stream);
                }
            }
        });
        Self::Streams(socket, open)
    }

    fn socket(&self) -> &UnixStream {
        match self {
            Self::Rings(peer) => &peer.socket,
            Self::Streams(socket, _) => socket,
        }
    }

    /// When the client has given up a call on each of them, has segments come and go from then on, and a little meanwhile.
    fn announce(&self, door: &Door) {
        all_wait(door);
        let socket = self.socket().try_clone().unwrap();
        let (begun, has_begun) = channel();
        thread::spawn(move || {
            let memory = Memory::new(4096);
            let pings = frame(Header::new(Kind::Ping), &[]).repeat(PINGS);
            for segment in 1..=announced(LANES - 1) {
                let retire = Header { block: segment, ..Header::new(Kind::SegmentRetire) };
                let goes = if segment.is_multiple_of(BETWEEN + 1) { vec![] } else { frame(retire, &[]) };
                if !add(&socket, segment, &memory, &[goes, pings.clone()].concat()) {
                    return;
                }
                if segment == AHEAD {
                    begun.send(()).unwrap();
                }
            }
            while (&socket).write_all(&pings).is_ok() {}
        });
        has_begun.recv().unwrap();
    }

    /// Answers the first call on each lane.
    fn answer(mut self, answer: impl Fn(u32) -> Answer) {
        for lane in 0..LANES {
            let Answer(header, payload) = answer(lane);
            match &mut self {
                Self::Rings(peer) => {
                    let mut words = [0; 5];
                    for (word, bytes) in words.iter_mut().zip(payload.as_chunks::<8>().0) {
                        *word = u64::from_le_bytes(*bytes);
                    }
                    peer.publish(lane, &Words::inline(header, words), 1);
                }
                Self::Streams(_, open) => {
                    let mut stream = &open.lock().unwrap()[&lane];
                    stream.write_all(&[&header.to_frame()[..], &payload].concat()).unwrap();
                }
            }
        }
        say("late");
        for_ever(self)
    }
}

/// Returns when the client has given up a call on each lane: it knocks.
fn all_wait(door: &Door) {
    drop(door.accept());
}

/// The segment that stays for a reply on this lane.
fn announced(lane: u32) -> u32 {
    (lane + 1) * (BETWEEN + 1)
}

/// Tells of one more segment, and what is said next. False if nobody wants to know.
fn add(socket: &UnixStream, id: u32, memory: &Memory, next: &[u8]) -> bool {
    let header = Header { block: id, ..Header::new(Kind::SegmentAdd) };
    let length = (memory.len() as u64).to_le_bytes();
    let all = [&frame(header, &length), next].concat();
    send(socket, &all, &[memory.fd.as_raw_fd()]).is_ok()
}

//! Attacks by what Unix sockets carry besides bytes: descriptors that nobody asked for, lanes that are none, and memory
//! that messages of streams lie in.

use std::fs::File;
use std::io::{self, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shmrpc_transport::connection::{Carrier, OnWire};
use shmrpc_transport::rendezvous::Hello;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, Kind};

use super::attacks::{Evil, request};
use super::descriptors::wrong;
use super::handed::bad_blob;
use super::memory::beside;
use super::raw::{self, ARENA, BASE, BLOCKS, Memory, QUIET, RELEASE, Rng};
use super::streams::{asks, is_open, is_served};
use super::target::{self, ADD, NOTE, archive};
use crate::peer::{Way, frame, receive, send, uds_lane};
use crate::support::BOUND;

/// Bits of a header's flags that count descriptors.
const COUNT: u32 = 4;

/// Descriptors beside frames that announce none, fewer or more; beside half frames, pings and nothing; and a socket beside
/// itself. Those that are announced rightly are closed, and their call is answered.
pub(crate) fn unasked_descriptors(evil: &mut Evil) {
    let nothing = File::open("/dev/null").unwrap();
    evil.stream_by_stream(24, |evil, peer, lane| {
        let many = |count: usize| vec![nothing.as_raw_fd(); count];
        let announced = |count: u8| {
            let mut bytes = asks(ADD, &archive(&(40_u32, 2_u32)));
            bytes[11] = count << COUNT;
            bytes
        };
        let turn = evil.rng.below(8);
        match turn {
            0 => send(lane, Way::Uds, &asks(ADD, &archive(&(40_u32, 2_u32))), &many(1)),
            1 => send(lane, Way::Uds, &announced(3), &many(1 + evil.rng.below(2))),
            2 => send(lane, Way::Uds, &announced(2), &many([3, 15, 16, 253][evil.rng.below(4)])),
            3 => send(lane, Way::Uds, &announced(15)[..20], &many(15)),
            4 => send(&peer.main, Way::Uds, &frame(Header::new(Kind::Ping), &[]), &many(253)),
            // Some may wait for a frame that announces them, twice as many as a frame may have.
            5 => (0..4).for_each(|_| send(lane, Way::Uds, &frame(Header::new(Kind::Ping), &[]), &many(9))),
            6 => send(lane, Way::Uds, &announced(1), &[lane.as_raw_fd()]),
            _ => {
                for count in 1..=15 {
                    send(lane, Way::Uds, &announced(count), &many(count.into()));
                    let answer = receive(lane).map(|(header, sum)| (header.kind, sum));
                    assert_eq!(answer, Some((Kind::Reply, 42_u32.to_le_bytes().to_vec())), "{count}");
                    evil.tally.answered += 1;
                }
            }
        }
        if matches!(turn, 0 | 1 | 2 | 4 | 5) {
            // The server ends it.
            while receive(&peer.main).is_some() {}
            assert!(!is_open(&peer.main), "descriptors that nobody asked for are kept, turn {turn}");
            evil.tally.ended += 1;
        }
        evil.tally.deeds += 1;
    });
}

/// What comes as the stream of a lane and is none, or is one already.
pub(crate) fn wrong_lanes(evil: &mut Evil) {
    let folder = evil.at.unix.parent().unwrap().join(format!("e{}", std::process::id()));
    evil.stream_by_stream(16, |evil, peer, lane| {
        let of = |fd: io::Result<OwnedFd>| fd.ok();
        let (closed, _) = UnixStream::pair().unwrap();
        closed.shutdown(std::net::Shutdown::Both).unwrap();
        let fd = match evil.rng.below(10) {
            0 => None,
            1 => of(File::open("/dev/null").map(OwnedFd::from)),
            2 => of(std::io::pipe().map(|(_, writer)| writer.into())),
            3 => of(UdpSocket::bind("127.0.0.2:0").map(OwnedFd::from)),
            4 => of(TcpListener::bind("127.0.0.2:0").map(OwnedFd::from)),
            5 => of(UnixDatagram::unbound().map(OwnedFd::from)),
            6 => {
                let listener = UnixListener::bind(&folder).map(OwnedFd::from);
                let _ = std::fs::remove_file(&folder);
                of(listener)
            }
            7 => Some(closed.into()),
            8 => of(peer.main.try_clone().map(OwnedFd::from)),
            _ => of(lane.try_clone().map(OwnedFd::from)),
        };
        let open = Header { block: evil.rng.word() % 64, ..Header::new(Kind::LaneOpen) };
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        send(&peer.main, Way::Uds, &frame(open, &[]), &fds);
        evil.tally.deeds += fds.len() as u64;
        // Whatever it takes them for: a call more, and no answer that is waited for long.
        lane.set_read_timeout(Some(raw::PATIENCE)).unwrap();
        evil.tally.answered += u64::from(is_served(lane, Way::Uds));
        evil.tally.ended += u64::from(!is_open(&peer.main));
    });
}

/// A client of Unix sockets whose messages lie in its memory.
struct Sharing {
    main: UnixStream,
    own: Arc<Memory>,
    lane: UnixStream,
    /// Messages that lay in memory.
    sent: u32,
}

impl Sharing {
    fn join(evil: &mut Evil) -> Option<Self> {
        let joined = Self::try_join(evil);
        evil.tally.joined += u64::from(joined.is_ok());
        evil.tally.ended += u64::from(joined.is_err());
        joined.ok()
    }

    fn try_join(evil: &Evil) -> io::Result<Self> {
        let main = raw::dial(&evil.at.unix)?;
        let own = Arc::new(Memory::new(BASE));
        let mut hello = Hello::new(1 << 20, raw::LANES, shmrpc::Memory::Memfd, target::question());
        hello.carrier = Carrier::Streams;
        hello.base_len = BASE as u64;
        let hello = frame(Header::new(Kind::Hello), &hello.to_bytes());
        raw::send(&main, &hello, &[own.fd.as_raw_fd()])?;
        let (header, ..) = raw::receive(&main)?;
        let lane = uds_lane(&main, 0)?;
        let opened = receive(&lane).is_some_and(|(header, _)| header.kind == Kind::LaneOpen);
        lane.set_read_timeout(Some(raw::PATIENCE))?;
        let joined = header.kind == Kind::Hello && opened;
        if joined {
            Ok(Self { main, own, lane, sent: 0 })
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// A request whose payload lies in a segment; spoiled or not. Generations count the uses of a block.
    fn post(&mut self, method: u16, length: u32, reference: [u64; 2]) {
        let kind = if method == NOTE { Kind::OneWay } else { Kind::Request };
        let block = self.sent % BLOCKS;
        let header =
            Header { method, call_id: self.sent, flags: FLAG_BLOCK, block, length, ..Header::new(kind) };
        let [a, b] = reference.map(u64::to_le_bytes);
        send(&self.lane, Way::Uds, &[&header.to_frame()[..], &a, &b].concat(), &[]);
        self.sent += 1;
    }

    /// The next reply, if one comes soon: whether one did. Its block is given back.
    fn reply(&mut self) -> bool {
        let mut head = [0; HEADER];
        if (&self.lane).read_exact(&mut head).is_err() {
            return false;
        }
        let header = Header::from_frame(&head).unwrap();
        let in_block = header.flags & FLAG_BLOCK != 0;
        let mut body = vec![0; if in_block { 16 } else { header.length as usize }];
        let whole = (&self.lane).read_exact(&mut body).is_ok();
        if whole && in_block {
            let generation = u32::from_le_bytes(body[4..8].try_into().unwrap());
            self.own.word(RELEASE + header.block as usize * 4).store(generation, Ordering::Release);
        }
        whole
    }
}

/// Blobs of impossible lengths, at places that are none, in segments that nobody sent.
pub(crate) fn stream_blobs(evil: &mut Evil) {
    while evil.lasts() || evil.tally.rounds < 12 {
        let Some(peer) = Sharing::join(evil) else { continue };
        peer.lane.set_read_timeout(Some(BOUND)).unwrap();
        peer.own.write(QUIET, &[3; 40_000]);
        let weigh = |blob: OnWire| {
            send(&peer.lane, Way::Uds, &asks(target::WEIGH, &archive(&(blob,))), &[]);
            receive(&peer.lane).map(|(header, _)| header.kind)
        };
        let good = OnWire::Block { id: 1, segment: 0, generation: 1, length: 40_000, offset: QUIET as u64 };
        assert_eq!(weigh(good), Some(Kind::Reply));
        evil.tally.answered += 1;
        let bad = bad_blob(evil, 2);
        let what = format!("{bad:?}");
        weigh(bad);
        while receive(&peer.main).is_some() {}
        assert!(!is_open(&peer.main), "the server bears {what}");
        evil.tally.ended += 1;
        evil.tally.deeds += 1;
        evil.tally.rounds += 1;
    }
}

/// Messages in memory that is written all the time, at places that are none, in blocks that are somebody else's; and pages that
/// the kernel is asked to forget.
pub(crate) fn stream_blocks(evil: &mut Evil) {
    while evil.lasts() || evil.tally.rounds < 12 {
        let Some(mut peer) = Sharing::join(evil) else { continue };
        let (trusted, mut rng) = (evil.trusted, Rng(evil.rng.next()));
        let own = Arc::clone(&peer.own);
        let writer = || {
            // What a trusting server reads in place lies behind.
            let end = if trusted { QUIET } else { BASE };
            own.wide(rng.below(end) & !7).store(rng.next(), Ordering::Relaxed);
        };
        beside(writer, || {
            for _ in 0..16 {
                let (method, payload) = request(&mut evil.rng, !evil.trusted);
                let mut length = u32::try_from(payload.len()).unwrap();
                let mut at = (ARENA + evil.rng.below(64) * 4096) as u64;
                let mut ids = u64::from(peer.sent) << 32;
                peer.own.write(usize::try_from(at).unwrap(), &payload);
                match evil.rng.below(8) {
                    0 => length = evil.rng.odd(),
                    1 => at = [u64::MAX - 63, BASE as u64 - 64, u64::from(evil.rng.odd())][evil.rng.below(3)],
                    2 => ids = evil.rng.next(),
                    3 => at = evil.rng.next() & !63,
                    _ => {}
                }
                let length = evil.tame(length);
                peer.post(method, length, [ids, at]);
                evil.tally.deeds += 1;
                peer.own.forget_pages();
                if method != NOTE && !peer.reply() {
                    break;
                }
                evil.tally.answered += u64::from(method != NOTE);
            }
        });
        evil.tally.ended += u64::from(!is_open(&peer.main));
        evil.tally.rounds += 1;
    }
}

/// Every wrong descriptor, as the base and as a further segment of a connection over streams. None is taken, and the right one
/// is, and cannot be cut or punched while messages in it are read.
pub(crate) fn stream_wrong_memory(evil: &mut Evil) {
    const LENGTH: usize = 1 << 20;
    while evil.lasts() {
        let mut hello = Hello::new(1 << 20, raw::LANES, shmrpc::Memory::Memfd, target::question());
        (hello.carrier, hello.base_len) = (Carrier::Streams, BASE as u64);
        let hello = frame(Header::new(Kind::Hello), &hello.to_bytes());
        for (name, fd) in wrong(BASE) {
            let socket = raw::dial(&evil.at.unix).unwrap();
            raw::send(&socket, &hello, &[fd.as_raw_fd()]).unwrap();
            let refused = receive(&socket).is_some_and(|(header, _)| header.kind == Kind::Failure);
            assert!(refused, "{name} as a base");
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
        for (name, fd) in wrong(LENGTH) {
            let Some(peer) = Sharing::join(evil) else { continue };
            let header = Header { block: 1, ..Header::new(Kind::SegmentAdd) };
            send(&peer.main, Way::Uds, &frame(header, &(LENGTH as u64).to_le_bytes()), &[fd.as_raw_fd()]);
            while receive(&peer.main).is_some() {}
            assert!(!is_open(&peer.main), "{name} as a segment");
            evil.tally.ended += 1;
            evil.tally.deeds += 1;
        }
        let mut peer = Sharing::join(evil).unwrap();
        peer.lane.set_read_timeout(Some(BOUND)).unwrap();
        let further = Memory::new(LENGTH);
        let header = Header { block: 1, ..Header::new(Kind::SegmentAdd) };
        let length = (LENGTH as u64).to_le_bytes();
        send(&peer.main, Way::Uds, &frame(header, &length), &[further.fd.as_raw_fd()]);
        let bytes = archive(&(vec![1_u8; 5000],));
        further.write(0, &bytes);
        let file = File::from(further.fd.try_clone().unwrap());
        for _ in 0..32 {
            peer.post(target::SUM, u32::try_from(bytes.len()).unwrap(), [1 | u64::from(peer.sent) << 32, 0]);
            further.forget_pages();
            assert!(file.set_len(0).is_err());
            assert!(peer.reply(), "the right memory was refused");
            evil.tally.answered += 1;
        }
        evil.tally.rounds += 1;
    }
}

//! A connection that lives: frames on its socket, slots in its rings and words in its memory, in any order. What is
//! legal is served, what is not ends the connection, and a model of the protocol says which is which.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, LazyLock};

use shmrpc_transport::connection::{Connection, LaneAnswer};
use shmrpc_transport::lane::{Incoming, Next, Patience, ServingLane};
use shmrpc_transport::message::SMALL;
use shmrpc_transport::peers::Peers;
use shmrpc_transport::rendezvous::{Hello, connect};
use shmrpc_transport::shm::memory::Memory;
use shmrpc_transport::slot::{FLAG_BLOCK, HEADER, Header, INLINE, Kind};
use shmrpc_transport::sys::futex::Until;

use self::model::{Due, Model, Poison};
use crate::ground::{ARENA, Ground};
use crate::input::Input;
use crate::wire::{
    BOUND, GIFTS, Guests, House, MAX_MESSAGE, Told, Trap, Wire, assert_few_descriptors, policy,
};

mod model;

static HOUSES: LazyLock<[House; 2]> =
    LazyLock::new(|| [House::new(Peers::SameUser), House::new(Peers::Nobody)]);
static TRAP: LazyLock<Trap> = LazyLock::new(Trap::new);

/// Steps of one session.
const STEPS: usize = 60;
/// Bytes of all replies of a session: they are never given back, and have to fit into what may be lent.
const REPLIES: usize = 1_000_000;
/// Payload bytes that a frame may have after the hello.
const MAX_FRAME: usize = 1 << 12;
/// A lane whose opening the product answers, so that all before it is known to be handled.
const BARRIER: u32 = 63;

/// The fuzzer as the client of a real server's connection, or as the server of a real client's.
pub fn frames(data: &[u8]) {
    let mut input = Input(data);
    let (as_client, trusted) = (input.flag(), input.flag());
    let trust = if trusted { Peers::SameUser } else { Peers::Nobody };
    let max_message = [1 << 20, 30_000, 100, 0][input.below(4)];
    let lanes = [64, 64, 3, 0][input.below(4)];
    let (own, fd) = Ground::own();
    let hello = Hello::new(max_message, lanes, Memory::Memfd, vec![]).to_bytes();
    let hello = [&head(Kind::Hello as u8, 0, 0, hello.len()), hello.as_slice()].concat();
    if as_client {
        let (mut wire, told) = HOUSES[usize::from(!trusted)].visit();
        wire.send(&hello, &[fd.as_raw_fd()]);
        let product = meet(&mut wire);
        Session::new(wire, own, product, told.met(), Model::client(64)).run(&mut input, &told);
    } else {
        let (guests, told) = Guests::new();
        let (met, (wire, product)) = TRAP.receive(
            |path| connect(path, &policy(trust), &[], BOUND, Box::new(guests)),
            |mut wire| {
                let product = meet(&mut wire);
                wire.send(&hello, &[fd.as_raw_fd()]);
                (wire, product)
            },
        );
        let connection = met.expect("a good hello").connection;
        Session::new(wire, own, product, connection, Model::server()).run(&mut input, &told);
    }
    assert_few_descriptors();
    crate::memory::assert_bounded();
}

/// The product's hello.
fn meet(wire: &mut Wire) -> Ground {
    let (header, _) = wire.frame().expect("a hello");
    assert_eq!(header.kind, Kind::Hello);
    Ground::product(&mut wire.fds)
}

/// The 24 bytes of a header.
fn head(kind: u8, call_id: u32, block: u32, length: usize) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[4..8].copy_from_slice(&call_id.to_le_bytes());
    bytes[10] = kind;
    bytes[12..16].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    bytes[16..20].copy_from_slice(&block.to_le_bytes());
    bytes
}

/// Small mostly, and now and then just what is allowed, or anything.
fn odd(input: &mut Input<'_>, most: u32) -> u32 {
    match input.below(8) {
        0 => input.half(),
        1 => most + input.below(2) as u32,
        2 | 3 => input.short().into(),
        _ => input.byte().into(),
    }
}

/// The archive of a vector of `length` bytes.
fn archive(length: usize) -> Vec<u8> {
    let mut bytes = vec![7; length];
    bytes.resize(length.next_multiple_of(4), 0);
    let back = -i32::try_from(bytes.len()).unwrap();
    bytes.extend_from_slice(&back.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    bytes
}

/// The frames that bytes are, whatever became of their lengths; zeros fill up the last one.
fn cut(bytes: &mut Vec<u8>) -> Vec<([u8; HEADER], Vec<u8>)> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        bytes.resize(bytes.len().max(at + HEADER), 0);
        let head: [u8; HEADER] = bytes[at..at + HEADER].try_into().unwrap();
        let header = Header::from_frame(&head);
        // What follows a bad header is not looked at.
        let length = header.map_or(0, |header| header.length as usize);
        let length = if length > MAX_FRAME { 0 } else { length };
        at += HEADER;
        bytes.resize(bytes.len().max(at + length), 0);
        frames.push((head, bytes[at..at + length].to_vec()));
        at += length;
    }
    frames
}

struct Session {
    wire: Wire,
    own: Ground,
    product: Ground,
    connection: Arc<Connection>,
    model: Model,
    lanes: BTreeMap<u32, Lane>,
    kept: Vec<Kept>,
    replied: usize,
}

/// A lane that the product serves.
struct Lane {
    serving: ServingLane,
    /// Of the next request.
    position: u32,
    replies: u32,
}

impl Lane {
    fn new(connection: &Arc<Connection>, lane: u32) -> Self {
        Self { serving: ServingLane::new(connection, lane, None).expect("a lane"), position: 0, replies: 0 }
    }
}

/// A request whose payload lies in the fuzzer's memory.
struct Kept {
    incoming: Incoming,
    segment: u32,
    block: u32,
    generation: u32,
}

impl Session {
    fn new(wire: Wire, own: Ground, product: Ground, connection: Arc<Connection>, model: Model) -> Self {
        let (mut lanes, kept) = (BTreeMap::new(), Vec::new());
        if !model.as_client {
            // A client serves no lanes; what takes messages out of a ring and blocks is the same.
            lanes.extend((0..4).map(|lane| (lane, Lane::new(&connection, lane))));
        }
        Self { wire, own, product, connection, model, lanes, kept, replied: 0 }
    }

    fn run(mut self, input: &mut Input<'_>, told: &Told) {
        let poisoned = (0..STEPS).try_for_each(|_| if input.is_empty() { Ok(()) } else { self.step(input) });
        if poisoned.is_ok() {
            // The last words may be cut off anywhere.
            self.wire.send(input.bytes(HEADER - 1), &[]);
        } else {
            self.assert_ended();
        }
        let Self { wire, connection, lanes, kept, model, .. } = self;
        drop((wire, kept));
        told.gone(&connection);
        let death = connection.death().expect("a reason");
        assert_eq!(death.peer_closed, poisoned.is_ok() || model.gave_up, "{death}");
        drop(lanes);
    }

    /// The product answers what came before the fault, and nothing after it.
    fn assert_ended(&mut self) {
        let more = if self.model.as_client {
            head(Kind::LaneOpen as u8, 0, BARRIER, 0)
        } else {
            let last = self.model.segments.keys().next_back().copied().unwrap_or(0);
            head(Kind::SegmentRetire as u8, 0, last, 0)
        };
        self.wire.send(&more, &[]);
        let due = self.model.answers.len();
        let answers = std::iter::from_fn(|| self.wire.frame()).filter(|(header, _)| header.call_id == 1);
        assert!(answers.take(due + 1).count() <= due, "served on after what no good peer says");
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), Poison> {
        match input.byte() % 12 {
            0..=2 => self.frames(input),
            3 | 4 => self.honest(input),
            5 | 6 => self.forged(input),
            7 => {
                self.own.scribble(input.below(3), input.short(), input.word());
                Ok(())
            }
            8 => {
                let lane = input.below(4) as u32;
                self.serve(lane, 0, false)
            }
            9 => {
                if !self.kept.is_empty() {
                    self.release(input.below(self.kept.len()));
                }
                Ok(())
            }
            10 => {
                self.connection.give_back();
                self.barrier()
            }
            _ => self.say(&head(Kind::LaneOpen as u8, 0, input.below(4) as u32, 0), &[]),
        }
    }

    fn in_use(&self) -> Vec<u32> {
        self.kept.iter().map(|kept| kept.segment).collect()
    }

    /// Up to three frames at once, with descriptors beside them.
    fn frames(&mut self, input: &mut Input<'_>) -> Result<(), Poison> {
        let (mut bytes, mut gifts) = (Vec::new(), Vec::new());
        for _ in 0..=input.below(3) {
            let kind = match input.below(16) {
                0..=4 => Kind::SegmentAdd as u8,
                5..=7 => Kind::SegmentRetire as u8,
                8 | 9 => Kind::LaneOpen as u8,
                10 => Kind::LaneReset as u8,
                11 => Kind::GoAway as u8,
                12 => Kind::Ping as u8,
                13 => Kind::Descriptors as u8,
                _ => input.byte(),
            };
            let call_id = [0, 0, 0, 0, 0, 1, 1, u32::MAX][input.below(8)];
            let block = match input.below(4) {
                0 | 1 if kind == Kind::SegmentAdd as u8 => self.model.next,
                0 => self.model.leaving.first().copied().unwrap_or(1),
                1 => self.model.segments.keys().next_back().copied().unwrap_or(0),
                2 => input.byte().into(),
                _ => input.half(),
            };
            let gift = input.below(GIFTS.len());
            let payload = match input.below(16) {
                0 => input.bytes(input.0.len().min(9)).to_vec(),
                1 => input.word().to_le_bytes().to_vec(),
                _ if kind == Kind::SegmentAdd as u8 => GIFTS[gift].length.to_le_bytes().to_vec(),
                _ => vec![],
            };
            let count = match input.below(16) {
                0 => 9,
                1 => 2,
                2 => 0,
                many if kind == Kind::Descriptors as u8 => many,
                _ => usize::from(kind == Kind::SegmentAdd as u8),
            };
            gifts.extend(std::iter::repeat_n(gift, count));
            let block = if kind == Kind::Descriptors as u8 && block > 63 { block % 4 } else { block };
            let mut head = head(kind, call_id, block, payload.len());
            if kind == Kind::Descriptors as u8 {
                head[11] = (count.min(15) as u8) << 4;
            }
            if input.below(32) == 1 {
                head[input.below(HEADER)] = input.byte();
            }
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&payload);
        }
        self.say(&bytes, &gifts)
    }

    /// Sends frames, and waits until the product has handled them as the model does.
    fn say(&mut self, bytes: &[u8], gifts: &[usize]) -> Result<(), Poison> {
        let fds: Vec<RawFd> = gifts.iter().map(|at| GIFTS[*at].fd.as_raw_fd()).collect();
        let mut bytes = bytes.to_vec();
        let frames = cut(&mut bytes);
        self.wire.send(&bytes, &fds);
        self.model.gifts(gifts)?;
        let in_use = self.in_use();
        for (head, payload) in frames {
            self.model.frame(&head, &payload, &in_use)?;
        }
        self.model.no_gift_is_left()?;
        self.barrier()
    }

    /// Everything that was sent so far is handled, and has had the effect that it should.
    fn barrier(&mut self) -> Result<(), Poison> {
        if self.model.as_client {
            let open = head(Kind::LaneOpen as u8, 0, BARRIER, 0);
            self.wire.send(&open, &[]);
            self.model.frame(&open, &[], &[])?;
            self.hear()?;
        } else {
            self.model.asked = Some(BARRIER);
            let connection = Arc::clone(&self.connection);
            std::thread::scope(|scope| {
                let asking = scope.spawn(move || connection.open_lane(BARRIER, &mut Until::after(BOUND)));
                self.hear()?;
                assert_eq!(asking.join().unwrap(), Ok(LaneAnswer::Served));
                Ok(())
            })?;
        }
        assert_eq!(self.connection.death(), None);
        assert_eq!(self.connection.is_going_away(), self.model.going_away);
        let mapped = self.connection.mapped();
        assert_eq!(mapped.receiving, self.model.mapped(&self.in_use()));
        assert!(mapped.receiving <= 8 * MAX_MESSAGE);
        let new: BTreeSet<u32> =
            self.model.opened.iter().copied().filter(|lane| !self.lanes.contains_key(lane)).collect();
        for lane in new {
            self.lanes.insert(lane, Lane::new(&self.connection, lane));
        }
        Ok(())
    }

    /// Reads what the product must still say, and answers what it asks.
    fn hear(&mut self) -> Result<(), Poison> {
        while !self.model.answers.is_empty() || self.model.asked.is_some() {
            let frame = self.wire.frame();
            let (header, _) =
                frame.unwrap_or_else(|| panic!("served no more: {:?}", self.connection.death()));
            match (header.kind, header.call_id) {
                (Kind::SegmentAdd, 0) => drop(self.wire.fds.pop_front().expect("its descriptor")),
                (Kind::SegmentRetire, 0) => assert!(self.model.leaving.insert(header.block)),
                (Kind::LaneOpen, 0) => {
                    assert_eq!(self.model.asked, Some(header.block));
                    let answer = head(Kind::LaneOpen as u8, 1, header.block, 0);
                    self.wire.send(&answer, &[]);
                    self.model.frame(&answer, &[], &[])?;
                }
                (kind, call_id) => {
                    assert_eq!(call_id, 1);
                    assert_eq!(Some((kind, header.block)), self.model.answers.pop_front());
                }
            }
        }
        Ok(())
    }

    /// A request as a good peer sends it.
    fn honest(&mut self, input: &mut Input<'_>) -> Result<(), Poison> {
        let lane = input.below(4) as u32;
        let Some(Lane { position, .. }) = self.lanes.get(&lane) else { return Ok(()) };
        let payload = archive([8, 100, 5_000, 20_000][input.below(4)] + input.below(64));
        let (call_id, handed) = match self.model.handed.get(&lane) {
            Some((call_id, count)) => (*call_id, *count),
            None => (input.half(), 0),
        };
        let mut head = head(Kind::Request as u8, call_id, 0, payload.len());
        head[11] = (handed as u8) << 4;
        if payload.len() <= INLINE {
            self.own.write_slot(lane, *position, position.wrapping_add(1), &head, &payload);
        } else {
            let (offset, id) =
                (ARENA + usize::from(input.short() % 8192) * 64, u32::from(input.short() % 4096));
            self.own.write(offset, &payload);
            head[11] |= FLAG_BLOCK;
            head[16..20].copy_from_slice(&id.to_le_bytes());
            let place = [u64::from(input.half()) << 32, offset as u64].map(u64::to_le_bytes).concat();
            self.own.write_slot(lane, *position, position.wrapping_add(1), &head, &place);
        }
        let size = [10, 100, 6_000, 60_000][input.below(4)];
        self.serve(lane, size, true)
    }

    /// A request as no good peer sends it, in one respect at least.
    fn forged(&mut self, input: &mut Input<'_>) -> Result<(), Poison> {
        let lane = input.below(4) as u32;
        let Some(Lane { position, .. }) = self.lanes.get(&lane) else { return Ok(()) };
        let kind = match input.below(8) {
            0 => input.byte(),
            1..=4 => Kind::Request as u8,
            _ => Kind::OneWay as u8,
        };
        let length = odd(input, SMALL as u32 + 1);
        let block = odd(input, 4095);
        let mut head = head(kind, 5, block, length as usize);
        head[11] = match input.below(8) {
            0 => input.byte(),
            1 => 0,
            _ => FLAG_BLOCK,
        };
        let last = self.model.segments.keys().next_back().copied().unwrap_or(0);
        let segment = match input.below(8) {
            0 => input.half(),
            1 => last.wrapping_add(1),
            2..=4 => last,
            _ => 0,
        };
        let bytes = self.model.segments.get(&segment).copied().unwrap_or(0);
        let end = bytes.saturating_sub(length.into()) / 64 * 64;
        let offset = match input.below(8) {
            0 => input.word(),
            1 => end + 64,
            2 => end,
            3 => u64::from(input.byte()) * 32,
            _ => u64::from(input.short()) * 64,
        };
        let ids = u64::from(segment) | u64::from(input.half()) << 32;
        let place = [ids, offset].map(u64::to_le_bytes).concat();
        let stamp = if input.below(16) == 1 { input.half() } else { position.wrapping_add(1) };
        self.own.write_slot(lane, *position, stamp, &head, &place);
        self.serve(lane, 10, false)
    }

    /// Lets the product take what lies in the ring, if there is anything; it would sleep else.
    fn serve(&mut self, number: u32, size: usize, honest: bool) -> Result<(), Poison> {
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        let mut incoming = Incoming::empty();
        let due = self.model.slot(&self.own, number, lane.position);
        let looked = lane.serving.next_with(&mut incoming, Patience::None);
        if let Ok(Due::Nothing) = due {
            assert_ne!(looked, Next::Request, "{:?}", self.connection.death());
            return Ok(());
        }
        // What stands where nothing was published is found by whoever is about to sleep.
        let taken =
            if looked == Next::Nothing { lane.serving.next(&mut incoming) } else { looked == Next::Request };
        assert_eq!(taken, due.is_ok(), "{due:?} and {:?}", self.connection.death());
        let Due::Message(header, place) = due? else { return Ok(()) };
        lane.position = lane.position.wrapping_add(1);
        assert_eq!((incoming.call_id, incoming.method), (header.call_id, header.method));
        assert_eq!((incoming.timeout_ms, incoming.oneway), (header.timeout_ms, header.kind == Kind::OneWay));
        assert_eq!(incoming.message.len(), header.length as usize);
        assert_eq!(incoming.descriptors.len(), header.descriptors());
        let in_place = place.is_some() && self.connection.is_trusted() && header.length as usize > SMALL;
        assert_eq!(incoming.message.is_in_place(), in_place);
        let bytes =
            incoming.message.access::<Vec<u8>>().map(|bytes| bytes.as_slice().iter().all(|byte| *byte == 7));
        if honest {
            assert!(bytes.expect("a good archive"));
        }
        let reply = archive(size).len();
        if header.kind == Kind::Request && self.replied + reply <= REPLIES && lane.replies < 100 {
            let sent = lane.serving.reply(header.call_id, Kind::Reply, &vec![7_u8; size], false);
            let fits = reply <= INLINE || reply as u64 <= self.connection.limits().send_max;
            assert_eq!(sent.is_ok(), fits, "{sent:?}");
            if fits {
                self.replied += reply.next_power_of_two();
                assert_eq!(self.product.stamp(number, lane.replies), lane.replies + 1);
                let (head, _) = self.product.read_slot(number, lane.replies);
                let sent = Header::from_frame(&head).unwrap();
                assert_eq!(
                    (sent.kind, sent.call_id, sent.length as usize),
                    (Kind::Reply, header.call_id, reply)
                );
                lane.replies += 1;
            }
        }
        lane.serving.finish();
        assert_eq!(self.product.done(number), lane.position);
        if let Some(place) = place {
            let kept =
                Kept { incoming, segment: place.segment, block: header.block, generation: place.generation };
            if in_place {
                self.kept.push(kept);
                if self.kept.len() > 4 {
                    self.release(0);
                }
            } else {
                assert_eq!(self.product.released(kept.block), kept.generation);
            }
        }
        Ok(())
    }

    /// Drops a message: its memory is given back.
    fn release(&mut self, at: usize) {
        let Kept { incoming, block, generation, .. } = self.kept.remove(at);
        drop(incoming);
        assert_eq!(self.product.released(block), generation);
    }
}

//! What both sides of one connection know: its memory, its socket, its limits, and whether it lives.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::arena::{Arena, BLOCKS, Block, UNIT};
use super::consumer::Consumer;
use super::producer::Producer;
use super::segment::{ARENA_OFFSET, BASE_LEN, MAX_LANES, Segment, Side};
use crate::message::{Buffer, Encode, EncodeError, Grow, Loan, Message, Pool, encode};
use crate::peers::PeerCredentials;
use crate::slot::{BlockRef, FLAG_BLOCK, Header, INLINE, Kind, Slot};
use crate::sys::futex::{Stop, Until};
use crate::sys::membarrier;
use crate::sys::socket::{Frame, FrameReader, ReadError, Socket};
use crate::sys::watcher::{Next, Source};

/// How long a message may wait for the announcement of the segment it lies in. The announcement was sent first, so
/// only a watcher that lags makes this wait at all.
const ANNOUNCEMENT: Duration = Duration::from_secs(5);
/// Room that a growing message gets beyond what it asked for, so that its root does not make it move again.
const HEADROOM: usize = 512;

/// What the two sides agreed on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Lanes that the connection may have.
    pub lanes: u32,
    /// Bytes of a message that the peer takes.
    pub send_max: u64,
    /// Bytes of a message that we take.
    pub receive_max: u64,
}

/// What the owner of a connection does when the peer says something on the socket.
pub trait Events: Send + Sync {
    /// The peer opened `lane`. True if somebody serves it now.
    fn lane_opened(&self, connection: &Arc<Connection>, lane: u32) -> bool;
    /// The connection ended. Called once.
    fn closed(&self, connection: &Connection);
}

/// What a peer says to a lane that we open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneAnswer {
    /// Somebody serves it.
    Served,
    /// Nobody will serve it.
    Refused,
    /// Nothing, in the time it had.
    TimedOut,
}

/// A connection that can no longer be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// For people.
    pub reason: String,
    /// Whether the peer closed the connection: then it takes no more messages, and its counters are final.
    pub peer_closed: bool,
}

impl fmt::Display for Death {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason)
    }
}

/// One connection over shared memory.
pub struct Connection {
    id: u64,
    limits: Limits,
    peer: PeerCredentials,
    trusted: bool,
    own_base: Arc<Segment>,
    peer_base: Arc<Segment>,
    sending: Mutex<Sending>,
    arrived: Mutex<Vec<Option<Arc<Segment>>>>,
    arrival: Condvar,
    pool: Arc<Pool>,
    socket: Socket,
    send_order: Mutex<()>,
    reader: Mutex<FrameReader>,
    stops: Box<[Stop]>,
    answers: Mutex<[Option<bool>; MAX_LANES as usize]>,
    answered: Condvar,
    going_away: std::sync::atomic::AtomicBool,
    /// Lanes that the peer has opened, one bit each.
    opened: AtomicU64,
    death: OnceLock<Death>,
    events: Box<dyn Events>,
}

/// Memory that we send from.
struct Sending {
    arena: Arena,
    segments: Vec<Arc<Segment>>,
    /// Bytes of all segments.
    bytes: u64,
    /// Bytes that all segments may have.
    cap: u64,
}

/// What a connection is made of, when the two sides have shaken hands.
pub(crate) struct Parts {
    pub(crate) limits: Limits,
    pub(crate) peer: PeerCredentials,
    pub(crate) trusted: bool,
    pub(crate) own_base: Segment,
    pub(crate) peer_base: Segment,
    pub(crate) socket: Socket,
    pub(crate) reader: FrameReader,
    pub(crate) events: Box<dyn Events>,
}

impl Connection {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Parts { limits, peer, trusted, own_base, peer_base, socket, reader, events } = parts;
        let own_base = Arc::new(own_base);
        let peer_base = Arc::new(peer_base);
        let mut arena = Arena::default();
        arena.add_segment(0, ARENA_OFFSET as u64, BASE_LEN as u64);
        let sending = Sending {
            arena,
            segments: vec![Arc::clone(&own_base)],
            bytes: BASE_LEN as u64,
            cap: limits.send_max.saturating_mul(4).max(1 << 22),
        };
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            limits,
            peer,
            trusted,
            sending: Mutex::new(sending),
            arrived: Mutex::new(vec![Some(Arc::clone(&peer_base))]),
            arrival: Condvar::new(),
            own_base,
            peer_base,
            pool: Arc::default(),
            socket,
            send_order: Mutex::new(()),
            reader: Mutex::new(reader),
            stops: (0..MAX_LANES).map(|_| Stop::default()).collect(),
            answers: Mutex::new([None; MAX_LANES as usize]),
            answered: Condvar::new(),
            going_away: false.into(),
            opened: AtomicU64::new(0),
            death: OnceLock::new(),
            events,
        })
    }

    /// Tells this connection from all others of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the two sides agreed on.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerCredentials {
        self.peer
    }

    /// Whether the peer is in our trust set: its large messages are read in place.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Why the connection ended, if it has.
    pub fn death(&self) -> Option<&Death> {
        self.death.get()
    }

    /// Whether a message that was just taken may be run. No, if the connection has ended: the peer may have been told
    /// that the message was not taken.
    ///
    /// Stands after the store of `taken`; partner: the barrier in [`Connection::die`], after its stores of the stop
    /// words, which reaches every thread, so that this side needs none.
    #[inline(always)]
    pub(crate) fn may_run(&self, lane: u32) -> bool {
        compiler_fence(Ordering::SeqCst);
        !self.stop(lane).is_some_and(Stop::is_set) || self.death.get().is_none()
    }

    /// Whether the peer said that it takes no new calls.
    pub fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    /// Ends the connection. The first reason stays; every wait of every lane ends.
    pub fn die(&self, death: Death) {
        if self.death.set(death).is_err() {
            return;
        }
        for stop in &self.stops {
            stop.set();
        }
        // A lane that takes a message now either shows the peer that it did, before the peer can see the end, or sees
        // the end itself and runs nothing (`Connection::may_run`).
        membarrier::everywhere();
        self.socket.shutdown();
        // Whoever checks `death` and then waits holds the lock in between, so none of them misses this.
        drop(self.answers.lock());
        self.answered.notify_all();
        drop(self.arrived.lock());
        self.arrival.notify_all();
        self.events.closed(self);
    }

    /// Ends the connection because the peer broke the protocol.
    pub(crate) fn poison(&self, what: &dyn fmt::Display) -> Death {
        tracing::warn!(peer = ?self.peer, "connection poisoned: {what}");
        self.die(Death { reason: format!("the peer broke the protocol: {what}"), peer_closed: false });
        self.last_words()
    }

    /// Why the connection ended; for use once it has.
    pub(crate) fn last_words(&self) -> Death {
        self.death.get().cloned().unwrap_or(Death { reason: "closed".into(), peer_closed: false })
    }

    /// Tells the peer that no new calls are taken, and ends the waits of the lanes that have nothing to do; what was
    /// published is still served.
    pub fn drain(&self) {
        self.tell(Header::new(Kind::GoAway));
        for stop in &self.stops {
            stop.set();
        }
    }

    /// Asks the peer to serve `lane`, and waits for its answer.
    ///
    /// # Errors
    /// [`Death`] if the connection ends first.
    pub fn open_lane(&self, lane: u32, until: &mut Until) -> Result<LaneAnswer, Death> {
        if let Some(answer) = self.answers.lock().get_mut(lane as usize) {
            *answer = None;
        }
        let mut header = Header::new(Kind::LaneOpen);
        header.block = lane;
        self.tell(header);
        let mut answers = self.answers.lock();
        loop {
            if self.death.get().is_some() {
                return Err(self.last_words());
            }
            if let Some(Some(answer)) = answers.get(lane as usize) {
                return Ok(if *answer { LaneAnswer::Served } else { LaneAnswer::Refused });
            }
            match until.left() {
                Some(left) if left.is_zero() => return Ok(LaneAnswer::TimedOut),
                Some(left) => drop(self.answered.wait_for(&mut answers, left)),
                None => self.answered.wait(&mut answers),
            }
        }
    }

    /// The bare rings of `lane`, both at position zero, without a protocol; `None` if there is no such lane.
    pub fn rings(&self, lane: u32) -> Option<(Producer<Side>, Consumer<Side>)> {
        let (own, peer) = self.sides(lane)?;
        Some((Producer::new(own.clone(), peer.clone()), Consumer::new(own, peer)))
    }

    /// The two sides of `lane`: ours, and the peer's.
    pub(crate) fn sides(&self, lane: u32) -> Option<(Side, Side)> {
        Some((Side::new(&self.own_base, lane)?, Side::new(&self.peer_base, lane)?))
    }

    /// The word that ends the waits of `lane`.
    pub fn stop(&self, lane: u32) -> Option<&Stop> {
        self.stops.get(lane as usize)
    }

    /// Encodes a value for the peer: into the bytes of `slot`, or into lent memory. With `recursive`, what was
    /// encoded is validated as the peer will do it, so that it refuses nothing that we sent.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was sent, and the slot is as good as before.
    #[inline(always)]
    pub(crate) fn encode<T: Encode>(
        self: &Arc<Self>,
        value: &T,
        recursive: bool,
        until: &mut Until,
        slot: &Slot,
    ) -> Result<Encoded, EncodeError> {
        let inline = Buffer { start: slot.payload_start(), capacity: INLINE };
        let mut growth = Growth { connection: self, block: None, until };
        // SAFETY: the slot was claimed and not yet published, so this thread alone writes to it; its payload has
        // INLINE bytes, all in atomics, so writing through a shared reference is allowed. The peer maps it read-only
        // and looks at it after the stamp.
        let length = unsafe { encode(value, recursive, inline, &mut growth) }?;
        // An inline length always fits; a longer one was checked against `send_max` while it grew.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        match growth.block {
            None => Ok(Encoded { length, flags: 0, block: 0 }),
            Some(mut block) => {
                block.shrink(length);
                let (id, at) = block.lend();
                slot.write_payload(&at.to_words());
                Ok(Encoded { length, flags: FLAG_BLOCK, block: id })
            }
        }
    }

    /// Completes a message whose slot's payload lies in it.
    ///
    /// # Errors
    /// [`BadBlock`] if it names memory that the peer does not have.
    #[inline(always)]
    pub(crate) fn receive(&self, header: Header, message: &mut Message) -> Result<(), Box<BadBlock>> {
        message.set_inline(header.length);
        if header.flags & FLAG_BLOCK == 0 { Ok(()) } else { self.receive_block(header, message) }
    }

    #[inline(never)]
    fn receive_block(&self, header: Header, message: &mut Message) -> Result<(), Box<BadBlock>> {
        let at = BlockRef::from_words(message.words_mut());
        let (id, length) = (header.block, header.length);
        let bad = |what| Box::new(BadBlock { what, id, at, length });
        if id >= BLOCKS {
            return Err(bad("id"));
        }
        if u64::from(length) > self.limits.receive_max {
            return Err(bad("length above max_message"));
        }
        if !at.offset.is_multiple_of(UNIT) {
            return Err(bad("offset not a multiple of 64"));
        }
        let segment = self.segment(at.segment).ok_or_else(|| bad("segment"))?;
        let start = segment.range(at.offset, u64::from(length)).ok_or_else(|| bad("offset and length"))?;
        let release_to = Arc::clone(&self.own_base);
        let loan = BlockLoan { start, length: length as usize, _segment: segment, release_to, id, at };
        message.admit(loan, self.trusted, &self.pool);
        Ok(())
    }

    fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        let id = id as usize;
        let mut arrived = self.arrived.lock();
        loop {
            if let Some(segment) = arrived.get(id) {
                return segment.clone();
            }
            if self.death.get().is_some() || self.arrival.wait_for(&mut arrived, ANNOUNCEMENT).timed_out() {
                return None;
            }
        }
    }

    fn handle(self: &Arc<Self>, frame: &Frame) -> Result<(), String> {
        let header = frame.header;
        match header.kind {
            Kind::SegmentAdd => self.add_peer_segment(frame),
            Kind::LaneOpen | Kind::LaneReset if header.block >= MAX_LANES => {
                Err(format!("no such lane: {}", header.block))
            }
            Kind::LaneOpen if header.call_id == 0 => {
                // A caller whose first question timed out asks again: the lane has its thread already.
                let bit = 1 << header.block;
                let served = self.opened.load(Ordering::Relaxed) & bit != 0
                    || header.block < self.limits.lanes && self.events.lane_opened(self, header.block);
                if served {
                    self.opened.fetch_or(bit, Ordering::Relaxed);
                }
                let mut answer = Header::new(if served { Kind::LaneOpen } else { Kind::LaneReset });
                answer.call_id = 1;
                answer.block = header.block;
                self.tell(answer);
                Ok(())
            }
            Kind::LaneOpen | Kind::LaneReset => {
                let mut answers = self.answers.lock();
                if let Some(answer) = answers.get_mut(header.block as usize) {
                    *answer = Some(header.kind == Kind::LaneOpen);
                }
                self.answered.notify_all();
                Ok(())
            }
            Kind::GoAway => {
                self.going_away.store(true, Ordering::Relaxed);
                Ok(())
            }
            Kind::Ping => Ok(()),
            other => Err(format!("{other:?} has no place on the socket")),
        }
    }

    fn add_peer_segment(&self, frame: &Frame) -> Result<(), String> {
        let fd = self.reader.lock().take_descriptor().ok_or("a segment came without its descriptor")?;
        let length = frame.payload.as_slice().try_into().map(u64::from_le_bytes);
        let length = length.map_err(|_| "a segment came without its length")?;
        let mut arrived = self.arrived.lock();
        if arrived.len() >= MAX_SEGMENTS || arrived.len() != frame.header.block as usize {
            return Err(format!("segment {} out of turn", frame.header.block));
        }
        let cap = self.limits.receive_max.saturating_mul(8).max(1 << 23);
        let held: u64 = arrived.iter().flatten().map(|segment| segment.len() as u64).sum();
        if length > cap.saturating_sub(held) {
            return Err(format!("a segment of {length} bytes beside {held} is above {cap}"));
        }
        let segment = Segment::accept(fd, length).map_err(|error| error.to_string())?;
        arrived.push(Some(Arc::new(segment)));
        self.arrival.notify_all();
        Ok(())
    }

    /// Sends a frame that needs no payload; a socket that does not take it ends the connection.
    fn tell(&self, header: Header) {
        let order = self.send_order.lock();
        let sent = self.socket.send(header, &[], &[]);
        drop(order);
        if let Err(error) = sent {
            self.die(Death { reason: format!("the peer is gone: {error}"), peer_closed: false });
        }
    }

    /// Takes memory to send from, growing the arena by a segment if there is none.
    fn allocate(&self, bytes: u64) -> Result<Option<(Block, NonNull<u8>)>, EncodeError> {
        let mut sending = self.sending.lock();
        let released = |id| self.peer_base.release_word(id).map_or(0, |word| word.load(Ordering::Acquire));
        let mut block = sending.arena.allocate(bytes, released);
        if block.is_none() && self.grow_arena(&mut sending, bytes)? {
            block = sending.arena.allocate(bytes, released);
        }
        let Some(block) = block else { return Ok(None) };
        let segment = sending.segments.get(block.segment as usize);
        let start = segment.and_then(|segment| segment.range(block.offset, block.capacity));
        match start {
            Some(start) => Ok(Some((block, start))),
            None => Err(EncodeError::NoMemory { cap: sending.cap }),
        }
    }

    /// Adds a segment with room for `bytes`. False if the cap leaves none.
    fn grow_arena(&self, sending: &mut Sending, bytes: u64) -> Result<bool, EncodeError> {
        let left = sending.cap.saturating_sub(sending.bytes);
        let last = sending.segments.last().map_or(0, |segment| segment.len() as u64);
        let wanted = bytes.checked_next_power_of_two().unwrap_or(bytes).max(last.saturating_mul(2));
        let length = if wanted <= left { wanted } else { bytes.next_multiple_of(4096) };
        if length > left || sending.segments.len() >= MAX_SEGMENTS {
            return Ok(false);
        }
        let Ok(size) = usize::try_from(length) else { return Ok(false) };
        let (segment, fd) = match Segment::create(size) {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, "the arena cannot grow");
                return Ok(false);
            }
        };
        let id = u32::try_from(sending.segments.len()).unwrap_or(u32::MAX);
        let mut header = Header::new(Kind::SegmentAdd);
        header.block = id;
        let order = self.send_order.lock();
        let sent = self.socket.send(header, &length.to_le_bytes(), &[fd.as_raw_fd()]);
        drop(order);
        if let Err(error) = sent {
            self.die(Death { reason: format!("the peer is gone: {error}"), peer_closed: false });
            return Err(EncodeError::NoMemory { cap: sending.cap });
        }
        tracing::debug!(segment = id, length, "arena grown");
        sending.arena.add_segment(id, 0, length);
        sending.bytes += length;
        sending.segments.push(Arc::new(segment));
        Ok(true)
    }
}

/// Segments that one direction may have.
const MAX_SEGMENTS: usize = 256;

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("limits", &self.limits)
            .field("trusted", &self.trusted)
            .field("death", &self.death.get())
            .finish_non_exhaustive()
    }
}

/// The watcher's end of a connection.
#[derive(Debug)]
pub(crate) struct Watched(pub(crate) Arc<Connection>);

impl Source for Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    fn ready(&self) -> Next {
        let connection = &self.0;
        loop {
            let frame = connection.reader.lock().next(&connection.socket);
            match frame {
                Ok(Some(frame)) => {
                    if let Err(what) = connection.handle(&frame) {
                        connection.poison(&what);
                        return Next::Done;
                    }
                }
                Ok(None) if connection.death.get().is_some() => return Next::Done,
                Ok(None) => return Next::Keep,
                Err(error) => {
                    let peer_closed = matches!(error, ReadError::Closed);
                    connection.die(Death { reason: error.to_string(), peer_closed });
                    return Next::Done;
                }
            }
        }
    }
}

/// A slot that names memory which the peer does not have.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("bad block ({what}): id {id}, {length} bytes, {at:?}")]
pub struct BadBlock {
    what: &'static str,
    id: u32,
    length: u32,
    at: BlockRef,
}

/// What a header says about a payload that was encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoded {
    pub(crate) length: u32,
    pub(crate) flags: u8,
    pub(crate) block: u32,
}

/// A block that goes back to its arena when dropped.
#[derive(Debug)]
struct OwnedBlock {
    connection: Arc<Connection>,
    /// `None` once it was lent.
    block: Option<Block>,
}

impl OwnedBlock {
    fn shrink(&mut self, length: u32) {
        if let Some(block) = &mut self.block {
            self.connection.sending.lock().arena.shrink(block, length.into());
        }
    }

    #[inline(never)]
    fn lend(mut self) -> (u32, BlockRef) {
        let Some(block) = self.block.take() else {
            return (0, BlockRef { segment: 0, generation: 0, offset: 0 });
        };
        let at = BlockRef { segment: block.segment, generation: block.generation, offset: block.offset };
        let id = block.id;
        self.connection.sending.lock().arena.lend(block);
        (id, at)
    }
}

impl Drop for OwnedBlock {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.connection.sending.lock().arena.free(block);
        }
    }
}

/// Finds blocks for a message that grows.
struct Growth<'a> {
    connection: &'a Arc<Connection>,
    block: Option<OwnedBlock>,
    until: &'a mut Until,
}

// SAFETY: `grow` returns the memory of a block that it owns until it is dropped or asked again; no other message has
// it, by the arena's promise, and the peer was not told of it.
unsafe impl Grow for Growth<'_> {
    fn grow(&mut self, old: Buffer, used: usize, needed: usize) -> Result<Buffer, EncodeError> {
        let max = self.connection.limits.send_max;
        if needed as u64 > max {
            return Err(EncodeError::TooLarge { needed: needed as u64, max });
        }
        let roomy = needed.saturating_add(HEADROOM).next_power_of_two();
        let mut pause = Duration::from_micros(20);
        let (block, start) = loop {
            if let Some(found) = self.connection.allocate(roomy as u64)? {
                break found;
            }
            if let Some(found) = self.connection.allocate(needed.saturating_add(HEADROOM) as u64)? {
                break found;
            }
            // Everything is lent. The peer gives it back without a word, so look again, ever more rarely.
            if self.until.is_over() || self.connection.death.get().is_some() {
                return Err(EncodeError::NoMemory { cap: self.connection.sending.lock().cap });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        };
        let capacity = usize::try_from(block.capacity).unwrap_or(usize::MAX);
        // SAFETY: the new block has room for `needed >= used` bytes, and the old buffer has `used` of them; they are
        // different memory.
        unsafe { core::ptr::copy_nonoverlapping(old.start.as_ptr(), start.as_ptr(), used) };
        self.block = Some(OwnedBlock { connection: Arc::clone(self.connection), block: Some(block) });
        Ok(Buffer { start, capacity })
    }
}

/// A block of the peer that a message of ours lies in.
struct BlockLoan {
    start: NonNull<u8>,
    length: usize,
    _segment: Arc<Segment>,
    release_to: Arc<Segment>,
    id: u32,
    at: BlockRef,
}

// SAFETY: the pointer leads into a mapping that the loan keeps, and is only read.
unsafe impl Send for BlockLoan {}
// SAFETY: the same.
unsafe impl Sync for BlockLoan {}

// SAFETY: `receive_block` checked that the bytes lie inside the segment, whose mapping the loan keeps; its offset is
// a multiple of 64, and this process maps the segment read-only.
unsafe impl Loan for BlockLoan {
    fn bytes(&self) -> (*const u8, usize) {
        (self.start.as_ptr(), self.length)
    }
}

impl Drop for BlockLoan {
    fn drop(&mut self) {
        if let Some(word) = self.release_to.release_word(self.id) {
            // Release: our reads of the block come before; pairs with the Acquire load in `Connection::allocate`.
            word.store(self.at.generation, Ordering::Release);
        }
    }
}

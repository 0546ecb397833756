//! Payloads of a connection: encoded into a slot or into a block of our arena, read from a slot or from the peer's.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::Connection;
use crate::message::{Buffer, Draft, Encode, EncodeError, Grow, Held, Invalid, Loan, Message, Part, encode};
use crate::shm::arena::{Arena, BLOCKS, Block, UNIT};
use crate::shm::segment::Segment;
use crate::slot::{BlockRef, FLAG_BLOCK, Header, INLINE, Slot};
use crate::sync;
use crate::sys::fork::Generation;
use crate::sys::futex::Until;

/// Bytes of a copy above which somebody looks later whether its buffer is still needed.
const WARM: u32 = 1 << 16;
/// Room that a growing message gets beyond what it asked for, so that its root does not make it move again.
const HEADROOM: usize = 512;

impl Connection {
    /// Encodes a value for the peer: into the bytes of `slot`, or into lent memory. With `recursive`, what was
    /// encoded is validated as the peer will do it, so that it refuses nothing that we sent. When nothing else can fail,
    /// what has to be done `before` it is published, also with the value.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was sent, and the slot is as good as before.
    #[inline(always)]
    pub(crate) fn encode<V: Deref<Target: Encode + Sized>>(
        self: &Arc<Self>,
        value: V,
        recursive: bool,
        until: &mut Until,
        slot: &Slot,
        before: impl FnOnce(&mut Until, V) -> Result<(), EncodeError>,
    ) -> Result<Encoded, EncodeError> {
        let inline = Buffer { start: slot.payload_start(), capacity: INLINE };
        let mut growth = Growth { connection: self, block: None, until, is_exact: false };
        // SAFETY: the slot was claimed and not yet published, so this thread alone writes to it; its payload has
        // INLINE bytes, all in atomics, so writing through a shared reference is allowed. The peer maps it read-only
        // and looks at it after the stamp.
        let length = unsafe { encode(&*value, recursive, inline, &mut growth) }?;
        let (needed, max) = (length as u64, self.limits.send_max);
        // `send_max` is far below 4 GiB, so only what is refused next does not fit.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let Growth { block, until, .. } = growth;
        match block {
            None => before(until, value).map(|()| Encoded { length, flags: 0, block: 0 }),
            // A block may be larger than what the peer takes.
            Some(_) if needed > max => Err(EncodeError::TooLarge { needed, max }),
            Some(mut block) => {
                block.shrink(length);
                before(until, value)?;
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
    pub(crate) fn receive(
        self: &Arc<Self>,
        header: Header,
        message: &mut Message,
    ) -> Result<(), Box<BadBlock>> {
        message.set_inline(header.length);
        match header.flags & FLAG_BLOCK {
            0 => Ok(()),
            _ => {
                let at = BlockRef::from_words(message.words_mut());
                self.receive_block(header.block, header.length, at, Part::Message, message)
            }
        }
    }

    /// A message has come over a stream. What it lies in is not to stay for ever.
    pub(crate) fn received(&self, length: u32) {
        if length > WARM {
            self.look_later();
        }
    }

    /// Room for values on the heap that are made of a message, to be dropped after them. `None` if the message is small.
    ///
    /// # Errors
    /// [`Invalid`] says whose room is all taken.
    #[inline(always)]
    pub fn hold_values_of(&self, message: &Message) -> Result<Option<Held>, Invalid> {
        message.hold(&self.pool)
    }

    /// A message that lies in a block of the peer's.
    ///
    /// # Errors
    /// [`BadBlock`] if it names memory that the peer does not have.
    #[inline(never)]
    pub(crate) fn receive_block(
        self: &Arc<Self>,
        id: u32,
        length: u32,
        at: BlockRef,
        part: Part,
        message: &mut Message,
    ) -> Result<(), Box<BadBlock>> {
        let loan = self.loan(id, length, at)?;
        message.admit(loan, self.trusted, part, &self.pool);
        if length > WARM && !message.is_in_place() {
            self.look_later();
        }
        Ok(())
    }

    /// Gives back, unread, what a message of the peer's lies in, if that is a block. Else its payload is in the message.
    ///
    /// # Errors
    /// As [`Connection::receive_block`].
    pub(crate) fn receive_late(
        self: &Arc<Self>,
        header: Header,
        message: &mut Message,
    ) -> Result<(), Box<BadBlock>> {
        if header.flags & FLAG_BLOCK == 0 {
            self.received(header.length);
            return Ok(());
        }
        let at = BlockRef::from_words(message.words_mut());
        self.loan(header.block, header.length, at).map(drop)
    }

    /// A block of the peer's, given back when the loan is dropped.
    pub(super) fn loan(
        self: &Arc<Self>,
        id: u32,
        length: u32,
        at: BlockRef,
    ) -> Result<BlockLoan, Box<BadBlock>> {
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
        let shared = self.shared.as_ref().ok_or_else(|| bad("no memory is shared"))?;
        let segment = self.segment(at.segment).ok_or_else(|| bad("segment"))?;
        let start = segment.range(at.offset, u64::from(length)).ok_or_else(|| bad("offset and length"))?;
        let release_to = Arc::clone(&shared.own_base);
        let process = self.process;
        Ok(BlockLoan { start, length: length as usize, _segment: segment, release_to, id, at, process })
    }

    /// Encodes a value for a stream: into `draft`; or, if it is large and memory is shared, into lent memory.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub(crate) fn encode_frame<T: Encode>(
        self: &Arc<Self>,
        value: &T,
        recursive: bool,
        draft: &mut Draft,
    ) -> Result<EncodedFrame, EncodeError> {
        let start = draft.start();
        let mut spill = Spill { connection: self, draft, block: None };
        // SAFETY: the draft is ours alone, and nobody else writes to it.
        let length = unsafe { encode(value, recursive, start, &mut spill) }?;
        let (needed, max) = (length as u64, self.limits.send_max);
        if needed > max {
            return Err(EncodeError::TooLarge { needed, max });
        }
        let mut block = spill.block;
        // `send_max` is far below 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if let Some(block) = &mut block {
            block.shrink(length);
        }
        Ok(EncodedFrame { length, block })
    }

    fn with_arena<T>(&self, work: impl FnOnce(&mut Arena) -> T) -> Option<T> {
        self.shared.as_ref().map(|shared| work(&mut shared.sending.lock().arena))
    }

    /// A block for `bytes`, as soon as there is one; `None` if no memory is shared.
    ///
    /// # Errors
    /// [`EncodeError`] if there was none until the time was over.
    pub(super) fn block_for(
        self: &Arc<Self>,
        bytes: usize,
        until: &mut Until,
    ) -> Result<Option<(OwnedBlock, NonNull<u8>)>, EncodeError> {
        if self.shared.is_none() {
            return Ok(None);
        }
        let mut growth = Growth { connection: self, block: None, until, is_exact: true };
        let start = NonNull::dangling();
        let Buffer { start, .. } = growth.grow(Buffer { start, capacity: 0 }, 0, bytes.max(1))?;
        Ok(growth.block.map(|block| (block, start)))
    }

    /// Takes memory to send from, growing the arena by a segment if there is none.
    fn allocate(&self, bytes: u64) -> Result<Option<(Block, NonNull<u8>)>, EncodeError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let mut sending = shared.sending.lock();
        let released = |id| shared.peer_base.release_word(id).map_or(0, |word| word.released());
        let mut block = sending.arena.allocate(bytes, released);
        if block.is_none() && !sending.arena.has_ids() {
            return Err(EncodeError::TooMany { max: BLOCKS });
        }
        if block.is_none() && self.grow_arena(shared, &mut sending, bytes)? {
            block = sending.arena.allocate(bytes, released);
        }
        let Some(block) = block else { return Ok(None) };
        let segment = sending.segment(block.segment);
        let start = segment.and_then(|segment| segment.range(block.offset, block.capacity));
        match start {
            Some(start) => Ok(Some((block, start))),
            None => Err(self.no_memory()),
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

/// A message for a stream. A block that it lies in goes back unless it is sent.
#[derive(Debug)]
#[must_use]
pub(crate) struct EncodedFrame {
    length: u32,
    block: Option<OwnedBlock>,
}

impl EncodedFrame {
    /// What is to be sent: the header, and the payload or where it lies.
    pub(crate) fn bytes<'a>(&self, header: Header, draft: &'a mut Draft) -> &'a [u8] {
        let header = Header { length: self.length, ..header };
        let Some((id, at)) = self.block.as_ref().and_then(OwnedBlock::place) else {
            // SAFETY: `encode` wrote so many bytes of payload into the draft; since then at most a header was written before them.
            return unsafe { draft.finish(header.to_frame(), self.length as usize) };
        };
        let header = Header { flags: header.flags | FLAG_BLOCK, block: id, ..header };
        draft.fill(header.to_frame(), &at.to_bytes())
    }

    /// Bytes of its payload.
    pub(crate) fn length(&self) -> u32 {
        self.length
    }

    /// It is on its way: its block is the receiver's.
    pub(crate) fn sent(self) {
        if let Some(block) = self.block {
            block.lend();
        }
        sync::sent();
    }
}

/// A block that goes back to its arena when dropped.
#[derive(Debug)]
pub(super) struct OwnedBlock {
    connection: Arc<Connection>,
    /// `None` once it was lent.
    block: Option<Block>,
}

impl OwnedBlock {
    pub(super) fn shrink(&mut self, length: u32) {
        if let Some(block) = &mut self.block {
            self.connection.with_arena(|arena| arena.shrink(block, length.into()));
        }
    }

    /// Whether it is of this connection's arena.
    pub(super) fn is_of(&self, connection: &Arc<Connection>) -> bool {
        Arc::ptr_eq(&self.connection, connection)
    }

    /// Its id, and what a slot says of it.
    pub(super) fn place(&self) -> Option<(u32, BlockRef)> {
        self.block.as_ref().map(|Block { id, segment, generation, offset, .. }| {
            (*id, BlockRef { segment: *segment, generation: *generation, offset: *offset })
        })
    }

    #[inline(never)]
    pub(super) fn lend(mut self) -> (u32, BlockRef) {
        let place = self.place().unwrap_or((0, BlockRef { segment: 0, generation: 0, offset: 0 }));
        let Some(block) = self.block.take() else { return place };
        self.connection.with_arena(|arena| arena.lend(block));
        place
    }
}

impl Drop for OwnedBlock {
    fn drop(&mut self) {
        // In a forked child it is its parent's.
        if let Some(block) = self.block.take()
            && self.connection.process.is_current()
        {
            self.connection.with_arena(|arena| arena.free(block));
        }
    }
}

/// Finds blocks for a message that grows.
struct Growth<'a> {
    connection: &'a Arc<Connection>,
    block: Option<OwnedBlock>,
    until: &'a mut Until,
    /// It will not grow again.
    is_exact: bool,
}

// SAFETY: `grow` returns the memory of a block that it owns until it is dropped or asked again; no other message has
// it, by the arena's promise, and the peer was not told of it.
unsafe impl Grow for Growth<'_> {
    fn grow(&mut self, old: Buffer, used: usize, needed: usize) -> Result<Buffer, EncodeError> {
        let max = self.connection.limits.send_max;
        if needed as u64 > max {
            return Err(EncodeError::TooLarge { needed: needed as u64, max });
        }
        let least = if self.is_exact { needed } else { needed.saturating_add(HEADROOM) };
        let roomy = if self.is_exact { needed } else { least.next_power_of_two() };
        let mut pause = Duration::from_micros(20);
        let (block, start) = loop {
            let mut lacking = match self.connection.allocate(roomy as u64) {
                Ok(Some(found)) => break found,
                other => other.err(),
            };
            if least < roomy {
                match self.connection.allocate(least as u64) {
                    Ok(Some(found)) => break found,
                    other => lacking = other.err().or(lacking),
                }
            }
            let lent = self.connection.with_arena(|arena| arena.lent()).unwrap_or(0);
            let lacking = match lacking {
                None => self.connection.no_memory(),
                // The system gives no more, but the peer may give something back.
                Some(lacking @ EncodeError::System(_)) if lent > 0 => lacking,
                Some(lacking) => return Err(lacking),
            };
            // What is lent comes back without a word, so look again, ever more rarely.
            if self.until.is_over() || self.connection.death().is_some() {
                return Err(lacking);
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

/// Finds room for a message that is to go over a stream: a block, if it is large and one can be had, else the heap.
struct Spill<'a> {
    connection: &'a Arc<Connection>,
    draft: &'a mut Draft,
    block: Option<OwnedBlock>,
}

// SAFETY: `grow` returns the memory of a block that it owns until it is dropped or asked again, and that no other message
// has; or what `Draft::grow` returns, which is as good.
unsafe impl Grow for Spill<'_> {
    fn grow(&mut self, old: Buffer, used: usize, needed: usize) -> Result<Buffer, EncodeError> {
        let max = self.connection.limits.send_max;
        if needed as u64 > max {
            return Err(EncodeError::TooLarge { needed: needed as u64, max });
        }
        if needed as u64 >= self.connection.limits.memory_from && self.connection.shared.is_some() {
            let enough = needed.saturating_add(HEADROOM);
            let found = [enough.next_power_of_two(), enough].into_iter().find_map(|bytes| {
                // Whatever is lacking: the socket takes it too.
                self.connection.allocate(bytes as u64).ok().flatten()
            });
            if let Some((block, start)) = found {
                let capacity = usize::try_from(block.capacity).unwrap_or(usize::MAX);
                // SAFETY: the new block has room for `needed >= used` bytes, and the old buffer has `used` of them; they
                // are different memory.
                unsafe { core::ptr::copy_nonoverlapping(old.start.as_ptr(), start.as_ptr(), used) };
                self.block = Some(OwnedBlock { connection: Arc::clone(self.connection), block: Some(block) });
                return Ok(Buffer { start, capacity });
            }
        }
        // SAFETY: the old buffer has `used` bytes that were written, and is a block or the draft's.
        let buffer = unsafe { self.draft.grow(old, used, needed) }?;
        self.block = None;
        if needed > WARM as usize {
            self.connection.look_later();
        }
        Ok(buffer)
    }
}

/// A block of the peer that a message of ours lies in.
pub(super) struct BlockLoan {
    start: NonNull<u8>,
    length: usize,
    _segment: Arc<Segment>,
    release_to: Arc<Segment>,
    id: u32,
    at: BlockRef,
    process: Generation,
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
        // In a forked child the message is its parent's, who may still read it.
        if self.process.is_current()
            && let Some(word) = self.release_to.release_word(self.id)
        {
            word.release(self.at.generation);
        }
    }
}

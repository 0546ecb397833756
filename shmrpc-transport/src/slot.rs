//! The bytes of a slot, and of everything else that two processes see of one lane.
//!
//! ```text
//!  0        4        8        10    11    12       16       20         24                        64
//!  +--------+--------+--------+-----+-----+--------+--------+----------+-------------------------+
//!  | stamp  | call id| method | kind|flags| length | block  |timeout_ms| payload, 40 bytes       |
//!  +--------+--------+--------+-----+-----+--------+--------+----------+-------------------------+
//! ```
//!
//! All numbers are little-endian. A stream frame has the same 24 bytes of header, with zero for the stamp, and then
//! `length` bytes of payload. ARCHITECTURE.md is the page that this file follows.

use crate::sync::{Ordering, Wide, Word, published};

/// Slots in one ring. A power of two.
pub const SLOTS: u32 = if cfg!(loom) { 2 } else { 128 };
/// Payload bytes that travel inside a slot.
pub const INLINE: usize = 40;
/// Words that hold the inline payload.
pub(crate) const INLINE_WORDS: usize = INLINE / 8;
/// Bytes of a header, in a slot and in a stream frame alike.
pub const HEADER: usize = 24;

/// What a slot or a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame on a socket, either way.
    Hello = 1,
    /// Opens a lane; answered by the same kind.
    LaneOpen = 2,
    /// Closes or refuses a lane.
    LaneReset = 3,
    /// Announces a further segment of the sender's arena; its descriptor travels beside the frame.
    SegmentAdd = 4,
    /// Takes a segment back; both sides unmap it.
    SegmentRetire = 5,
    /// A call that wants a reply.
    Request = 6,
    /// A call that wants none.
    OneWay = 7,
    /// The result of a request.
    Reply = 8,
    /// The service's own error.
    ServiceError = 9,
    /// The call failed before or outside its handler; the payload says how.
    Failure = 10,
    /// The caller no longer waits.
    Cancel = 11,
    /// One item of a stream.
    StreamItem = 12,
    /// The last of a stream.
    StreamEnd = 13,
    /// The receiver of a stream wants no more.
    StopSending = 14,
    /// The receiver of a stream allows more items.
    Credit = 15,
    /// No new calls are taken; those in flight finish.
    GoAway = 16,
    /// Asks for a sign of life.
    Ping = 17,
    /// Descriptors of a message that is about to be published on a lane of rings travel beside the frame.
    Descriptors = 18,
}

impl Kind {
    /// Reads the byte that a peer wrote.
    pub fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 18] = [
            Kind::Hello,
            Kind::LaneOpen,
            Kind::LaneReset,
            Kind::SegmentAdd,
            Kind::SegmentRetire,
            Kind::Request,
            Kind::OneWay,
            Kind::Reply,
            Kind::ServiceError,
            Kind::Failure,
            Kind::Cancel,
            Kind::StreamItem,
            Kind::StreamEnd,
            Kind::StopSending,
            Kind::Credit,
            Kind::GoAway,
            Kind::Ping,
            Kind::Descriptors,
        ];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// Flag: the payload lies in a block; the slot's payload says where ([`BlockRef`]).
pub const FLAG_BLOCK: u8 = 1;
/// Flag: a metadata block precedes the payload. Reserved: refused by this version.
pub const FLAG_EXT: u8 = 2;
/// Descriptors that one message may have: what the upper four flags can count.
pub const DESCRIPTORS_MAX: usize = 15;
/// Where they are counted.
const DESCRIPTORS: u8 = 0xf0;

/// A header in private memory: of a slot or of a stream frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Names the call within its lane; replies repeat it.
    pub call_id: u32,
    /// Index that the server gave the method for this connection.
    pub method: u16,
    /// What this is.
    pub kind: Kind,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Payload bytes.
    pub length: u32,
    /// Block id, if [`FLAG_BLOCK`] is set; else zero. Frames that open or reset a lane: the lane. Frames that add or
    /// retire a segment: the segment.
    pub block: u32,
    /// Time the caller will wait from now, in milliseconds; 0 means for ever.
    pub timeout_ms: u32,
}

/// A header that no correct peer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The kind byte names nothing.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Flags outside this version.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    /// An inline payload longer than a slot holds.
    #[error("inline length {0} is above {INLINE}")]
    InlineLength(u32),
    /// The stamp is neither this lap's nor the last one's.
    #[error("stamp {found} where {expected} was due")]
    Stamp {
        /// What the slot holds.
        found: u32,
        /// What the receiver waits for.
        expected: u32,
    },
}

impl Header {
    /// A header of `kind` with everything else zero.
    pub fn new(kind: Kind) -> Self {
        Self { call_id: 0, method: 0, kind, flags: 0, length: 0, block: 0, timeout_ms: 0 }
    }

    /// Descriptors that belong to the message.
    #[inline(always)]
    pub fn descriptors(self) -> usize {
        usize::from(self.flags >> DESCRIPTORS.trailing_zeros())
    }

    /// The same with so many descriptors, [`DESCRIPTORS_MAX`] at most.
    #[inline(always)]
    pub fn with_descriptors(self, count: usize) -> Self {
        let count = u8::try_from(count.min(DESCRIPTORS_MAX)).unwrap_or(0);
        Self { flags: self.flags & !DESCRIPTORS | count << DESCRIPTORS.trailing_zeros(), ..self }
    }

    #[inline(always)]
    fn route(self) -> u64 {
        u64::from(self.method)
            | (self.kind as u64) << 16
            | u64::from(self.flags) << 24
            | u64::from(self.length) << 32
    }

    #[inline(always)]
    fn room(self) -> u64 {
        u64::from(self.block) | u64::from(self.timeout_ms) << 32
    }

    /// Decodes what a peer wrote and refuses what no peer of this version writes.
    ///
    /// # Errors
    /// [`BadHeader`] names the field.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of the words on purpose")]
    fn from_words(call_id: u32, route: u64, room: u64) -> Result<Self, BadHeader> {
        let kind_byte = (route >> 16) as u8;
        let flags = (route >> 24) as u8;
        let Some(kind) = Kind::from_byte(kind_byte) else { return Err(BadHeader::Kind(kind_byte)) };
        if flags & !(FLAG_BLOCK | DESCRIPTORS) != 0 {
            return Err(BadHeader::Flags(flags));
        }
        Ok(Self {
            call_id,
            method: route as u16,
            kind,
            flags,
            length: (route >> 32) as u32,
            block: room as u32,
            timeout_ms: (room >> 32) as u32,
        })
    }

    /// The header of a stream frame.
    pub fn to_frame(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [u64::from(self.call_id) << 32, self.route(), self.room()];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the header of a stream frame.
    ///
    /// # Errors
    /// [`BadHeader`] names the field that no peer of this version writes.
    pub fn from_frame(bytes: &[u8; HEADER]) -> Result<Self, BadHeader> {
        let mut words = [0; HEADER / 8];
        for (word, from) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*from);
        }
        let [head, route, room] = words;
        let [stamp, call_id] = halves(head);
        if stamp != 0 {
            return Err(BadHeader::Stamp { found: stamp, expected: 0 });
        }
        Self::from_words(call_id, route, room)
    }
}

/// The low and the high half of a word.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the halves are cut out on purpose")]
pub(crate) fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Bytes of a [`BlockRef`], in a slot and behind the header of a frame.
pub const BLOCK_REF: usize = 16;

/// Where a payload lies that did not fit into its slot. It fills the first 16 bytes of the slot's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// Segment of the sender's arena.
    pub segment: u32,
    /// What the receiver writes to the block's release word when it is done.
    pub generation: u32,
    /// Bytes from the start of the segment. A multiple of 64.
    pub offset: u64,
}

impl BlockRef {
    /// The words that a slot carries.
    pub(crate) fn to_words(self) -> [u64; INLINE_WORDS] {
        [u64::from(self.segment) | u64::from(self.generation) << 32, self.offset, 0, 0, 0]
    }

    /// The bytes that follow the header of a frame.
    pub(crate) fn to_bytes(self) -> [u8; BLOCK_REF] {
        let mut bytes = [0; BLOCK_REF];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.to_words()) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// Reads the words that a peer wrote. Nothing is checked yet.
    pub(crate) fn from_words([ids, offset, ..]: &[u64; INLINE_WORDS]) -> Self {
        let [segment, generation] = halves(*ids);
        Self { segment, generation, offset: *offset }
    }
}

/// One slot of a ring: one cache line, written by the ring's owner only.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub struct Slot {
    /// Written last (Release) by the sender, polled (Acquire) and slept on by the receiver: position + 1 of the
    /// message that the slot holds.
    pub stamp: Word,
    /// Names the call. Ordered by `stamp`.
    call_id: Word,
    /// method, kind, flags, length. Ordered by `stamp`.
    route: Wide,
    /// block, timeout_ms. Ordered by `stamp`.
    room: Wide,
    /// The inline payload or a [`BlockRef`]. Ordered by `stamp`.
    payload: [Wide; INLINE_WORDS],
}

impl Slot {
    /// Writes a message and publishes it with `stamp`.
    #[inline(always)]
    pub fn write(&self, stamp: u32, header: Header, payload: &[u64; INLINE_WORDS]) {
        self.write_payload(payload);
        self.write_header(stamp, header);
    }

    /// Writes the payload words.
    #[inline(always)]
    pub fn write_payload(&self, payload: &[u64; INLINE_WORDS]) {
        for (word, value) in self.payload.iter().zip(payload) {
            word.store(*value, Ordering::Relaxed);
        }
    }

    /// Writes the header of a message whose payload has been written, and publishes it with `stamp`.
    #[inline(always)]
    pub fn write_header(&self, stamp: u32, header: Header) {
        self.call_id.store(header.call_id, Ordering::Relaxed);
        self.route.store(header.route(), Ordering::Relaxed);
        self.room.store(header.room(), Ordering::Relaxed);
        // Release: pairs with the Acquire load of the stamp in `Consumer::is_published`.
        self.stamp.store(stamp, Ordering::Release);
        published();
    }

    /// Where the payload is written by whoever holds the claim of this slot.
    #[cfg(not(loom))]
    pub(crate) fn payload_start(&self) -> core::ptr::NonNull<u8> {
        core::ptr::NonNull::from(&self.payload).cast()
    }

    /// Copies a published message into private memory, each word once, and decodes the copy of its header. What the
    /// payload means depends on [`FLAG_BLOCK`].
    ///
    /// # Errors
    /// [`BadHeader`]: the sender wrote what no peer of this version writes.
    #[inline(always)]
    pub fn read(&self, payload: &mut [u64; INLINE_WORDS]) -> Result<Header, BadHeader> {
        let call_id = self.call_id.load(Ordering::Relaxed);
        let route = self.route.load(Ordering::Relaxed);
        let room = self.room.load(Ordering::Relaxed);
        for (value, word) in payload.iter_mut().zip(&self.payload) {
            *value = word.load(Ordering::Relaxed);
        }
        let header = Header::from_words(call_id, route, room)?;
        if header.flags & FLAG_BLOCK == 0 && header.length as usize > INLINE {
            return Err(BadHeader::InlineLength(header.length));
        }
        Ok(header)
    }
}

/// All that one side of a lane shows the other: its ring, and its words about the other's ring.
///
/// It lies in the memory of the side that writes it; the other side maps it read-only.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub struct LaneSide {
    /// Written by the owner before and after it sleeps as a receiver: 0 awake, else `ASLEEP | position` it waits
    /// for. Read by the sender after its fence. Alone in its line, so that it stays in the sender's cache.
    pub asleep: Wide,
    /// Written by the owner before and after it sleeps as a sender that lacks credits: 0 or 1. Read by the
    /// receiver after its fence. Shares the line of `asleep`: both change only when somebody sleeps.
    pub credit_wanted: Word,
    #[cfg(not(loom))]
    _line0: [u32; 13],
    /// Written by the owner when it takes a message from the peer's ring, before its handler runs: positions taken.
    /// Read by the peer only to prove that a message was not taken.
    pub taken: Word,
    /// Written (Release) by the owner when it has finished with a message: positions done. Read (Acquire) and slept
    /// on by the peer: its credits are `done + SLOTS - sent`.
    pub done: Word,
    #[cfg(not(loom))]
    _line1: [u32; 14],
    /// The ring that the owner sends through.
    #[cfg(not(loom))]
    pub slots: [Slot; SLOTS as usize],
    /// The ring that the owner sends through.
    #[cfg(loom)]
    pub slots: [Slot; 2],
}

/// Marks [`LaneSide::asleep`]; the low half is the position waited for.
pub(crate) const ASLEEP: u64 = 1 << 32;

impl LaneSide {
    /// The slot of `position`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the index is masked to the length of the array")]
    pub fn slot(&self, position: u32) -> &Slot {
        &self.slots[(position & (SLOTS - 1)) as usize]
    }
}

#[cfg(not(loom))]
const _: () = {
    assert!(SLOTS.is_power_of_two());
    assert!(size_of::<Slot>() == 64 && align_of::<Slot>() == 64);
    assert!(core::mem::offset_of!(Slot, stamp) == 0);
    assert!(core::mem::offset_of!(Slot, payload) == HEADER);
    assert!(core::mem::offset_of!(LaneSide, taken) == 64);
    assert!(core::mem::offset_of!(LaneSide, slots) == 128);
    assert!(size_of::<LaneSide>() == 128 + 64 * SLOTS as usize);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn header_survives_a_frame() {
        let header = Header {
            call_id: 7,
            method: 0xfffe,
            kind: Kind::Ping,
            flags: FLAG_BLOCK,
            length: u32::MAX,
            block: 9,
            timeout_ms: 10_000,
        };
        assert_eq!(Header::from_frame(&header.to_frame()), Ok(header));
        for count in 0..=DESCRIPTORS_MAX {
            let header = header.with_descriptors(3).with_descriptors(count);
            assert_eq!(Header::from_frame(&header.to_frame()), Ok(header));
            assert_eq!((header.descriptors(), header.flags & FLAG_BLOCK), (count, FLAG_BLOCK));
        }
        assert_eq!(header.with_descriptors(16).descriptors(), DESCRIPTORS_MAX);
    }

    #[test]
    fn kinds_are_their_own_bytes() {
        for byte in 0..=255u8 {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind as u8, byte);
            }
        }
        assert_eq!(Kind::from_byte(0), None);
        assert_eq!(Kind::from_byte(19), None);
    }

    #[test]
    fn what_no_peer_writes_is_refused() {
        let mut frame = Header::new(Kind::Request).to_frame();
        frame[10] = 99;
        assert_eq!(Header::from_frame(&frame), Err(BadHeader::Kind(99)));
        frame[10] = Kind::Request as u8;
        frame[11] = FLAG_EXT;
        assert_eq!(Header::from_frame(&frame), Err(BadHeader::Flags(FLAG_EXT)));
        frame[11] = 8;
        assert_eq!(Header::from_frame(&frame), Err(BadHeader::Flags(8)));
        frame[11] = 0;
        frame[0] = 1;
        assert_eq!(Header::from_frame(&frame), Err(BadHeader::Stamp { found: 1, expected: 0 }));
    }
}

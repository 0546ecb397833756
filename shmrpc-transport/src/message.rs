//! Messages: encoding into lent memory, validation, and the one place that hands out `&Archived<T>`.
//!
//! **Trust is decided here.** [`Message::admit`] copies a payload into private memory unless it is large and its
//! sender is in our trust set; [`Message::access`] and [`View`] then validate before they give out a reference. No
//! other module turns a peer's bytes into a typed reference.

use core::any::type_name;
use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ops::Deref;
use std::sync::Arc;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Strategy;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Deserialize, Portable, Serialize};

pub use self::budget::Budget;
pub(crate) use self::budget::Taken;
pub use self::draft::Draft;
pub use self::encode::{Buffer, Encode, EncodeError, Encoder, Grow, Nested, Sink, encode};
pub use self::filling::Filling;
pub use self::number::Number;
use self::pool::{Copied, Lack, Lost};
pub use self::pool::{Held, Pool, Room};
pub use self::recheck::Recheck;
pub use self::refusal::Refusal;
use crate::slot::{INLINE, INLINE_WORDS};

// unsafe: writes and reads memory that is not initialised as a whole.
mod draft;
mod filling;
mod encode;
mod number;
mod pool;
mod budget;
// unsafe: in its module `collections`.
mod recheck;
mod refusal;

/// Payloads up to this many bytes are copied into private memory whoever sent them.
pub const SMALL: usize = 4096;
/// Nesting (boxes in boxes, vectors in vectors) that a message may have.
pub const MAX_DEPTH: NonZeroUsize = NonZeroUsize::new(128).expect("128 is not zero");

/// What a type needs to travel: rkyv's traits, bound to shmrpc's encoder, validator and decoder.
pub trait Wire:
    Archive<Archived: Valid + Deserialize<Self, Decoder>> + for<'a> Serialize<Encoder<'a>> + Sized
{
}

impl<T> Wire for T where T: Archive<Archived: Valid + Deserialize<T, Decoder>> + for<'a> Serialize<Encoder<'a>>
{}

/// An archived type that can be validated: by rkyv, and then by us.
pub trait Valid: Portable + for<'a> CheckBytes<Validator<'a>> + Recheck {}

impl<T: Portable + for<'a> CheckBytes<Validator<'a>> + Recheck> Valid for T {}

/// Validates archives: bounds, alignment, depth, bit patterns. [`Recheck`] does the rest.
pub type Validator<'a> = Strategy<ArchiveValidator<'a>, Refusal>;
/// Turns archives back into owned values.
pub type Decoder = Strategy<(), Refusal>;

/// A payload that cannot be had as a `T`.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The bytes are no valid `T`.
    #[error("{length} bytes cannot be read as {expected}: {reason}")]
    Bytes {
        /// The type.
        expected: &'static str,
        /// Bytes.
        length: usize,
        /// What is wrong with them.
        reason: Box<str>,
    },
    /// It was to be copied, and other messages of the process that sent it have the room.
    #[error(
        "no room for a copy of {length} bytes: all messages of one process that are copied may have {cap} at once; try again, or widen the receiver's `.trust(..)`"
    )]
    NoRoom {
        /// Bytes.
        length: usize,
        /// Bytes of copies that one process may have.
        cap: u64,
    },
    /// The same, on a connection that shares no memory: all is copied there, whoever sends it.
    #[error(
        "no room for a copy of {length} bytes: without shared memory the messages of one connection are copied, and may have {cap} at once; try again, or raise the receiver's `.max_message(..)` above {}",
        cap / 4
    )]
    NoRoomHere {
        /// Bytes.
        length: usize,
        /// Bytes of copies that the connection may have.
        cap: u64,
    },
    /// The same, and the messages of all peers of the server have the room.
    #[error(
        "no room for {length} bytes more, of a copy or of arguments by value: all clients of the server together have its {cap} bytes; try again, or raise its `.max_memory(..)`"
    )]
    NoRoomForAll {
        /// Bytes.
        length: usize,
        /// Bytes that all peers may have together.
        cap: u64,
    },
    /// Values on the heap were to be made of it where it lies, and others and copies have the room.
    #[error(
        "no room for arguments by value that are made of {length} bytes: those of one process, and copies of its messages, may have {cap} at once; try again, raise the receiver's `.max_message(..)` above {}, or let its method take `&[T]` or `&Archived<T>`",
        cap / 4
    )]
    NoRoomForValues {
        /// Bytes of the message.
        length: usize,
        /// Bytes that one process may have.
        cap: u64,
    },
    /// It was to be copied, and the system has no memory.
    #[error(
        "no memory for a copy of {length} bytes; raise the limit of the process that receives them (ulimit -v, the cgroup's memory.max), or send less"
    )]
    NoMemory {
        /// Bytes.
        length: usize,
    },
}

impl Invalid {
    #[cold]
    #[inline(never)]
    fn new<T>(length: usize, refusal: Refusal) -> Self {
        Self::Bytes { expected: type_name::<T>(), length, reason: refusal.reason() }
    }
}

impl From<Lost> for Invalid {
    fn from(Lost { length, lack }: Lost) -> Self {
        match lack {
            Lack::OfProcess(cap) => Self::NoRoom { length, cap },
            Lack::OfConnection(cap) => Self::NoRoomHere { length, cap },
            Lack::OfAll(cap) => Self::NoRoomForAll { length, cap },
            Lack::Memory => Self::NoMemory { length },
        }
    }
}

/// Memory of the peer that a message lies in. Dropping it releases the memory to the peer.
///
/// # Safety
/// The bytes that [`Loan::bytes`] names stay mapped and readable as long as the loan lives, are aligned to 64, and
/// nobody in this process writes to them.
pub unsafe trait Loan: Send + Sync {
    /// Where the payload lies.
    fn bytes(&self) -> (*const u8, usize);
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A frame's. A small one is copied in any case: it says what else came with it, and a lane has one at a time.
    Message,
    /// A blob's. Somebody may keep it.
    Blob,
}

impl Part {
    fn room(self, length: usize, pool: &Arc<Pool>) -> Result<Copied, Lost> {
        match self {
            Self::Message if length <= SMALL => pool.take_anyway(length),
            Self::Message | Self::Blob => pool.take(length),
        }
    }
}

/// A payload that has arrived. Private memory, or a trusted peer's.
pub struct Message {
    /// The payload, if it is [`Elsewhere::Nowhere`].
    words: Aligned<[u64; INLINE_WORDS]>,
    length: usize,
    elsewhere: Elsewhere,
}

/// Where a payload lies that did not come inside a slot. Boxed, so that small messages are small to move.
enum Elsewhere {
    Nowhere,
    Copied(Box<Copied>),
    Lost(Box<Lost>),
    InPlace(Box<dyn Loan>),
}

/// Aligned for every primitive that rkyv archives.
#[repr(C, align(16))]
struct Aligned<T>(T);

/// A short payload, copied to where it is aligned.
struct Short {
    bytes: Aligned<[u8; INLINE]>,
    length: usize,
}

impl Short {
    fn copy(from: &[u8]) -> Self {
        let mut bytes = Aligned([0; INLINE]);
        let length = from.len().min(INLINE);
        for (to, from) in bytes.0.iter_mut().zip(from) {
            *to = *from;
        }
        Self { bytes, length }
    }

    fn get(&self) -> &[u8] {
        self.bytes.0.get(..self.length).unwrap_or_default()
    }
}

impl Message {
    /// No payload yet.
    #[inline(always)]
    pub fn empty() -> Self {
        Self { words: Aligned([0; INLINE_WORDS]), length: 0, elsewhere: Elsewhere::Nowhere }
    }

    /// Where the payload of a slot is to be copied. Whatever the message held before is given up.
    #[inline(always)]
    pub(crate) fn words_mut(&mut self) -> &mut [u64; INLINE_WORDS] {
        self.clear();
        &mut self.words.0
    }

    /// Holds from now on the first `length` bytes of its words, clamped to what a slot holds.
    #[inline(always)]
    pub(crate) fn set_inline(&mut self, length: u32) {
        self.length = (length as usize).min(INLINE);
    }

    /// Holds from now on a short payload that came over a stream, clamped to what a slot holds.
    pub(crate) fn set_short(&mut self, payload: &[u8]) {
        let words = self.words_mut();
        let (whole, rest) = payload.as_chunks::<8>();
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        for (word, from) in words.iter_mut().zip(whole.iter().chain([&last])) {
            *word = u64::from_ne_bytes(*from);
        }
        self.length = payload.len().min(INLINE);
    }

    /// Holds from now on a payload that lies in the peer's memory: read in place if it is large and the peer is
    /// trusted; else copied once and released at once.
    pub fn admit(&mut self, loan: impl Loan + 'static, trusted: bool, part: Part, pool: &Arc<Pool>) {
        let (from, length) = loan.bytes();
        self.length = length;
        if trusted && length > SMALL {
            self.elsewhere = Elsewhere::InPlace(Box::new(loan));
            return;
        }
        let mut copied = match part.room(length, pool) {
            Ok(copied) => copied,
            Err(lost) => {
                self.length = 0;
                self.elsewhere = Elsewhere::Lost(Box::new(lost));
                return;
            }
        };
        // SAFETY: the loan keeps `length` readable bytes at `from`; the buffer has room for as many, and is ours.
        // A peer that writes meanwhile garbles the copy only, which is validated afterwards.
        unsafe { core::ptr::copy_nonoverlapping(from, copied.as_mut_ptr(), length) };
        #[cfg(feature = "instrument")]
        if let Some(memory) = crate::sync::instrument::memory() {
            // SAFETY: the copy above has just initialised `length` bytes of the buffer, which is ours alone.
            memory
                .copied(from.addr(), unsafe { core::slice::from_raw_parts_mut(copied.as_mut_ptr(), length) });
        }
        drop(loan);
        self.elsewhere = Elsewhere::Copied(Box::new(copied));
    }

    /// Gives up the payload: memory of the peer goes back to it.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.length = 0;
        if !matches!(self.elsewhere, Elsewhere::Nowhere) {
            self.elsewhere = Elsewhere::Nowhere;
        }
    }

    /// Payload bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The payload of a frame that belongs to no call. Empty if it lies in the peer's memory.
    pub(crate) fn private_bytes(&self) -> &[u8] {
        if self.is_in_place() { &[] } else { self.bytes() }
    }

    /// The payload as numbers, as many whole ones as there are.
    pub(crate) fn numbers<T: Number>(&self) -> &[T] {
        let bytes = self.bytes();
        // SAFETY: a payload is aligned to 16 at least, any bits are numbers, and so many lie in `bytes`.
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// Whether the payload could be copied.
    pub(crate) fn check_lost(&self) -> Result<(), Invalid> {
        match &self.elsewhere {
            Elsewhere::Lost(lost) => Err((**lost).into()),
            _ => Ok(()),
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the payload lies in the peer's memory.
    pub fn is_in_place(&self) -> bool {
        matches!(self.elsewhere, Elsewhere::InPlace(_))
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        let start = match &self.elsewhere {
            Elsewhere::Nowhere | Elsewhere::Lost(_) => self.words.0.as_ptr().cast(),
            Elsewhere::Copied(copied) => copied.as_ptr(),
            Elsewhere::InPlace(loan) => loan.bytes().0,
        };
        // SAFETY: inline: `length` is clamped to the words; copied: the buffer holds `length` initialised bytes;
        // in place: the loan's promise, and the peer is trusted not to write while we read.
        unsafe { core::slice::from_raw_parts(start, self.length) }
    }

    /// Room for values on the heap that are made of it, for as long as they are there; those that are made of a copy have the copy's.
    /// `None` if it is small.
    ///
    /// # Errors
    /// [`Invalid`] says whose room is all taken.
    #[inline(always)]
    pub(crate) fn hold(&self, pool: &Pool) -> Result<Option<Held>, Invalid> {
        if self.length > SMALL { self.hold_large(pool).map(Some) } else { Ok(None) }
    }

    #[inline(never)]
    fn hold_large(&self, pool: &Pool) -> Result<Held, Invalid> {
        let bytes = if self.is_in_place() { self.length } else { 0 };
        pool.hold(bytes).map_err(|lost| match lost.lack {
            Lack::OfProcess(cap) => Invalid::NoRoomForValues { length: lost.length, cap },
            _ => lost.into(),
        })
    }

    /// Validates the payload as a `T` and lends it.
    ///
    /// # Errors
    /// [`Invalid`] says what is wrong with the bytes.
    #[inline(always)]
    pub fn access<T: Wire>(&self) -> Result<&T::Archived, Invalid> {
        let bytes = self.bytes();
        validate::<T>(bytes).map_err(|refusal| match self.elsewhere {
            Elsewhere::Lost(ref lost) => (**lost).into(),
            _ => Invalid::new::<T>(bytes.len(), refusal),
        })
    }

    /// Validates the payload as a `T` and copies it out.
    ///
    /// # Errors
    /// [`Invalid`] says what is wrong with the bytes.
    #[inline(always)]
    pub fn decode<T: Wire>(&self) -> Result<T, Invalid> {
        decode(self.access::<T>()?)
    }

    /// Validates the payload as a `T` and keeps it where it is.
    ///
    /// # Errors
    /// [`Invalid`] says what is wrong with the bytes.
    pub fn into_view<T: Wire>(self) -> Result<View<T>, Invalid> {
        self.access::<T>()?;
        Ok(View { message: self, archived: PhantomData })
    }
}

/// Copies a validated archive out into an owned value.
///
/// # Errors
/// [`Invalid`] if the type itself refuses (it has a `with` attribute that can fail).
#[inline(always)]
pub fn decode<T: Wire>(archived: &T::Archived) -> Result<T, Invalid> {
    archived
        .deserialize(Strategy::<(), Refusal>::wrap(&mut ()))
        .map_err(|refusal| Invalid::new::<T>(size_of::<T::Archived>(), refusal))
}

#[inline(always)]
fn validate<T: Archive<Archived: Valid>>(bytes: &[u8]) -> Result<&T::Archived, Refusal> {
    let mut validator = ArchiveValidator::with_max_depth(bytes, Some(MAX_DEPTH));
    let position = root_position::<T>(bytes.len());
    let archived = rkyv::api::access_pos_with_context::<T::Archived, ArchiveValidator<'_>, Refusal>(
        bytes,
        position,
        &mut validator,
    )?;
    if T::Archived::NEEDED {
        archived.recheck()?;
    }
    Ok(archived)
}

/// The root of an archive is its last object. Too few bytes give a position that validation refuses.
#[inline(always)]
fn root_position<T: Archive>(length: usize) -> usize {
    length.saturating_sub(size_of::<T::Archived>())
}

impl core::fmt::Debug for Message {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Message").field("len", &self.len()).field("in_place", &self.is_in_place()).finish()
    }
}

/// A result that is read where it arrived: dereferences to `Archived<T>`.
///
/// It is `Send`, `Sync` and `'static`, holds no lane, and may outlive its client; a large one from a trusted server
/// holds the server's memory until it is dropped.
pub struct View<T> {
    message: Message,
    archived: PhantomData<fn() -> T>,
}

impl<T: Wire> View<T> {
    /// Copies the value out.
    ///
    /// # Errors
    /// [`Invalid`] if the type itself refuses (it has a `with` attribute that can fail).
    pub fn to_owned(&self) -> Result<T, Invalid> {
        decode(&**self)
    }

    /// Whether the value lies in the server's memory.
    pub fn is_in_place(&self) -> bool {
        self.message.is_in_place()
    }
}

impl<T: Archive> Deref for View<T> {
    type Target = T::Archived;

    #[inline]
    fn deref(&self) -> &T::Archived {
        let bytes = self.message.bytes();
        let root = bytes.as_ptr().wrapping_add(root_position::<T>(bytes.len()));
        // SAFETY: `Message::into_view`, the only way to make a View, validated these bytes as a `T` at this place;
        // the message is not changed afterwards, or its sender is trusted not to.
        unsafe { &*root.cast::<T::Archived>() }
    }
}

impl<T: Archive<Archived: core::fmt::Debug>> core::fmt::Debug for View<T> {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer says how many bytes it sends, so a lack of memory for them fails its message and not the process.
    #[test]
    fn a_copy_without_memory_is_an_error() {
        let lost = || Elsewhere::Lost(Box::new(Lost { length: 77, lack: Lack::Memory }));
        let lost = || Message { elsewhere: lost(), ..Message::empty() };
        let error = lost().access::<Vec<u8>>().unwrap_err().to_string();
        assert!(error.starts_with("no memory for a copy of 77 bytes"), "{error}");
        assert!(lost().decode::<u64>().is_err() && lost().into_view::<String>().is_err());
    }
}

//! Encoding: rkyv writes into a [`Sink`], which begins with the bytes of a slot and moves to lent memory when those
//! do not suffice.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;
use std::alloc::{alloc, dealloc, handle_alloc_error};

use rkyv::rancor::{Fallible, Source, Strategy, fail};
use rkyv::ser::{Allocator, Positional, Writer};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Archived, Deserialize, Place, Serialize};

use super::{MAX_DEPTH, Refusal, Short, Valid, validate};
use crate::slot::INLINE;

/// What messages are encoded with.
pub type Encoder<'a> = Strategy<Sink<'a>, Refusal>;

/// A value that could not be encoded. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The value needs more bytes than the peer takes.
    #[error(
        "the message is larger than the {max} bytes that its receiver takes (at least {needed}); send less, or raise \
         max_message there: of the server for arguments, of the client for results"
    )]
    TooLarge {
        /// Bytes known to be needed.
        needed: u64,
        /// Bytes that the peer takes.
        max: u64,
    },
    /// No lent memory is left.
    #[error(
        "all {cap} bytes of send memory that the peer may hold are held; drop views, wait for calls in flight, or raise {raise}"
    )]
    NoMemory {
        /// Bytes that may be lent to this peer at once.
        cap: u64,
        /// What sets that bound.
        raise: &'static str,
    },
    /// The system gave no more memory to send from.
    #[error("there is no more memory to send from: {0}")]
    System(Box<str>),
    /// The peer holds as many messages as may be out at once.
    #[error(
        "the peer holds {max} messages of ours, as many as may be out at once; drop views, or wait for calls in flight"
    )]
    TooMany {
        /// Messages that may be out at once.
        max: u32,
    },
    /// The descriptors in it do not go.
    #[error("the descriptors of the message cannot be sent: {0}")]
    Descriptors(Box<str>),
    /// The value refused, or is nested too deep.
    #[error("the message cannot be encoded: {0}")]
    Refused(Box<str>),
}

impl From<Refusal> for EncodeError {
    #[cold]
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.reason())
    }
}

/// A piece of memory that a message is being written into.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// First byte.
    pub start: NonNull<u8>,
    /// Bytes.
    pub capacity: usize,
}

/// Finds larger memory for a message that outgrew what it had.
///
/// # Safety
/// The buffer that [`Grow::grow`] returns is writable by its caller alone until the `Grow` is dropped or asked
/// again, begins with the `used` bytes of the old one, and has room for `needed`.
pub unsafe trait Grow {
    /// Moves the first `used` bytes of `old` into memory with room for at least `needed` bytes.
    ///
    /// # Errors
    /// [`EncodeError`] if there is no such memory.
    fn grow(&mut self, old: Buffer, used: usize, needed: usize) -> Result<Buffer, EncodeError>;
}

/// Where an encoder writes. Positions are relative, so the bytes can move.
pub struct Sink<'a> {
    buffer: Buffer,
    length: usize,
    grow: &'a mut dyn Grow,
    failure: Option<EncodeError>,
}

/// Encodes `value`, first into `buffer`, further into what `grow` finds. Returns the length. With `recursive`, what
/// was encoded is validated, so that the depth limit of the receiver is the sender's too.
///
/// # Safety
/// `buffer` is writable by the caller alone during the call.
///
/// # Errors
/// [`EncodeError`]; what was written so far means nothing then.
#[inline(always)]
pub unsafe fn encode<'a, T: Encode>(
    value: &T,
    recursive: bool,
    buffer: Buffer,
    grow: &'a mut dyn Grow,
) -> Result<usize, EncodeError> {
    let mut sink = Sink { buffer, length: 0, grow, failure: None };
    if let Err(refusal) = rkyv::api::serialize_using::<Sink<'a>, Refusal>(value, &mut sink) {
        return Err(sink.failure.take().unwrap_or_else(|| refusal.into()));
    }
    if recursive {
        // SAFETY: the first `length` bytes of the buffer have just been written, and nobody writes to them now.
        let bytes = unsafe { core::slice::from_raw_parts(sink.buffer.start.as_ptr(), sink.length) };
        // A slot's payload is aligned to 8 only; its receiver copies it to where it is aligned to 16, and so do we.
        match bytes.len() {
            ..=INLINE => drop(validate::<T>(Short::copy(bytes).get())?),
            _ => drop(validate::<T>(bytes)?),
        }
    }
    Ok(sink.length)
}

/// What can be encoded, and validated as its receiver will do it.
pub trait Encode: for<'a> Serialize<Encoder<'a>> + Archive<Archived: Valid> {}

impl<T: for<'a> Serialize<Encoder<'a>> + Archive<Archived: Valid>> Encode for T {}

impl Positional for Sink<'_> {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.length
    }
}

impl Writer<Refusal> for Sink<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() > self.buffer.capacity - self.length {
            self.make_room(bytes.len())?;
        }
        let to = self.buffer.start.as_ptr().wrapping_add(self.length);
        // SAFETY: `length + bytes.len() <= capacity`, checked above; the buffer is writable and ours alone, so it
        // does not overlap `bytes`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.length += bytes.len();
        Ok(())
    }
}

impl Sink<'_> {
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, more: usize) -> Result<(), Refusal> {
        let needed = self.length.saturating_add(more);
        match self.grow.grow(self.buffer, self.length, needed) {
            Ok(buffer) => {
                debug_assert!(buffer.capacity >= needed);
                self.buffer = buffer;
                Ok(())
            }
            Err(failure) => {
                self.failure = Some(failure);
                fail!(OutOfRoom)
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("out of room")]
struct OutOfRoom;

// SAFETY: memory comes from and goes back to the global allocator with the layout that the caller names.
unsafe impl Allocator<Refusal> for Sink<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, Refusal> {
        if layout.size() == 0 {
            let dangling = NonNull::new(core::ptr::without_provenance_mut(layout.align()));
            let dangling = dangling.unwrap_or(NonNull::dangling());
            return Ok(NonNull::slice_from_raw_parts(dangling, 0));
        }
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Ok(NonNull::slice_from_raw_parts(memory, layout.size()))
    }

    unsafe fn pop_alloc(&mut self, memory: NonNull<u8>, layout: Layout) -> Result<(), Refusal> {
        if layout.size() != 0 {
            // SAFETY: the caller passes what `push_alloc` returned for this layout.
            unsafe { dealloc(memory.as_ptr(), layout) };
        }
        Ok(())
    }
}

/// Wraps the fields of recursive messages: counts how deep encoding is, so that a value nested deeper than
/// [`MAX_DEPTH`] ends in an error and not in a stack overflow. Changes nothing in the archive.
#[derive(Debug)]
pub struct Nested;

#[derive(Debug, thiserror::Error)]
#[error("nested deeper than {MAX_DEPTH} levels")]
struct TooDeep;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One level of depth, given back when dropped, also by a panic.
struct Level;

impl Level {
    fn enter<E: Source>() -> Result<Self, E> {
        let depth = DEPTH.get();
        if depth >= MAX_DEPTH.get() {
            fail!(TooDeep);
        }
        DEPTH.set(depth + 1);
        Ok(Self)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

impl<F: Archive> ArchiveWith<F> for Nested {
    type Archived = Archived<F>;
    type Resolver = F::Resolver;

    fn resolve_with(field: &F, resolver: F::Resolver, out: Place<Archived<F>>) {
        field.resolve(resolver, out);
    }
}

impl<F: Serialize<S>, S: Fallible<Error: Source> + ?Sized> SerializeWith<F, S> for Nested {
    fn serialize_with(field: &F, serializer: &mut S) -> Result<F::Resolver, S::Error> {
        let _level = Level::enter::<S::Error>()?;
        field.serialize(serializer)
    }
}

impl<F, D: Fallible + ?Sized> DeserializeWith<Archived<F>, F, D> for Nested
where
    F: Archive<Archived: Deserialize<F, D>>,
{
    fn deserialize_with(field: &Archived<F>, deserializer: &mut D) -> Result<F, D::Error> {
        field.deserialize(deserializer)
    }
}

//! Messages that are written for a stream: room for a header, then the payload, in memory that stays warm.

use core::ptr::NonNull;
use std::sync::Arc;

use super::pool::{Copied, Lost};
use super::{Buffer, EncodeError, Pool};
use crate::slot::HEADER;

/// Bytes before the payload; the header is the end of them. So the payload is aligned as in a block.
const HEAD: usize = 64;
/// Payload bytes that there is always room for.
const SMALL: usize = 4096;

/// Memory that one message after the other is written into.
#[derive(Debug)]
pub struct Draft {
    small: Copied,
    large: Option<Copied>,
    pool: Arc<Pool>,
}

impl Draft {
    /// Room for small messages; for large ones it comes from `pool`.
    ///
    /// # Errors
    /// [`EncodeError::System`] if there is no memory.
    pub fn new(pool: &Arc<Pool>) -> Result<Self, EncodeError> {
        let small = pool.take_anyway(HEAD + SMALL).map_err(no_memory)?;
        Ok(Self { small, large: None, pool: Arc::clone(pool) })
    }

    /// Where the payload of the next message is written.
    pub(crate) fn start(&mut self) -> Buffer {
        self.large = None;
        payload(&mut self.small, SMALL)
    }

    /// Moves the first `used` bytes of `old` to where there is room for `needed`.
    ///
    /// # Safety
    /// `old` has `used` bytes that were written, and is not in the pool.
    pub(crate) unsafe fn grow(
        &mut self,
        old: Buffer,
        used: usize,
        needed: usize,
    ) -> Result<Buffer, EncodeError> {
        let roomy = needed.checked_next_power_of_two().unwrap_or(needed);
        let taken = self.pool.take(HEAD + roomy).map(|large| (large, roomy));
        let (mut large, capacity) = match taken {
            Ok(taken) => taken,
            Err(_) => (self.pool.take(HEAD + needed).map_err(no_memory)?, needed),
        };
        let new = payload(&mut large, capacity);
        // SAFETY: the new room is larger than `used`, which is what the old one has, by the caller's promise; they are
        // different memory, since `large` was just taken.
        unsafe { core::ptr::copy_nonoverlapping(old.start.as_ptr(), new.start.as_ptr(), used) };
        self.large = Some(large);
        Ok(new)
    }

    /// The message: its header, then the first `length` bytes of what was written as its payload.
    ///
    /// # Safety
    /// So many bytes of the buffer that [`Draft::start`] or [`Draft::grow`] returned last were written.
    pub(crate) unsafe fn finish(&mut self, header: [u8; HEADER], length: usize) -> &[u8] {
        let room = self.large.as_mut().unwrap_or(&mut self.small);
        let start = room.as_mut_ptr().wrapping_add(HEAD - HEADER);
        // SAFETY: the header lies before the payload, in memory that is ours.
        unsafe { core::ptr::copy_nonoverlapping(header.as_ptr(), start, HEADER) };
        // SAFETY: the header was just written, and `length` bytes of payload behind it, by the caller's promise.
        unsafe { core::slice::from_raw_parts(start, HEADER + length) }
    }

    /// A header and a few bytes after it.
    pub(crate) fn fill(&mut self, header: [u8; HEADER], rest: &[u8]) -> &[u8] {
        let room = self.small.first(HEADER + rest.len());
        for (to, from) in room.iter_mut().zip(header.iter().chain(rest)) {
            *to = *from;
        }
        room
    }

    /// Gives up the memory of a large message.
    pub(crate) fn clear(&mut self) {
        self.large = None;
    }
}

fn payload(room: &mut Copied, capacity: usize) -> Buffer {
    let start = room.as_mut_ptr().wrapping_add(HEAD);
    Buffer { start: NonNull::new(start).unwrap_or(NonNull::dangling()), capacity }
}

fn no_memory(lost: Lost) -> EncodeError {
    EncodeError::System(super::Invalid::from(lost).to_string().into())
}

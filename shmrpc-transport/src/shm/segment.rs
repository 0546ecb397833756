//! Segments: memory that one side writes and the other maps read-only.
//!
//! ```text
//!  base segment (id 0)                                             further segments (1, 2, ...)
//!  +----------+------------------+-----------------+-------------+  +-----------------------+
//!  | reserved | release words    | lane sides      | first arena |  | arena                 |
//!  | 64 bytes | 4,096 x 4 bytes  | 64 x 8,320 bytes| 1 MiB       |  |                       |
//!  +----------+------------------+-----------------+-------------+  +-----------------------+
//! ```
//!
//! Pages that nobody touched cost nothing, so a base segment has room for every lane from the start.

use core::mem::offset_of;
use core::ops::Deref;
use core::ptr::NonNull;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::arena::BLOCKS;
use super::ledger::Lent;
use super::memory::{Fresh, Memory, MemoryError, Witness, inspect};
use super::release::ReleaseWord;
use crate::peers::Party;
use crate::slot::LaneSide;
use crate::sys::closing;

/// Lanes that one connection may have.
pub const MAX_LANES: u32 = 64;
/// Bytes of the arena in the base segment.
pub(crate) const FIRST_ARENA: usize = 1 << 20;
/// Where the first arena begins.
pub(crate) const ARENA_OFFSET: usize = size_of::<Base>().next_multiple_of(4096);
/// Bytes of a base segment.
pub(crate) const BASE_LEN: usize = ARENA_OFFSET + FIRST_ARENA;

/// What lies at the start of a base segment. All of it is written by the segment's owner.
#[repr(C, align(64))]
struct Base {
    reserved: [u64; 8],
    /// Word `id` holds the generation of the peer's block `id` that the owner released last. Written (Release) by
    /// whoever drops the message last, read (Acquire) by the peer when it needs memory.
    release: [ReleaseWord; BLOCKS as usize],
    /// Written by the owner: its side of each lane.
    lanes: [LaneSide; MAX_LANES as usize],
}

const _: () = {
    assert!(align_of::<Base>() == 64);
    assert!(offset_of!(Base, release) == 64);
    assert!(offset_of!(Base, lanes).is_multiple_of(64));
};

/// A mapped segment, ours or the peer's.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    /// Ours: counts against the peer. Dropped after the map.
    lent: Option<Lent>,
}

/// What goes with a segment of ours to the peer and to its account.
#[derive(Debug)]
pub struct Handout {
    /// For the peer.
    pub descriptor: OwnedFd,
    /// Will know when the peer has let go.
    pub(crate) witness: Option<Witness>,
}

impl Segment {
    /// Makes and maps `length` bytes of `memory`.
    ///
    /// # Errors
    /// [`MemoryError::System`], [`MemoryError::Full`] or [`MemoryError::Limited`].
    pub fn create(length: usize, memory: Memory) -> Result<(Self, Handout), MemoryError> {
        let fresh = Fresh::new(memory, length as u64)?;
        let map = MmapOptions::new().len(length).map_raw(fresh.file());
        let map = map.map_err(|error| not_mapped(length, memory, error))?;
        let (descriptor, witness) = fresh.into_shared()?;
        Ok((Self { map, lent: None }, Handout { descriptor, witness }))
    }

    /// Checks and maps what a peer sent as `announced` bytes of `memory`. Whether its word is to be taken for memory that
    /// is not sealed is for the caller to say.
    ///
    /// # Errors
    /// [`MemoryError`]; nothing is mapped then.
    pub(crate) fn accept(
        fd: OwnedFd,
        from: Party,
        announced: u64,
        memory: Memory,
    ) -> Result<Self, MemoryError> {
        let file = File::from(fd);
        let length = match inspect(&file, announced, memory) {
            Ok(length) => length,
            Err(error) => {
                closing::elsewhere(file.into(), from);
                return Err(error);
            }
        };
        // It is memory, which closes at once. No thread is needed for that, and there may be none now.
        let map = MmapOptions::new().len(length).map_raw_read_only(&file);
        let map = map.map_err(|error| not_mapped(length, memory, error))?;
        Ok(Self { map, lent: None })
    }

    /// Says on whose account it is, until it is gone.
    pub(crate) fn charge(&mut self, lent: Lent) {
        self.lent = Some(lent);
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never true: a segment has at least a page.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The address of `length` bytes at `offset`, if the segment has them.
    pub(crate) fn range(&self, offset: u64, length: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.map.len() as u64 {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        NonNull::new(self.map.as_mut_ptr().wrapping_add(offset))
    }

    /// The release word of block `id`, in a base segment.
    pub(crate) fn release_word(&self, id: u32) -> Option<&ReleaseWord> {
        if id >= BLOCKS || self.map.len() < BASE_LEN {
            return None;
        }
        let offset = offset_of!(Base, release) + id as usize * size_of::<ReleaseWord>();
        let word = self.map.as_ptr().wrapping_add(offset).cast::<ReleaseWord>();
        // SAFETY: the word lies inside the mapping (checked above) and is aligned (asserted for Base; mappings begin
        // at a page); it is an atomic, and any bits are a u32. The mapping lives as long as `self`.
        Some(unsafe { &*word })
    }
}

/// One side of a lane in a mapped base segment. Keeps the mapping.
#[derive(Debug, Clone)]
pub struct Side {
    side: NonNull<LaneSide>,
    _segment: Arc<Segment>,
}

// SAFETY: the pointer leads to atomics in a mapping that the side keeps.
unsafe impl Send for Side {}
// SAFETY: the same.
unsafe impl Sync for Side {}

impl Side {
    /// The side of `lane` in a base segment; `None` if there is no such lane or the segment is none.
    pub fn new(segment: &Arc<Segment>, lane: u32) -> Option<Self> {
        if lane >= MAX_LANES {
            return None;
        }
        let offset = offset_of!(Base, lanes) + lane as usize * size_of::<LaneSide>();
        let start = segment.range(offset as u64, size_of::<LaneSide>() as u64)?;
        Some(Self { side: start.cast(), _segment: Arc::clone(segment) })
    }
}

impl Deref for Side {
    type Target = LaneSide;

    #[inline(always)]
    fn deref(&self) -> &LaneSide {
        // SAFETY: `Side::new` checked that the lane side lies inside the mapping, which `_segment` keeps; it is
        // aligned and made of atomics, for which any bits are valid. Stores go only to sides that we own.
        unsafe { self.side.as_ref() }
    }
}

fn not_mapped(length: usize, memory: Memory, error: std::io::Error) -> MemoryError {
    MemoryError::System { what: "map", length: length as u64, memory, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_accepted() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            let (own, Handout { descriptor: fd, .. }) = Segment::create(BASE_LEN, memory).unwrap();
            let peer = Segment::accept(fd, Party::own(), BASE_LEN as u64, memory).unwrap();
            own.release_word(7).unwrap().release(3);
            assert_eq!(peer.release_word(7).unwrap().released(), 3);
            assert!(peer.release_word(BLOCKS).is_none());
            assert!(peer.range(0, BASE_LEN as u64 + 1).is_none());
            assert!(peer.range(u64::MAX, 2).is_none());
        }
    }
}

//! Segments: sealed memory that one side writes and the other maps read-only.
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
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::arena::BLOCKS;
use crate::slot::LaneSide;
use crate::sync::Word;

/// Lanes that one connection may have.
pub const MAX_LANES: u32 = 64;
/// Bytes of the arena in the base segment.
const FIRST_ARENA: usize = 1 << 20;
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
    release: [Word; BLOCKS as usize],
    /// Written by the owner: its side of each lane.
    lanes: [LaneSide; MAX_LANES as usize],
}

const _: () = {
    assert!(align_of::<Base>() == 64);
    assert!(offset_of!(Base, release) == 64);
    assert!(offset_of!(Base, lanes).is_multiple_of(64));
};

/// Memory that could not be made, or a descriptor that is not what the protocol asks for.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused.
    #[error("cannot {what} {length} bytes of shared memory: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Bytes asked for.
        length: usize,
        /// What the system said.
        error: std::io::Error,
    },
    /// The descriptor is no sealed memory.
    #[error("the peer sent memory whose seals are {found:#x}; {REQUIRED:?} are required")]
    Seals {
        /// The seals found, or -1 if the descriptor cannot be sealed.
        found: i32,
    },
    /// The descriptor has another size than announced.
    #[error("the peer announced {announced} bytes of memory and sent {found}")]
    Size {
        /// Bytes announced.
        announced: u64,
        /// Bytes found.
        found: u64,
    },
}

/// Seals that a segment has before it is sent: its size is fixed, nobody else can write to it, and no seal is added.
const REQUIRED: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::from_bits_retain(nix::libc::F_SEAL_FUTURE_WRITE))
    .union(SealFlag::F_SEAL_SEAL);

/// A mapped segment, ours or the peer's.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
}

impl Segment {
    /// Makes, maps and seals `length` bytes; the descriptor is what the peer gets.
    ///
    /// # Errors
    /// [`SegmentError::System`].
    pub fn create(length: usize) -> Result<(Self, OwnedFd), SegmentError> {
        let failed = |what, error: std::io::Error| SegmentError::System { what, length, error };
        let fd = memory_descriptor().map_err(|errno| failed("create", errno.into()))?;
        let file = std::fs::File::from(fd);
        file.set_len(length as u64).map_err(|error| failed("size", error))?;
        let map = MmapOptions::new().len(length).map_raw(&file).map_err(|error| failed("map", error))?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(REQUIRED)).map_err(|errno| failed("seal", errno.into()))?;
        Ok((Self { map }, OwnedFd::from(file)))
    }

    /// Checks and maps what a peer sent.
    ///
    /// # Errors
    /// [`SegmentError`]; nothing is mapped then.
    pub fn accept(fd: OwnedFd, announced: u64) -> Result<Self, SegmentError> {
        let seals = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).unwrap_or(-1);
        if seals < 0 || !SealFlag::from_bits_retain(seals).contains(REQUIRED) {
            return Err(SegmentError::Seals { found: seals });
        }
        let file = std::fs::File::from(fd);
        let failed = |what, error: std::io::Error| SegmentError::System {
            what,
            length: usize::try_from(announced).unwrap_or(usize::MAX),
            error,
        };
        let found = file.metadata().map_err(|error| failed("stat", error))?.len();
        let length = usize::try_from(announced).ok().filter(|_| found == announced && found != 0);
        let Some(length) = length else { return Err(SegmentError::Size { announced, found }) };
        let map =
            MmapOptions::new().len(length).map_raw_read_only(&file).map_err(|error| failed("map", error))?;
        Ok(Self { map })
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
    pub(crate) fn release_word(&self, id: u32) -> Option<&Word> {
        if id >= BLOCKS || self.map.len() < BASE_LEN {
            return None;
        }
        let offset = offset_of!(Base, release) + id as usize * size_of::<Word>();
        let word = self.map.as_ptr().wrapping_add(offset).cast::<Word>();
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

fn memory_descriptor() -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(nix::libc::MFD_NOEXEC_SEAL);
    match memfd_create(c"shmrpc", flags | no_exec) {
        // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
        Err(Errno::EINVAL) => memfd_create(c"shmrpc", flags),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_accepted() {
        let (own, fd) = Segment::create(BASE_LEN).unwrap();
        let peer = Segment::accept(fd, BASE_LEN as u64).unwrap();
        own.release_word(7).unwrap().store(3, crate::sync::Ordering::Release);
        assert_eq!(peer.release_word(7).unwrap().load(crate::sync::Ordering::Acquire), 3);
        assert!(peer.release_word(BLOCKS).is_none());
        assert!(peer.range(0, BASE_LEN as u64 + 1).is_none());
        assert!(peer.range(u64::MAX, 2).is_none());
    }

    #[test]
    fn memory_without_seals_is_refused() {
        let fd = memory_descriptor().unwrap();
        let file = std::fs::File::from(fd);
        file.set_len(4096).unwrap();
        assert!(matches!(Segment::accept(file.into(), 4096), Err(SegmentError::Seals { .. })));
    }

    #[test]
    fn a_file_and_another_size_are_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(Segment::accept(file.into(), 4096), Err(SegmentError::Seals { found: -1 })));
        let (_own, fd) = Segment::create(8192).unwrap();
        assert!(matches!(
            Segment::accept(fd, 4096),
            Err(SegmentError::Size { announced: 4096, found: 8192 })
        ));
    }
}

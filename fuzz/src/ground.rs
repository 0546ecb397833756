//! Memory that the fuzzer shares with the product: its own base segment, and the product's.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shmrpc_transport::slot::{HEADER, INLINE, SLOTS};

use crate::wire::{base_len, required, seal};

/// Where things lie in a base segment (ARCHITECTURE.md, segments).
pub(crate) const RELEASE: usize = 64;
pub(crate) const LANES: usize = 16_448;
pub(crate) const LANE: usize = 8_320;
pub(crate) const RING: usize = 128;
pub(crate) const TAKEN: usize = 64;
pub(crate) const DONE: usize = 68;
/// Where the arena of a base segment begins.
pub(crate) const ARENA: usize = 552_960;

/// A base segment, mapped.
pub(crate) struct Ground(MmapRaw);

impl Ground {
    /// The fuzzer's own, and its descriptor to send.
    pub(crate) fn own() -> (Self, OwnedFd) {
        let fd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(base_len()).unwrap();
        let map = MmapOptions::new().map_raw(&file).unwrap();
        let fd = OwnedFd::from(file);
        seal(&fd, required());
        (Self(map), fd)
    }

    /// The product's, to be read.
    pub(crate) fn product(fds: &mut VecDeque<OwnedFd>) -> Self {
        let file = File::from(fds.pop_front().expect("memory beside the hello"));
        assert_eq!(file.metadata().unwrap().len(), base_len());
        assert!(MmapOptions::new().map_raw(&file).is_err(), "others may write to the product's memory");
        Self(MmapOptions::new().map_raw_read_only(&file).unwrap())
    }

    fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.0.len());
        // SAFETY: inside the mapping and aligned; an atomic, whatever others do.
        unsafe { &*self.0.as_mut_ptr().add(at).cast::<AtomicU32>() }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.0.len());
        // SAFETY: as above.
        unsafe { &*self.0.as_mut_ptr().add(at).cast::<AtomicU64>() }
    }

    pub(crate) fn released(&self, id: u32) -> u32 {
        self.half(RELEASE + id as usize * 4).load(Ordering::Acquire)
    }

    pub(crate) fn taken(&self, lane: u32) -> u32 {
        self.half(LANES + lane as usize * LANE + TAKEN).load(Ordering::Acquire)
    }

    pub(crate) fn done(&self, lane: u32) -> u32 {
        self.half(LANES + lane as usize * LANE + DONE).load(Ordering::Acquire)
    }

    /// Any value, anywhere: mostly where it matters.
    pub(crate) fn scribble(&self, place: usize, at: u16, value: u64) {
        let at = usize::from(at);
        let at = match place % 3 {
            0 => RELEASE / 8 + at % 2048,
            1 => LANES / 8 + at % (4 * LANE / 8),
            _ => ARENA / 8 + at,
        };
        self.word(at * 8).store(value, Ordering::Release);
    }

    /// Writes to the arena, or anywhere else.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        for (step, piece) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.word(at + step * 8).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    /// Bytes, if there are as many.
    pub(crate) fn read(&self, at: usize, length: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(length).filter(|end| *end <= self.0.len())?;
        let mut bytes = Vec::with_capacity(length + 16);
        for step in at / 8..end.div_ceil(8) {
            bytes.extend_from_slice(&self.word(step * 8).load(Ordering::Acquire).to_le_bytes());
        }
        bytes.drain(..at % 8);
        bytes.truncate(length);
        Some(bytes)
    }

    fn slot(lane: u32, position: u32) -> usize {
        LANES + lane as usize * LANE + RING + (position % SLOTS) as usize * 64
    }

    pub(crate) fn stamp(&self, lane: u32, position: u32) -> u32 {
        self.half(Self::slot(lane, position)).load(Ordering::Acquire)
    }

    /// The header as a frame has it, and the payload.
    pub(crate) fn read_slot(&self, lane: u32, position: u32) -> ([u8; HEADER], [u64; INLINE / 8]) {
        let at = Self::slot(lane, position);
        let word = |step: usize| self.word(at + step * 8).load(Ordering::Acquire);
        let mut head = [0; HEADER];
        head[4..8].copy_from_slice(&word(0).to_le_bytes()[4..]);
        head[8..16].copy_from_slice(&word(1).to_le_bytes());
        head[16..].copy_from_slice(&word(2).to_le_bytes());
        (head, std::array::from_fn(|step| word(3 + step)))
    }

    /// Writes a message, its stamp last.
    pub(crate) fn write_slot(
        &self,
        lane: u32,
        position: u32,
        stamp: u32,
        head: &[u8; HEADER],
        payload: &[u8],
    ) {
        let at = Self::slot(lane, position);
        self.write(at + 8, &head[8..]);
        self.write(at + HEADER, payload);
        self.half(at + 4).store(u32::from_le_bytes([head[4], head[5], head[6], head[7]]), Ordering::Relaxed);
        self.half(at).store(stamp, Ordering::Release);
    }
}

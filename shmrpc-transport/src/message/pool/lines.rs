//! Private memory in whole lines, so that it has the alignment of a block.

use memmap2::MmapMut;

/// Bytes from which a buffer is a mapping of its own, which goes back to the system at once. An allocator may keep what is
/// freed: glibc's, once it was given a buffer of 4 MiB back, kept several in each of its arenas, and has eight arenas a core.
const MAPPED: usize = 128 << 10;

/// What buffers are made of.
#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer that is not initialised as a whole.
pub(super) struct Lines(Memory);

enum Memory {
    Heap(Vec<Line>),
    Mapped(MmapMut),
}

/// Bytes that a buffer for `length` bytes has.
pub(super) fn whole(length: usize) -> u64 {
    (length.div_ceil(size_of::<Line>()) as u64).saturating_mul(size_of::<Line>() as u64)
}

impl Lines {
    /// Room for `length` bytes. `None` if the system has no memory.
    pub(super) fn new(length: usize) -> Option<Self> {
        if length >= MAPPED {
            let length = length.checked_next_multiple_of(size_of::<Line>())?;
            return MmapMut::map_anon(length).ok().map(|map| Self(Memory::Mapped(map)));
        }
        let mut lines = Vec::new();
        lines.try_reserve_exact(length.div_ceil(size_of::<Line>())).ok()?;
        Some(Self(Memory::Heap(lines)))
    }

    /// None yet: nothing is allocated.
    pub(super) const fn none() -> Self {
        Self(Memory::Heap(Vec::new()))
    }

    /// Bytes that there is room for.
    pub(super) fn capacity(&self) -> usize {
        match &self.0 {
            Memory::Heap(lines) => lines.capacity().saturating_mul(size_of::<Line>()),
            Memory::Mapped(map) => map.len(),
        }
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        match &self.0 {
            Memory::Heap(lines) => lines.as_ptr().cast(),
            Memory::Mapped(map) => map.as_ptr(),
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.0 {
            Memory::Heap(lines) => lines.as_mut_ptr().cast(),
            Memory::Mapped(map) => map.as_mut_ptr(),
        }
    }

    /// The first `length` bytes, or all if there are fewer. What nobody has written yet is zero.
    pub(super) fn first(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(self.capacity());
        if let Memory::Heap(lines) = &mut self.0 {
            let needed = length.div_ceil(size_of::<Line>());
            if lines.len() < needed {
                lines.resize(needed, Line([0; 64]));
            }
        }
        // SAFETY: so many bytes of the buffer's lines have been written, by us or, in a mapping, by the kernel; the buffer
        // is borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(self.as_mut_ptr(), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_have_their_bytes_and_whole_lines() {
        for length in [0, 1, 64, 65, MAPPED - 1, MAPPED, MAPPED + 1] {
            let mut lines = Lines::new(length).unwrap();
            assert_eq!(lines.capacity() as u64, whole(length));
            assert!(lines.as_ptr().addr().is_multiple_of(64));
            for piece in [length / 2, length] {
                let first = lines.first(piece);
                assert_eq!(first.len(), piece);
                assert!(first[piece / 4..].iter().all(|byte| *byte == 0), "what nobody wrote");
                first[..piece / 8].fill(7);
            }
            assert_eq!(lines.first(usize::MAX).len() as u64, whole(length));
            assert_eq!(matches!(lines.0, Memory::Mapped(_)), length >= MAPPED);
        }
    }
}

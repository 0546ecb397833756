//! Memory that both processes map, for the limits: a few words on cache lines of their own, then room for payloads.
//!
//! ```text
//! 0                     16384                16384 + 16 MiB
//! +----+----+-- ... --+--------------------+
//! | line 0 | line 1 ...|  payload           |
//! +----+----+-- ... --+--------------------+
//! ```
//!
//! Who may write the payload is decided by the words: the caller writes it before it publishes, the peer reads it
//! until it answers.

use std::{
    fs::File,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{
    error::Result,
    work::{LARGEST, LINE, touch_lines},
};

/// Bytes of the words, before the payload.
const WORDS: usize = 16 * 1024;

/// Memory that both processes map.
pub(crate) struct Shared {
    map: MmapRaw,
    file: File,
}

impl Shared {
    /// Creates the memory, without a name anywhere.
    pub(crate) fn create() -> Result<Shared> {
        let file = File::from(memfd_create("shmrpc-bench", MFdFlags::MFD_CLOEXEC)?);
        file.set_len((WORDS + LARGEST) as u64)?;
        Shared::map(file)
    }

    /// Maps the memory that [`Shared::path`] names.
    pub(crate) fn open(path: &str) -> Result<Shared> {
        Shared::map(File::options().read(true).write(true).open(path)?)
    }

    fn map(file: File) -> Result<Shared> {
        // Populated, so that no batch pays for a page fault.
        let map = MmapOptions::new().populate().map_raw(&file)?;
        Ok(Shared { map, file })
    }

    /// Where another process of the same user finds the memory while this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The first eight bytes of cache line `line`.
    pub(crate) fn word(&self, line: usize) -> &AtomicU64 {
        // SAFETY: `at` returned an address inside the map, aligned to 64; all processes use this word as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(line).cast()) }
    }

    /// The first four bytes of cache line `line`, as a futex word.
    pub(crate) fn futex_word(&self, line: usize) -> &AtomicU32 {
        // SAFETY: `at` returned an address inside the map, aligned to 64; all processes use this word as an atomic.
        unsafe { AtomicU32::from_ptr(self.at(line).cast()) }
    }

    /// Clears every word. Only while the other side waits for a command.
    pub(crate) fn clear_words(&self) {
        for line in 0..WORDS / LINE {
            self.word(line).store(0, Relaxed);
        }
    }

    /// Copies `bytes` to the start of the payload. Only while the peer waits for a word.
    pub(crate) fn copy_in(&self, bytes: &[u8]) {
        let payload = self.payload(bytes.len());
        // SAFETY: `payload` checked the length; the source is private memory; nobody reads until a word is published.
        unsafe { payload.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies the start of the payload out. Only between the caller's word and the answer to it.
    pub(crate) fn copy_out(&self, into: &mut [u8]) {
        let payload = self.payload(into.len());
        // SAFETY: `payload` checked the length; the target is private memory; nobody writes until the answer.
        unsafe { payload.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
    }

    /// Reads one byte of every line of the payload where it lies. Only between the caller's word and the answer.
    pub(crate) fn touch(&self, len: usize) -> u64 {
        let payload = self.payload(len).cast_const();
        // SAFETY: `payload` checked the length, the map is initialized, and nobody writes it until the answer.
        touch_lines(unsafe { std::slice::from_raw_parts(payload, len) })
    }

    /// The start of the payload, for [`ring`](crate::limit::ring), after a check that `len` bytes fit.
    pub(crate) fn payload(&self, len: usize) -> *mut u8 {
        assert!(WORDS + len <= self.map.len(), "{len} bytes do not fit into the shared memory");
        self.map.as_mut_ptr().wrapping_add(WORDS)
    }

    fn at(&self, line: usize) -> *mut u8 {
        assert!(line < WORDS / LINE, "there is no line {line}");
        self.map.as_mut_ptr().wrapping_add(line * LINE)
    }
}

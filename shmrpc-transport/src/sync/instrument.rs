//! Other memories behind the same words, for tests (feature `instrument`): one that kills its process at the N-th
//! operation, one whose reads are anybody's guess, one that counts. Without the feature nothing of this is there.

use std::sync::OnceLock;

/// Stands between the program and the memory that it shares. Every method may be called by any thread at any time.
pub trait Memory: Sync {
    /// The word at `address` was read as `value`. The program sees what this returns, cut to the word's width.
    fn loaded(&self, address: usize, value: u64) -> u64 {
        let _ = address;
        value
    }

    /// `value` is about to be written to the word at `address`.
    fn storing(&self, address: usize, value: u64) {
        let _ = (address, value);
    }

    /// The bytes at `address` have been copied from the peer's memory to `copy`, which is private. The program sees
    /// what `copy` holds afterwards.
    fn copied(&self, address: usize, copy: &mut [u8]) {
        let _ = (address, copy);
    }

    /// A message has been published: the last word of its slot is written.
    fn published(&self) {}

    /// All of a message's frame has left over a stream.
    fn sent(&self) {}
}

static MEMORY: OnceLock<&'static dyn Memory> = OnceLock::new();

/// Puts `memory` between this process and all that it shares, for good.
///
/// # Panics
/// If there is one already.
pub fn install(memory: &'static dyn Memory) {
    assert!(MEMORY.set(memory).is_ok(), "a memory is installed already");
}

/// What is installed.
#[inline]
pub(crate) fn memory() -> Option<&'static dyn Memory> {
    MEMORY.get().copied()
}

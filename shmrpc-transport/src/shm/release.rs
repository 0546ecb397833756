//! The word by which the receiver of a block gives it back to its sender.

use crate::sync::{Ordering, Word};

/// Holds the generation of a block's use that was released last. Written by whoever drops that message last, read by the
/// owner of the arena.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(transparent)]
pub struct ReleaseWord(Word);

impl ReleaseWord {
    /// Gives the block back: nothing is read of it any more.
    #[inline]
    pub fn release(&self, generation: u32) {
        // Release: our reads of the block come before; pairs with the load in `ReleaseWord::released`.
        self.0.store(generation, Ordering::Release);
    }

    /// The generation that was released last: that use of the block is over, and its bytes may be written again.
    #[inline]
    pub fn released(&self) -> u32 {
        // Acquire: pairs with the store in `ReleaseWord::release`.
        self.0.load(Ordering::Acquire)
    }
}

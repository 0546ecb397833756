//! The one way to touch a word that two processes share.
//!
//! Every shared word is a [`Word`] (32 bits) or a [`Wide`] (64 bits). They offer single loads, single stores and
//! one fence, nothing else: no word has two writers, so no read-modify-write is ever needed. Under `cfg(loom)` the
//! same names are loom's atomics, and a futex is modelled by a queue beside the word, so that a lost wake-up shows
//! as a deadlock. With the feature `instrument`, tests put a memory of their own behind them.

#[cfg(feature = "instrument")]
pub mod instrument;

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(loom))]
mod atomic {
    pub(super) use core::sync::atomic::{AtomicU32, AtomicU64, fence};
}
#[cfg(loom)]
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
}

/// A shared 32-bit word. Who writes it and what it means stands on the field that holds it.
#[derive(Debug)]
#[repr(C)]
pub struct Word {
    value: atomic::AtomicU32,
    #[cfg(loom)]
    queue: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Word {
    /// Reads the word once.
    #[inline(always)]
    pub fn load(&self, order: Ordering) -> u32 {
        let value = self.value.load(order);
        #[cfg(feature = "instrument")]
        #[expect(clippy::cast_possible_truncation, reason = "a word has 32 bits")]
        let value = observed(self, value.into()) as u32;
        value
    }

    /// Writes the word once.
    #[inline(always)]
    pub fn store(&self, value: u32, order: Ordering) {
        #[cfg(feature = "instrument")]
        announce(self, value.into());
        self.value.store(value, order);
    }

    /// The address that the kernel knows the word by.
    #[cfg(not(loom))]
    pub fn as_ptr(&self) -> *const u32 {
        self.value.as_ptr()
    }

    /// Sleeps while the word holds `expected`, as FUTEX_WAIT does.
    #[cfg(loom)]
    pub fn wait_while(&self, expected: u32) {
        let mut guard = self.queue.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.load(Ordering::Relaxed) == expected {
            guard = self.queue.1.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        drop(guard);
    }

    /// Wakes one that sleeps on the word, as FUTEX_WAKE of one does.
    #[cfg(loom)]
    pub fn wake(&self) {
        let guard = self.queue.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.queue.1.notify_one();
        drop(guard);
    }
}

/// A shared 64-bit word. Who writes it and what it means stands on the field that holds it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Wide {
    value: atomic::AtomicU64,
}

impl Wide {
    /// Reads the word once.
    #[inline(always)]
    pub fn load(&self, order: Ordering) -> u64 {
        let value = self.value.load(order);
        #[cfg(feature = "instrument")]
        let value = observed(self, value);
        value
    }

    /// Writes the word once.
    #[inline(always)]
    pub fn store(&self, value: u64, order: Ordering) {
        #[cfg(feature = "instrument")]
        announce(self, value);
        self.value.store(value, order);
    }
}

#[cfg(feature = "instrument")]
fn observed<T>(word: &T, value: u64) -> u64 {
    instrument::memory().map_or(value, |memory| memory.loaded(core::ptr::from_ref(word).addr(), value))
}

#[cfg(feature = "instrument")]
fn announce<T>(word: &T, value: u64) {
    if let Some(memory) = instrument::memory() {
        memory.storing(core::ptr::from_ref(word).addr(), value);
    }
}

/// A message has been published. Nothing but for tests.
#[inline(always)]
pub(crate) fn published() {
    #[cfg(feature = "instrument")]
    if let Some(memory) = instrument::memory() {
        memory.published();
    }
}

/// A message has left over a stream. Nothing but for tests.
#[inline(always)]
pub(crate) fn sent() {
    #[cfg(feature = "instrument")]
    if let Some(memory) = instrument::memory() {
        memory.sent();
    }
}

/// Asks for the cache line of `word`, so that the store that comes soon does not wait for it. Changes nothing else.
///
/// The peer has polled that line, so its copy must go before ours can be written: 20 to 150 ns on the way of a call
/// (ARCHITECTURE.md has the measurement), which pass while the message is being made.
#[inline(always)]
pub(crate) fn own_soon(word: &Word) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch accesses nothing in the eyes of the program, and faults on no address. Processors without
    // the instruction run it as one that does nothing.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) word.as_ptr(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(loom)))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) word.as_ptr(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(loom, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = word;
}

/// Orders every earlier access before every later one, for all threads that also fence.
///
/// Its callers name their partner: it always stands between "write mine" and "read theirs" on both sides.
#[inline(always)]
pub(crate) fn fence_seq_cst() {
    atomic::fence(Ordering::SeqCst);
}

/// Orders earlier stores before later stores of the same thread, as other processes see them.
#[inline(always)]
pub(crate) fn fence_release() {
    atomic::fence(Ordering::Release);
}

/// One polite turn of a busy wait.
#[inline(always)]
pub(crate) fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

#[cfg(loom)]
impl Default for Word {
    fn default() -> Self {
        Self {
            value: atomic::AtomicU32::new(0),
            queue: (loom::sync::Mutex::new(()), loom::sync::Condvar::new()),
        }
    }
}

#[cfg(loom)]
impl Default for Wide {
    fn default() -> Self {
        Self { value: atomic::AtomicU64::new(0) }
    }
}

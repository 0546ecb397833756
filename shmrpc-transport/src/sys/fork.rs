//! Knows a forked child from its parent, for the price of one load.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

/// Grows by one in every forked child.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The process that something was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

impl Generation {
    /// That of the calling process. From the first call on, forks are counted.
    pub fn current() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handler only adds to an atomic, which is allowed in a forked child.
            let result = unsafe { libc::pthread_atfork(None, None, Some(count)) };
            if result != 0 {
                tracing::warn!(result, "forks cannot be counted; do not use a client in a forked child");
            }
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is still the process that made it.
    #[inline(always)]
    pub fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

unsafe extern "C" fn count() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

//! Bytes that all peers of a server may have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes for copies of messages, and for what is lent, over all connections of one server.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicU64>,
    cap: u64,
}

/// A part of a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// Of so many bytes.
    pub fn new(cap: u64) -> Self {
        Self { taken: Arc::default(), cap }
    }

    /// A part of it, unless there would be more than it has.
    pub(crate) fn part(&self, bytes: u64) -> Option<Taken> {
        self.take(bytes).then(|| Taken { budget: self.clone(), bytes })
    }

    /// False if there would be more than it has.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let taken = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.cap);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Counts what has room in any case.
    pub(super) fn take_anyway(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn left(&self) -> u64 {
        self.cap.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    pub(crate) fn cap(&self) -> u64 {
        self.cap
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

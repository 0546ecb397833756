//! Bytes that all peers of a server may have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes for copies of messages, for those on their way out, and for what is lent, over all connections of one server.
#[derive(Debug, Clone)]
pub struct Budget {
    books: Arc<Books>,
    cap: u64,
}

#[derive(Debug, Default)]
struct Books {
    taken: AtomicU64,
    /// Those among them that buffers have which nobody uses.
    warm: AtomicU64,
}

/// The part of it that may be warm, while nobody uses it: it is with one peer, and no other one can have it.
const WARM: u64 = 8;

fn take(from: &AtomicU64, bytes: u64, cap: u64) -> bool {
    let taken = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= cap);
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
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
        Self { books: Arc::default(), cap }
    }

    /// A part of it, unless there would be more than it has.
    pub(crate) fn part(&self, bytes: u64) -> Option<Taken> {
        self.take(bytes).then(|| Taken { budget: self.clone(), bytes })
    }

    /// False if there would be more than it has.
    pub(super) fn take(&self, bytes: u64) -> bool {
        take(&self.books.taken, bytes, self.cap)
    }

    /// Whether a buffer of so many bytes may stay warm. It counts until it is [used again, or given up](Self::cool).
    pub(super) fn keep_warm(&self, bytes: u64) -> bool {
        take(&self.books.warm, bytes, self.cap / WARM)
    }

    pub(super) fn cool(&self, bytes: u64) {
        self.books.warm.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether it is the same server's.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.books, &other.books)
    }

    /// Counts what has room in any case.
    pub(super) fn take_anyway(&self, bytes: u64) {
        self.books.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give(&self, bytes: u64) {
        self.books.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn left(&self) -> u64 {
        self.cap.saturating_sub(self.books.taken.load(Ordering::Relaxed))
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

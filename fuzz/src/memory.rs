//! How much memory the product takes for what a peer sent: a bound on every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// No single allocation is above this. A control frame has at most 1 MiB, and a vector may grow to twice that; the
/// largest payload that a target makes up is below it, too.
const LARGEST: usize = 4 << 20;
/// All allocations together.
const ALL: usize = 64 << 20;

struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

static LARGEST_YET: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST_YET: AtomicUsize = AtomicUsize::new(0);

fn count(size: usize) {
    LARGEST_YET.fetch_max(size, Ordering::Relaxed);
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    MOST_YET.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: leaves everything to the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Nothing that was allocated so far was above the bounds.
pub(crate) fn assert_bounded() {
    let (largest, most) = (LARGEST_YET.load(Ordering::Relaxed), MOST_YET.load(Ordering::Relaxed));
    assert!(largest <= LARGEST, "one allocation had {largest} bytes");
    assert!(most <= ALL, "{most} bytes were allocated at the same time");
}

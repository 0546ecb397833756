//! Knows a forked child from its parent, for the price of one load; and descriptors that a child does not keep.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Grows by one in every forked child.
static GENERATION: AtomicU64 = AtomicU64::new(1);
/// Children that this process has forked.
static CHILDREN: AtomicU64 = AtomicU64::new(0);

/// The process that something was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

impl Generation {
    /// That of the calling process. From the first call on, forks are counted.
    pub fn current() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handlers store to atomics and exchange descriptors by system calls, which is allowed in a
            // forked child.
            let result = unsafe { libc::pthread_atfork(None, Some(in_parent), Some(in_child)) };
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

/// How many children this process has forked since forks are counted.
pub(crate) fn children() -> u64 {
    CHILDREN.load(Ordering::Relaxed)
}

/// Descriptors that children do not keep; negative: none. Room for the lock and the socket of 128 endpoints.
static PLACES: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];
/// What a child gets instead: a descriptor that does nothing.
static COVER: OnceLock<EventFd> = OnceLock::new();

/// Something with a descriptor that forked children inherit, until [`Inherited::keep`]. After that they have the number
/// still, which is theirs to close and stands for nothing.
#[derive(Debug)]
pub(crate) struct Inherited<T> {
    // Cleared before the descriptor is closed, and its number another's.
    place: Option<Place>,
    inner: T,
}

impl<T: AsFd> Inherited<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { place: None, inner }
    }

    /// From now on, children of this process do not inherit it.
    ///
    /// # Errors
    /// The system's, if it has no descriptor left.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        Generation::current();
        if COVER.get().is_none() {
            let cover = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            // Another thread may have been faster: then ours is closed.
            drop(COVER.set(cover));
        }
        let fd = self.inner.as_fd().as_raw_fd();
        let take =
            |place: &&AtomicI32| place.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.place = PLACES.iter().find(take).map(|place| Place { place, fd });
        if self.place.is_none() {
            tracing::warn!(places = PLACES.len(), "no place left; forked children inherit this descriptor");
        }
        Ok(())
    }
}

impl<T> Deref for Inherited<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

#[derive(Debug)]
struct Place {
    place: &'static AtomicI32,
    fd: i32,
}

impl Drop for Place {
    fn drop(&mut self) {
        // In a child it is empty already, or holds what the child put there.
        let _ = self.place.compare_exchange(self.fd, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

unsafe extern "C" fn in_parent() {
    CHILDREN.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    CHILDREN.store(0, Ordering::Relaxed);
    let Some(cover) = COVER.get() else { return };
    for place in &PLACES {
        let fd = place.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: `fd` is open, since its place is cleared before it is closed; whoever owns it now owns a
            // descriptor of the cover.
            unsafe { libc::dup3(cover.as_raw_fd(), fd, libc::O_CLOEXEC) };
        }
    }
}

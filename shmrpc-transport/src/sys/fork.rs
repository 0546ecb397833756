//! Knows a forked child from its parent, for the price of one load; and descriptors that a child does not keep.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

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
        static COUNTED: AtLeastOnce = AtLeastOnce::new();
        // Counted twice they differ as well.
        COUNTED.run(|| {
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

/// Something that has to be done before others go on, and that may be done again. A forked child waits for no thread of its parent
/// that was just doing it.
pub(crate) struct AtLeastOnce(AtomicBool);

impl AtLeastOnce {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(crate) fn run(&self, work: impl FnOnce()) {
        if !self.0.load(Ordering::Acquire) {
            work();
            self.0.store(true, Ordering::Release);
        }
    }
}

/// How many children this process has forked since forks are counted.
pub(crate) fn children() -> u64 {
    CHILDREN.load(Ordering::Relaxed)
}

/// What each process has one of. A forked child makes its own: what its parent has may be locked there for good, by a
/// thread that the child does not have, and so may any lock that would stand here.
pub(crate) struct PerProcess<T>(AtomicPtr<Own<T>>);

struct Own<T> {
    process: Generation,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// That of this process. Of two threads that make it at once, one makes it in vain.
    ///
    /// # Errors
    /// Those of `make`; the next one who asks tries again.
    pub(crate) fn get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let found = self.0.load(Ordering::Acquire);
        // SAFETY: whatever is in here was made below and is never freed, nor changed.
        if let Some(own) = unsafe { found.as_ref() }
            && own.process.is_current()
        {
            return Ok(&own.value);
        }
        let own = Box::new(Own { process: Generation::current(), value: make()? });
        let made = Box::into_raw(own);
        let own = match self.0.compare_exchange(found, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                faster
            }
        };
        // SAFETY: as above; not null, since it was made by this thread or by another one of this process.
        Ok(unsafe { &(*own).value })
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;
    use std::sync::mpsc::channel;

    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, alarm, fork};

    use super::*;

    /// Forks in the midst of other tests. The child does its part, takes no lock there but the allocator's, which glibc
    /// sees to, and says whether it went well; it has 30 s.
    pub(crate) fn ends_well_in_a_child(part: impl FnOnce() -> bool) {
        // SAFETY: the child calls nothing but what follows, and by the above it waits for no thread that it does not have.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                alarm::set(30);
                let well = part();
                // SAFETY: ends the process and does nothing else.
                unsafe { libc::_exit(i32::from(!well)) }
            }
        };
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    }

    /// A child that was forked while another thread made the parent's has its own, and waits for nobody.
    #[test]
    fn a_child_waits_for_no_thread_of_its_parent() {
        static ONE: PerProcess<u32> = PerProcess::new();
        let (making, is_making) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let maker = std::thread::spawn(move || {
            ONE.get(|| {
                making.send(()).unwrap();
                let _ = may_go_on.recv();
                Ok::<_, Infallible>(1)
            })
        });
        is_making.recv().unwrap();
        ends_well_in_a_child(|| {
            let Ok(own) = ONE.get(|| Ok::<_, Infallible>(2));
            *own == 2
        });
        drop(go_on);
        assert_eq!(maker.join().unwrap(), Ok(&1));
        assert_eq!(ONE.get(|| Ok::<_, Infallible>(3)), Ok(&1));
    }

    /// Nor for one that is just doing what has to be done once.
    #[test]
    fn a_child_does_again_what_its_parent_had_begun() {
        static DONE: AtLeastOnce = AtLeastOnce::new();
        let (doing, is_doing) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let worker = std::thread::spawn(move || {
            DONE.run(|| {
                doing.send(()).unwrap();
                let _ = may_go_on.recv();
            });
        });
        is_doing.recv().unwrap();
        ends_well_in_a_child(|| {
            let mut done = 0;
            (0..2).for_each(|_| DONE.run(|| done += 1));
            done == 1
        });
        drop(go_on);
        worker.join().unwrap();
        DONE.run(|| panic!("it was done"));
    }
}

//! A value that one thread at a time may have; nobody waits for it here.
//!
//! A mutex whose unlocking is a plain store: a call takes and leaves its lane, and a second locked instruction is a
//! visible part of what a call costs (7 ns of about 200 where this was measured).

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};

/// A value behind a flag.
#[derive(Debug)]
pub struct Exclusive<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
    /// Stands for the value where loom is to see who has it.
    #[cfg(loom)]
    seen: loom::cell::UnsafeCell<()>,
}

// SAFETY: the flag gives the value to one thread at a time, and taking it (Acquire) comes after leaving it (Release).
unsafe impl<T: Send> Sync for Exclusive<T> {}

/// The value, until dropped.
#[derive(Debug)]
pub struct Taken<'a, T> {
    from: &'a Exclusive<T>,
    /// `None` once the value is given up.
    #[cfg(loom)]
    seen: Option<loom::cell::MutPtr<()>>,
}

impl<T> Exclusive<T> {
    /// Nobody has it.
    pub fn new(value: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
            #[cfg(loom)]
            seen: loom::cell::UnsafeCell::new(()),
        }
    }

    /// Takes the value if nobody has it.
    #[inline(always)]
    pub fn take(&self) -> Option<Taken<'_, T>> {
        if self.taken.load(Ordering::Relaxed) || self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Taken {
            from: self,
            #[cfg(loom)]
            seen: Some(self.seen.get_mut()),
        })
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the flag was taken by whoever made `self`, and nobody else has the value until it is dropped.
        unsafe { &*self.from.value.get() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { &mut *self.from.value.get() }
    }
}

impl<T> Drop for Taken<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(loom)]
        drop(self.seen.take());
        self.from.taken.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let value = Exclusive::new(1);
        let mut taken = value.take().unwrap();
        *taken += 1;
        assert!(value.take().is_none());
        drop(taken);
        assert_eq!(*value.take().unwrap(), 2);
    }

    #[test]
    fn threads_lose_nothing() {
        let value = Exclusive::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        loop {
                            if let Some(mut taken) = value.take() {
                                *taken += 1;
                                break;
                            }
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*value.take().unwrap(), 4000);
    }
}

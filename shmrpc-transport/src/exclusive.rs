//! A value that one thread at a time may have; nobody waits for it here.
//!
//! A mutex whose unlocking is a plain store: a call takes and leaves its lane, and a second locked instruction is a
//! visible part of what a call costs (7 ns of about 200 where this was measured).

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A value behind a flag.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the flag gives the value to one thread at a time, and taking it (Acquire) comes after leaving it (Release).
unsafe impl<T: Send> Sync for Exclusive<T> {}

/// The value, until dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a, T>(&'a Exclusive<T>);

impl<T> Exclusive<T> {
    /// Nobody has it.
    pub(crate) fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the value if nobody has it.
    #[inline(always)]
    pub(crate) fn take(&self) -> Option<Taken<'_, T>> {
        if self.taken.load(Ordering::Relaxed) || self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Taken(self))
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the flag was taken by whoever made `self`, and nobody else has the value until it is dropped.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Taken<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Taken<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
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

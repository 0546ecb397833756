//! What one-way calls oblige the next calls to: a thread's trails.

use std::cell::{Cell, RefCell};
use std::mem;
use std::sync::Weak;

use crate::connection::Connection;

thread_local! {
    /// One-way calls of this thread that may not have run yet: at most one entry a client.
    static TRAILS: RefCell<Vec<Trail>> = const { RefCell::new(Vec::new()) };
    /// Whether `TRAILS` has entries: all that a call looks at.
    static HAS_TRAILS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread has any.
#[inline(always)]
pub(super) fn has_trails() -> bool {
    HAS_TRAILS.get()
}

/// Where this thread's latest one-way call of a client went.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    pub(super) client: u64,
    pub(super) connection: Weak<Connection>,
    pub(super) lane: u32,
    /// The lane's position after that call.
    pub(super) position: u32,
}

/// What one lane's handlers have called one-way: their next calls come after it, whichever thread runs them, and those of other
/// lanes' handlers do not.
#[derive(Debug, Default)]
pub struct Trails(Vec<Trail>);

impl Trails {
    /// Changes places with those of this thread.
    #[inline(always)]
    pub fn swap(&mut self) {
        if HAS_TRAILS.get() || !self.0.is_empty() {
            self.swap_some();
        }
    }

    #[cold]
    fn swap_some(&mut self) {
        let _ = TRAILS.try_with(|trails| {
            let mut trails = trails.borrow_mut();
            mem::swap(&mut *trails, &mut self.0);
            HAS_TRAILS.set(!trails.is_empty());
        });
    }
}

/// Reads or changes this thread's trails; those of connections that have ended go on the way. `None` in the destructors
/// of a thread that ends, where there are no trails any more.
pub(super) fn with_trails<T>(work: impl FnOnce(&mut Vec<Trail>) -> T) -> Option<T> {
    let done = TRAILS.try_with(|trails| {
        let mut trails = trails.borrow_mut();
        trails.retain(|trail| {
            trail.connection.upgrade().is_some_and(|connection| connection.death().is_none())
        });
        let done = work(&mut trails);
        HAS_TRAILS.set(!trails.is_empty());
        done
    });
    if done.is_err() {
        HAS_TRAILS.set(false);
    }
    done.ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn of(client: u64) -> Trail {
        Trail { client, connection: Weak::new(), lane: 0, position: 1 }
    }

    fn clients() -> Vec<u64> {
        TRAILS.with_borrow(|trails| trails.iter().map(|trail| trail.client).collect())
    }

    #[test]
    fn each_lane_keeps_its_own() {
        let (mut one, mut other) = (Trails(vec![of(1)]), Trails::default());
        other.swap();
        assert!(!has_trails());
        one.swap();
        assert!(has_trails());
        assert_eq!(clients(), [1]);
        TRAILS.with_borrow_mut(|trails| trails.push(of(2)));
        one.swap();
        assert!(!has_trails() && clients().is_empty(), "another lane's handler waits for it");
        // On another thread, too.
        let there = std::thread::spawn(move || {
            one.swap();
            (has_trails(), clients())
        });
        assert_eq!(there.join().unwrap(), (true, vec![1, 2]));
    }
}

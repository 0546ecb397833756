//! How long a receiver looks before it sleeps: a short spin, then turns of `sched_yield`; adapts to whether the last
//! waits paid.
//!
//! Sleeping and being woken costs a few microseconds on bare metal and up to a hundred in a virtual machine, so a
//! receiver that was lucky lately looks for as long as that. Where others want the core, each turn lets them run, and
//! a few such turns are the end of it.

use core::time::Duration;
use std::time::Instant;

use crate::sync::relax;
use crate::sys::futex::yield_now;

/// The state of one receiver's ladder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ladder {
    spins: u32,
    patience: Duration,
    /// Stamp at which the next turn for others is due.
    turn_at: u32,
    /// When the wait that is now slow began to be.
    since: Option<Instant>,
}

/// Looks with a pause between them (about 25 ns each), at least and at most.
const SPINS: [u32; 2] = if cfg!(loom) { [0, 0] } else { [8, 64] };
/// Time for turns of `sched_yield`, at least and at most.
const PATIENCE: [Duration; 2] = if cfg!(loom) {
    [Duration::ZERO, Duration::ZERO]
} else {
    [Duration::from_micros(5), Duration::from_micros(100)]
};
/// A turn that took longer let somebody else run.
const CROWDED: Duration = Duration::from_nanos(1_500);
/// Turns that let others run, at most.
const CROWDED_TURNS: u32 = 20;
/// Waits between two turns for others, if somebody took the last one, and if nobody did.
const TURN_EVERY: [u32; 2] = [16, 1024];
/// Looks between two turns while nobody else wants the core.
const LOOKS: u32 = 16;

impl Ladder {
    /// Looks that the first, short spin takes for the message with this stamp: none if a turn for others is due.
    /// Without such turns, two processes that never wait long would keep their cores to themselves.
    #[inline(always)]
    pub(crate) fn spins(&self, stamp: u32) -> u32 {
        if stamp.wrapping_sub(self.turn_at) > u32::MAX / 2 { self.spins } else { 0 }
    }

    /// Goes on after the short spin, until `ready` says yes or patience ends. True if it said yes.
    pub(crate) fn climb(&mut self, stamp: u32, ready: impl Fn() -> bool) -> bool {
        self.spins = (self.spins / 2).max(SPINS[0]);
        if self.patience.is_zero() {
            return false;
        }
        let start = Instant::now();
        self.since = Some(start);
        let found = self.turns(stamp, start, &ready);
        if found {
            self.patience = (self.patience * 2).min(PATIENCE[1]);
            self.spins = (self.spins * 4).min(SPINS[1]);
        }
        found
    }

    /// The message came after all, by sleeping. Longer patience would have paid if it did not take much longer.
    pub(crate) fn slept(&mut self) {
        let Some(since) = self.since.take() else { return };
        let [least, most] = PATIENCE;
        self.patience = if since.elapsed() < most * 2 { most } else { (self.patience / 2).max(least) };
    }

    fn turns(&mut self, stamp: u32, start: Instant, ready: &impl Fn() -> bool) -> bool {
        let mut before = start;
        let mut crowded = 0;
        self.turn_at = stamp.wrapping_add(TURN_EVERY[1]);
        loop {
            yield_now();
            if ready() {
                return true;
            }
            let now = Instant::now();
            if now - before > CROWDED {
                self.turn_at = stamp.wrapping_add(TURN_EVERY[0]);
                crowded += 1;
                if crowded >= CROWDED_TURNS {
                    return false;
                }
            } else {
                for _ in 0..LOOKS {
                    relax();
                    if ready() {
                        return true;
                    }
                }
            }
            if now - start > self.patience {
                return false;
            }
            before = Instant::now();
        }
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Self { spins: SPINS[1], patience: PATIENCE[1], turn_at: TURN_EVERY[1], since: None }
    }
}

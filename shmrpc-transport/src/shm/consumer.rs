//! The receiving end of a ring: ready, take, finish, sleep.

use core::ops::Deref;

use super::slot::{ASLEEP, BadHeader, LaneSide, SLOTS, Taken};
use crate::sync::{Ordering, fence_release, fence_seq_cst, relax};
use crate::sys::futex::{self, Stop, Until};

/// Receives from the ring in `peer`, which it maps read-only.
#[derive(Debug)]
pub struct Consumer<S> {
    own: S,
    peer: S,
    /// Position of the next message. Private.
    next: u32,
    ladder: Ladder,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A message is there.
    Ready,
    /// Somebody set the stop word, and no message is there.
    Stopped,
    /// The time is over, and no message is there.
    TimedOut,
}

impl<S: Deref<Target = LaneSide>> Consumer<S> {
    /// A consumer at position zero of a fresh ring.
    pub fn new(own: S, peer: S) -> Self {
        Self { own, peer, next: 0, ladder: Ladder::default() }
    }

    /// Whether the next message has been published.
    #[inline(always)]
    pub fn ready(&self) -> bool {
        // Acquire: pairs with the Release store of the stamp in `Slot::write`.
        self.peer.slot(self.next).stamp.load(Ordering::Acquire) == self.next.wrapping_add(1)
    }

    /// Copies the next message into private memory; [`Consumer::ready`] has said yes.
    ///
    /// From here on the peer cannot prove that the message was not taken.
    ///
    /// # Errors
    /// [`BadHeader`]: the peer wrote what no correct peer writes; the lane is of no more use.
    #[inline(always)]
    pub fn take(&mut self) -> Result<Taken, BadHeader> {
        let taken = self.peer.slot(self.next).read();
        self.next = self.next.wrapping_add(1);
        // The handler's effects come after this store, in the eyes of whoever looks after our death.
        self.own.taken.store(self.next, Ordering::Relaxed);
        fence_release();
        taken
    }

    /// Gives the credits of all messages taken so far back to the peer.
    #[inline(always)]
    pub fn finish(&mut self) {
        // Release: pairs with the Acquire load in `Producer::refresh_credits`.
        self.own.done.store(self.next, Ordering::Release);
    }

    /// Wakes the peer if it sleeps for want of credits.
    ///
    /// Needs [`fence_seq_cst`] between the last [`Consumer::finish`] and this call, between our `done` and the
    /// peer's `credit_wanted`; partner: the fence in `Producer::sleep_for_credit`.
    #[inline(always)]
    pub(crate) fn wake_creditor(&self) {
        if self.peer.credit_wanted.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.own.done);
        }
    }

    /// Wakes the peer if it sleeps for want of credits; for whoever has nothing to publish.
    pub fn tell_creditor(&self) {
        fence_seq_cst();
        self.wake_creditor();
    }

    /// Waits for the next message: a short spin, a few yields, then the futex.
    ///
    /// # Errors
    /// [`BadHeader::Stamp`] if the slot holds a stamp that no correct peer writes there.
    #[inline(always)]
    pub fn wait(&mut self, stop: &Stop, until: &mut Until) -> Result<Wait, BadHeader> {
        for _ in 0..Ladder::EAGER {
            if self.ready() {
                return Ok(Wait::Ready);
            }
        }
        self.wait_slowly(stop, until)
    }

    #[inline(never)]
    fn wait_slowly(&mut self, stop: &Stop, until: &mut Until) -> Result<Wait, BadHeader> {
        for turn in 0..self.ladder.spins {
            relax();
            if self.ready() {
                self.ladder.spin_paid(turn);
                return Ok(Wait::Ready);
            }
        }
        self.ladder.spin_failed();
        for turn in 0..self.ladder.yields {
            futex::yield_now();
            if self.ready() {
                self.ladder.yield_paid(turn);
                return Ok(Wait::Ready);
            }
        }
        self.ladder.yield_failed();
        loop {
            if self.sleep(stop, until)? {
                return Ok(Wait::Ready);
            }
            if stop.is_set() {
                // What was published before the stop is still delivered.
                return Ok(if self.ready() { Wait::Ready } else { Wait::Stopped });
            }
            if until.is_over() {
                return Ok(if self.ready() { Wait::Ready } else { Wait::TimedOut });
            }
        }
    }

    /// Sleeps once. True if the next message is there.
    ///
    /// # Errors
    /// [`BadHeader::Stamp`] if the slot holds a stamp that no correct peer writes there.
    pub fn sleep(&mut self, stop: &Stop, until: &mut Until) -> Result<bool, BadHeader> {
        self.own.asleep.store(ASLEEP | u64::from(self.next), Ordering::Relaxed);
        // Between our `asleep` and our last look at the stamp; partner: the fence before `Producer::wake_sleeper`.
        fence_seq_cst();
        let slot = self.peer.slot(self.next);
        let found = slot.stamp.load(Ordering::Acquire);
        let expected = self.next.wrapping_add(1);
        if found != expected {
            let last_lap = if self.next < SLOTS && found == 0 { 0 } else { expected.wrapping_sub(SLOTS) };
            if found != last_lap {
                self.own.asleep.store(0, Ordering::Relaxed);
                return Err(BadHeader::Stamp { found, expected });
            }
            futex::wait(&slot.stamp, found, stop, until);
        }
        self.own.asleep.store(0, Ordering::Relaxed);
        Ok(self.ready())
    }
}

/// How long to spin and to yield before sleeping; adapts to whether the last waits paid.
#[derive(Debug, Clone, Copy)]
struct Ladder {
    spins: u32,
    yields: u32,
}

impl Ladder {
    /// Looks at the stamp without pausing between them: the answer of an awake peer is found here, about 300 ns.
    const EAGER: u32 = 0;
    /// Spins with a pause between them, at least and at most.
    const SPINS: [u32; 2] = if cfg!(loom) { [0, 0] } else { [64, 512] };
    /// Turns of `sched_yield`, at least and at most.
    const YIELDS: [u32; 2] = if cfg!(loom) { [0, 0] } else { [2, 20] };

    fn spin_paid(&mut self, _turn: u32) {
        self.spins = (self.spins * 2).min(Self::SPINS[1]);
    }

    fn spin_failed(&mut self) {
        self.spins = (self.spins / 2).max(Self::SPINS[0]);
    }

    fn yield_paid(&mut self, _turn: u32) {
        self.yields = (self.yields * 2).min(Self::YIELDS[1]);
    }

    fn yield_failed(&mut self) {
        self.yields = (self.yields / 2).max(Self::YIELDS[0]);
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Self { spins: Self::SPINS[1], yields: Self::YIELDS[1] }
    }
}

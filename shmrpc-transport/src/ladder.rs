//! How long a receiver looks before it sleeps: a short spin, then turns of `sched_yield`; adapts to whether the last
//! waits paid.
//!
//! Sleeping and being woken costs a few microseconds on bare metal and up to a hundred in a virtual machine, so a
//! receiver that was lucky lately looks for as long as that. Where others want the core, each turn lets them run, and
//! a few such turns are the end of it.

use core::time::Duration;
use std::time::Instant;

use self::crowd::{Advice, Crowd};
use crate::sync::relax;
use crate::sys::futex::{times_displaced, yield_now};

mod crowd;

/// The state of one receiver's ladder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ladder {
    spins: u8,
    /// The most of them in a crowd.
    crowded_spins: u8,
    /// For what follows a small message; `weight` times as long after a large one.
    patience: Duration,
    weight: u32,
    /// Stamp at which the next turn for others is due.
    turn_at: u32,
    /// Stamp for which the short spin last looked in vain in a crowd, and for how many in a row it did.
    missed_at: u32,
    missed: u8,
    /// When the wait that is now slow began to be.
    since: Option<Instant>,
    crowd: Crowd,
}

/// What a climb came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Climb {
    /// What was waited for is there.
    Found,
    /// Patience has ended.
    Missed,
    /// It was not begun: the core is crowded, and whoever waits knows of something better to do than to take turns.
    Crowded,
}

/// Looks with a pause between them (about 25 ns each), at least and at most.
const SPINS: [u8; 2] = if cfg!(loom) { [0, 0] } else { [8, 128] };
/// The same in a crowd: while the partner probably waits for this very core, and while it runs on another one.
const CROWDED_SPINS: [u8; 2] = if cfg!(loom) { [0, 0] } else { [1, 32] };
/// The most of these where each look is a system call: as much time.
const CROWDED_GLANCES: u8 = 16;
/// Short spins in vain, one after the other, after which the partner is not on another core any more.
const VAIN: u8 = 3;
/// Time for turns of `sched_yield`, at least and at most.
const PATIENCE: [Duration; 2] = if cfg!(loom) {
    [Duration::ZERO, Duration::ZERO]
} else {
    [Duration::from_micros(5), Duration::from_micros(100)]
};
/// Bytes of a message that earn what follows it one more measure of patience: 100 us for what takes about as long to
/// copy and to read.
const HEAVY: u32 = 1 << 20;
/// Patience is never longer: deadlines are first looked at after it.
const LONGEST: Duration = Duration::from_millis(25);
/// Turns of a slow wait on a crowded core, at most: whoever goes on for long there starves the others.
const CROWDED_TURNS: u32 = 4;
/// Waits between two turns for others, in a crowd and elsewhere.
const TURN_EVERY: [u32; 2] = [32, 1024];
/// Looks between two turns while nobody else wants the core.
const LOOKS: u8 = 64;

impl Ladder {
    /// Of a receiver whose looks are system calls.
    pub(crate) fn of_glances() -> Self {
        Self { crowded_spins: CROWDED_GLANCES, ..Self::default() }
    }

    /// Looks that the first, short spin takes for the message with this stamp: none if a turn for others is due.
    /// Without such turns, two processes that never wait long would keep their cores to themselves.
    #[inline(always)]
    pub(crate) fn spins(&self, stamp: u32) -> u8 {
        if stamp.wrapping_sub(self.turn_at) > u32::MAX / 2 { self.spins } else { 0 }
    }

    /// What is waited for next follows a message of `bytes` bytes. Whoever has just worked for long on one may look for
    /// as long again; the time lost if nothing comes stays in proportion.
    #[inline(always)]
    pub(crate) fn follows(&mut self, bytes: u32) {
        self.weight = 1 + bytes / HEAVY;
    }

    /// Whoever goes on finds out anew whether there is a crowd.
    pub(crate) fn forget_crowd(&mut self) {
        self.crowd.forget();
    }

    /// Goes on after the short spin, until `ready` says yes or patience ends; or, if `takes_no_turns`, until it would take turns
    /// in a crowd.
    pub(crate) fn climb(&mut self, stamp: u32, takes_no_turns: bool, ready: impl Fn() -> bool) -> Climb {
        if self.spins(stamp) > 0 {
            self.looked_in_vain(stamp);
        }
        if self.patience.is_zero() {
            return Climb::Missed;
        }
        let advice = self.crowd.advice();
        let found = match advice {
            Advice::TurnsUntimed if takes_no_turns => {
                self.since = None;
                return Climb::Crowded;
            }
            Advice::TurnsUntimed => self.take_turns(stamp, ready),
            timed => self.climb_timed(stamp, timed, ready),
        };
        if found { Climb::Found } else { Climb::Missed }
    }

    /// The short spin did.
    fn looked_in_vain(&mut self, stamp: u32) {
        if !self.crowd.is_there() {
            self.spins = (self.spins / 2).max(SPINS[0]);
            return;
        }
        let in_a_row = stamp == self.missed_at.wrapping_add(1);
        self.missed = if in_a_row { self.missed.saturating_add(1) } else { 1 };
        self.missed_at = stamp;
        self.spins = if self.missed < VAIN { self.spins.min(self.crowded_spins) } else { CROWDED_SPINS[0] };
    }

    fn climb_timed(&mut self, stamp: u32, advice: Advice, ready: impl Fn() -> bool) -> bool {
        let [_, most] = SPINS;
        let start = Instant::now();
        self.since = Some(start);
        match advice {
            Advice::Turns | Advice::TurnsUntimed => {}
            Advice::Look if look(self.crowded_spins, &ready) => {
                (self.spins, self.missed) = (self.crowded_spins, 0);
                return true;
            }
            Advice::Look => {}
            Advice::Sleep => return false,
            Advice::Rest => {
                self.turn_at = stamp.wrapping_add(TURN_EVERY[1]);
                return false;
            }
        }
        let found = self.turns(start, &ready);
        if found {
            self.patience = (self.patience * 2).min(PATIENCE[1]);
            if !self.crowd.is_there() {
                self.spins = self.spins.saturating_mul(4).min(most);
            }
            self.turn_at = stamp.wrapping_add(self.turn_every());
        }
        found
    }

    /// The message came after all, by sleeping. Longer patience would have paid if it did not take much longer.
    pub(crate) fn slept(&mut self) {
        let Some(since) = self.since.take() else { return };
        let [least, most] = PATIENCE;
        let worth = most * 2 * self.weight;
        self.patience = if since.elapsed() < worth { most } else { (self.patience / 2).max(least) };
    }

    fn turn_every(&self) -> u32 {
        let [in_crowd, elsewhere] = TURN_EVERY;
        if self.crowd.is_there() { in_crowd } else { elsewhere }
    }

    /// Turns in a crowd, without a clock, which costs as much as a tenth of two turns. True if `ready` said yes.
    pub(crate) fn take_turns(&mut self, stamp: u32, ready: impl Fn() -> bool) -> bool {
        self.since = None;
        let found = (0..CROWDED_TURNS).any(|_| {
            yield_now();
            ready()
        });
        if found {
            self.turn_at = stamp.wrapping_add(self.turn_every());
        }
        found
    }

    fn turns(&mut self, start: Instant, ready: &impl Fn() -> bool) -> bool {
        let patience = (self.patience * self.weight).min(LONGEST);
        let mut before = start;
        let mut turns = 0;
        loop {
            yield_now();
            turns += 1;
            let now = Instant::now();
            self.crowd.turn_took(now - before, times_displaced);
            let crowded = self.crowd.is_there();
            if ready() || !crowded && look(LOOKS, ready) {
                return true;
            }
            if now - start > patience || crowded && turns >= CROWDED_TURNS {
                return false;
            }
            before = Instant::now();
        }
    }
}

/// Looks up to `most` times. True if `ready` said yes.
fn look(most: u8, ready: &impl Fn() -> bool) -> bool {
    (0..most).any(|_| {
        relax();
        ready()
    })
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            spins: SPINS[1],
            crowded_spins: CROWDED_SPINS[1],
            patience: PATIENCE[1],
            weight: 1,
            turn_at: TURN_EVERY[1],
            missed_at: 0,
            missed: 0,
            since: None,
            crowd: Crowd::default(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::iter;

    use super::*;

    #[test]
    fn who_has_something_better_to_do_than_turns_is_told_of_a_crowd() {
        let mut ladder = crowded();
        ladder.since = Some(Instant::now());
        assert_eq!(ladder.climb(1, true, || true), Climb::Crowded);
        assert!(ladder.since.is_none(), "a later sleep would be measured from this wait's beginning");
        assert_eq!(ladder.climb(1, false, || true), Climb::Found);
        assert_eq!(ladder.climb(2, false, || false), Climb::Missed);
        assert!(ladder.take_turns(2, || true));
        assert!(!ladder.take_turns(3, || false));
        ladder.forget_crowd();
        assert_eq!(ladder.climb(3, true, || true), Climb::Found);
    }

    fn crowded() -> Ladder {
        let mut ladder = Ladder::default();
        (1..=6).for_each(|displaced| ladder.crowd.turn_took(Duration::from_micros(10), || displaced));
        ladder.turn_at = 1000;
        ladder
    }

    #[test]
    fn who_looks_in_vain_again_and_again_stops_and_tries_it_again() {
        let [least, most] = CROWDED_SPINS;
        let mut ladder = crowded();
        let looks: Vec<_> = (1..=u32::from(VAIN))
            .map(|stamp| {
                ladder.looked_in_vain(stamp);
                ladder.spins(stamp + 1)
            })
            .collect();
        assert_eq!(looks, [most, most, least]);
        // One of the next slow waits looks, and finds.
        let advice =
            iter::from_fn(|| Some(ladder.crowd.advice())).take_while(|advice| *advice != Advice::Look);
        assert!(advice.count() < 64);
        assert!(ladder.climb_timed(4, Advice::Look, || true));
        assert_eq!(ladder.spins(5), most);
    }

    #[test]
    fn who_finds_something_now_and_then_looks_on() {
        let [_, most] = CROWDED_SPINS;
        let mut ladder = crowded();
        for stamp in (1..100).filter(|stamp| stamp % 3 != 0) {
            ladder.looked_in_vain(stamp);
            assert_eq!(ladder.spins(stamp + 1), most);
        }
    }
}

//! What a thread notices of others who want its core, from how long its turns of `sched_yield` take, and what it does
//! about it.

use core::mem;
use core::time::Duration;

/// The memory of one receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    /// How sure it is: grows with each turn that somebody took, shrinks with each other.
    level: u32,
    /// Slow waits in the crowd.
    waits: u32,
    /// Slow waits for which it still leaves turns alone.
    resting: u32,
    /// How long it rests when somebody next keeps the core.
    rest: u32,
    /// How often this thread had been displaced when a turn last took long.
    displaced: u64,
}

/// What a slow wait begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Turns for others.
    Turns,
    /// The same, and nobody looks how long they take.
    TurnsUntimed,
    /// A look for a partner that runs on another core just now; then turns.
    Look,
    /// Sleep.
    Sleep,
    /// Sleep, and put off the turn that was due: the core would be gone for a whole slice.
    Rest,
}

/// A turn that took longer may have let somebody else run: two context switches instead of a short visit to the kernel (4 us
/// instead of 0.6 in the guest where this was measured). Or it was an interrupt, or the host had the processor: of 39,000 long
/// turns of a guest with little else to do, 269 had let somebody run. The system knows, but to ask it costs as much as a turn.
const TAKEN: Duration = Duration::from_nanos(1_500);
/// A turn that took longer met somebody who computes and does not wait. Every further turn would cost as much, while
/// whoever sleeps and is woken goes first.
const KEPT: Duration = Duration::from_micros(500);
/// What a turn that somebody took adds to the level, from where it counts as a crowd, and what it is at most. One long
/// turn may have been a kernel thread's.
const LEVEL: [u32; 3] = [4, 14, 24];
/// Slow waits of which one sleeps at once: partners that share a core stay there while both only take turns; a thread
/// that is woken is put on an idle core if there is one.
const SLEEP_EVERY: u32 = 256;
/// Slow waits of which one looks whether the partner runs on another core, and one, half way between them, how long its turns take.
const LOOK_EVERY: u32 = 16;
const TIME_AT: u32 = LOOK_EVERY / 2;
/// Slow waits that a rest lasts, at least and at most.
const REST: [u32; 2] = [4, 1024];

impl Crowd {
    /// Takes note of a turn. `displaced` says how often somebody else has run in this thread's place by now.
    pub(super) fn turn_took(&mut self, time: Duration, displaced: impl FnOnce() -> u64) {
        let [step, _, most] = LEVEL;
        let was_taken = time > TAKEN && {
            let now = displaced();
            mem::replace(&mut self.displaced, now) != now
        };
        if !was_taken {
            self.level = self.level.saturating_sub(1);
            self.rest = (self.rest / 2).max(REST[0]);
        } else if time > KEPT {
            self.level = most;
            self.resting = self.rest;
            self.rest = (self.rest * 4).min(REST[1]);
        } else {
            self.level = (self.level + step).min(most);
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.level >= LEVEL[1]
    }

    /// From now on it has to be found anew.
    pub(super) fn forget(&mut self) {
        self.level = 0;
    }

    /// What a slow wait should begin with.
    pub(super) fn advice(&mut self) -> Advice {
        if !self.is_there() {
            return Advice::Turns;
        }
        if self.resting > 0 {
            self.resting -= 1;
            // The first turn after it is timed: whoever kept the core may be there still.
            self.waits = TIME_AT - 1;
            return Advice::Rest;
        }
        self.waits = self.waits.wrapping_add(1);
        match self.waits {
            waits if waits.is_multiple_of(SLEEP_EVERY) => Advice::Sleep,
            waits if waits.is_multiple_of(LOOK_EVERY) => Advice::Look,
            waits if waits % LOOK_EVERY == TIME_AT => Advice::Turns,
            // The others may have gone: the clock tells soonest.
            _ if self.level < LEVEL[2] => Advice::Turns,
            _ => Advice::TurnsUntimed,
        }
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self { level: 0, waits: 0, resting: 0, rest: REST[0], displaced: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns that somebody took, if they were long.
    fn turns(crowd: &mut Crowd, count: u32, time: Duration) {
        for _ in 0..count {
            let displaced = crowd.displaced + 1;
            crowd.turn_took(time, || displaced);
        }
    }

    #[test]
    fn a_long_turn_that_nobody_took_is_no_crowd() {
        let mut crowd = Crowd::default();
        for time in [TAKEN * 2, KEPT * 2] {
            for _ in 0..100 {
                crowd.turn_took(time, || 0);
                assert_eq!(crowd.advice(), Advice::Turns);
            }
        }
        crowd.turn_took(KEPT * 2, || 1);
        assert_eq!(crowd.advice(), Advice::Rest);
    }

    #[test]
    fn one_long_turn_is_no_crowd() {
        let mut crowd = Crowd::default();
        turns(&mut crowd, 3, TAKEN * 2);
        assert!(!crowd.is_there());
        turns(&mut crowd, 1, TAKEN * 2);
        assert!(crowd.is_there());
        turns(&mut crowd, 3, TAKEN / 2);
        assert_eq!(crowd.advice(), Advice::Turns);
        assert!(!crowd.is_there());
    }

    #[test]
    fn in_a_crowd_some_waits_sleep_and_some_look_and_most_are_not_timed() {
        let mut crowd = Crowd::default();
        turns(&mut crowd, 6, TAKEN * 2);
        let advice: Vec<_> = (0..SLEEP_EVERY).map(|_| crowd.advice()).collect();
        let count = |kind| advice.iter().filter(|advice| **advice == kind).count();
        assert_eq!([Advice::Sleep, Advice::Look, Advice::Turns].map(count), [1, 15, 16]);
        assert_eq!(count(Advice::TurnsUntimed), 224);
    }

    #[test]
    fn the_first_turn_after_a_rest_is_timed() {
        let mut crowd = Crowd::default();
        turns(&mut crowd, 1, KEPT * 2);
        while crowd.advice() == Advice::Rest {}
        turns(&mut crowd, 1, KEPT * 2);
        let after = std::iter::from_fn(|| Some(crowd.advice())).find(|advice| *advice != Advice::Rest);
        assert_eq!(after, Some(Advice::Turns));
        assert_eq!(crowd.advice(), Advice::TurnsUntimed);
    }

    #[test]
    fn who_keeps_the_core_is_left_alone_for_longer_each_time() {
        let mut crowd = Crowd::default();
        let mut rests = vec![];
        for _ in 0..6 {
            turns(&mut crowd, 1, KEPT * 2);
            rests.push(std::iter::from_fn(|| (crowd.advice() == Advice::Rest).then_some(())).count());
        }
        assert_eq!(rests, [4, 16, 64, 256, 1024, 1024]);
        turns(&mut crowd, 20, TAKEN / 2);
        turns(&mut crowd, 1, KEPT * 2);
        assert_eq!(std::iter::from_fn(|| (crowd.advice() == Advice::Rest).then_some(())).count(), 4);
    }
}

//! What a thread notices of others who want its core, from how long its turns of `sched_yield` take, and what it does
//! about it.

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
}

/// What a slow wait begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Turns for others.
    Turns,
    /// The same, and nobody looks how long they take.
    TurnsUntimed,
    /// A long look for a partner that runs on another core just now; then turns.
    Look,
    /// Sleep.
    Sleep,
    /// Sleep, and put off the turn that was due: the core would be gone for a whole slice.
    Rest,
}

/// A turn that took longer let somebody else run: two context switches instead of a short visit to the kernel (4 us
/// instead of 0.6 in the guest where this was measured).
const TAKEN: Duration = Duration::from_nanos(1_500);
/// A turn that took longer met somebody who computes and does not wait. Every further turn would cost as much, while
/// whoever sleeps and is woken goes first.
const KEPT: Duration = Duration::from_micros(500);
/// What a turn that somebody took adds to the level, from where it counts as a crowd, and what it is at most. One long
/// turn may have been an interrupt.
const LEVEL: [u32; 3] = [4, 14, 24];
/// Slow waits of which one sleeps at once: partners that share a core stay there while both only take turns; a thread
/// that is woken is put on an idle core if there is one.
const SLEEP_EVERY: u32 = 256;
/// Slow waits of which one looks for long.
const LOOK_EVERY: u32 = 64;
/// Slow waits in the crowd of which one looks how long its turns take. Those three numbers, with four turns a wait, were the
/// best of four sets that were tried in turns (ARCHITECTURE.md, "Waiting").
const TIME_EVERY: u32 = 16;
/// Slow waits that a rest lasts, at least and at most. A processor that the host of a virtual machine took away for a
/// while looks alike once, but not again and again.
const REST: [u32; 2] = [16, 1024];

impl Crowd {
    /// Takes note of a turn.
    pub(super) fn turn_took(&mut self, time: Duration) {
        let [step, _, most] = LEVEL;
        if time > KEPT {
            self.level = most;
            self.resting = self.rest;
            self.rest = (self.rest * 4).min(REST[1]);
        } else if time > TAKEN {
            self.level = (self.level + step).min(most);
        } else {
            self.level = self.level.saturating_sub(1);
            self.rest = (self.rest / 2).max(REST[0]);
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.level >= LEVEL[1]
    }

    /// What a slow wait should begin with.
    pub(super) fn advice(&mut self) -> Advice {
        if !self.is_there() {
            return Advice::Turns;
        }
        if self.resting > 0 {
            self.resting -= 1;
            // The first turn after it is timed: whoever kept the core may be there still.
            self.waits = TIME_EVERY - 1;
            return Advice::Rest;
        }
        self.waits = self.waits.wrapping_add(1);
        match self.waits {
            waits if waits.is_multiple_of(SLEEP_EVERY) => Advice::Sleep,
            waits if waits.is_multiple_of(LOOK_EVERY) => Advice::Look,
            waits if waits.is_multiple_of(TIME_EVERY) => Advice::Turns,
            // The others may have gone: the clock tells soonest.
            _ if self.level < LEVEL[2] => Advice::Turns,
            _ => Advice::TurnsUntimed,
        }
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self { level: 0, waits: 0, resting: 0, rest: REST[0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(crowd: &mut Crowd, count: u32, time: Duration) {
        for _ in 0..count {
            crowd.turn_took(time);
        }
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
        assert_eq!([Advice::Sleep, Advice::Look, Advice::Turns].map(count), [1, 3, 12]);
        assert_eq!(count(Advice::TurnsUntimed), 240);
    }

    #[test]
    fn the_first_turn_after_a_rest_is_timed() {
        let mut crowd = Crowd::default();
        crowd.turn_took(KEPT * 2);
        while crowd.advice() == Advice::Rest {}
        crowd.turn_took(KEPT * 2);
        let after = std::iter::from_fn(|| Some(crowd.advice())).find(|advice| *advice != Advice::Rest);
        assert_eq!(after, Some(Advice::Turns));
        assert_eq!(crowd.advice(), Advice::TurnsUntimed);
    }

    #[test]
    fn who_keeps_the_core_is_left_alone_for_longer_each_time() {
        let mut crowd = Crowd::default();
        let mut rests = vec![];
        for _ in 0..5 {
            crowd.turn_took(KEPT * 2);
            rests.push(std::iter::from_fn(|| (crowd.advice() == Advice::Rest).then_some(())).count());
        }
        assert_eq!(rests, [16, 64, 256, 1024, 1024]);
        turns(&mut crowd, 20, TAKEN / 2);
        crowd.turn_took(KEPT * 2);
        assert_eq!(std::iter::from_fn(|| (crowd.advice() == Advice::Rest).then_some(())).count(), 16);
    }
}

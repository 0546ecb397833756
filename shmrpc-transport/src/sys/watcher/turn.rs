//! When the watcher lets others have its core. Much of its work may be for a peer that makes it work, while the threads that serve
//! everybody else wait for the core: for a whole slice, if it goes on until the system takes that from it.

use std::thread;
use std::time::{Duration, Instant};

/// Work after which others have the core.
const LONG: Duration = Duration::from_micros(5);
/// When somebody who computes has had it, the watcher works for so much of that time: for a sixteenth. What it waits for is then a small
/// part of what it would wait for if others had the core after each piece of work.
const SHARE: u32 = 16;
/// Whoever was away for so long has not had its core all the time.
const AWAY: Duration = Duration::from_micros(10);

/// Others may have the core for some slices of theirs at once. Longer than that the whole process was stopped.
const SLICES: Duration = Duration::from_millis(20);

/// Work without a pause.
pub(super) struct Turn {
    began: Instant,
    /// How long others had the core before it.
    gave: Duration,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), gave: Duration::ZERO }
    }

    /// A wait. If others may have had the core meanwhile, a turn begins.
    pub(super) fn without<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let waited = wait();
        let end = Instant::now();
        if end - start > AWAY {
            *self = Self { began: end, gave: Duration::ZERO };
        }
        waited
    }

    /// Lets others have the core if it is their turn.
    pub(super) fn end_if_long(&mut self) {
        let now = Instant::now();
        if self.is_long(now - self.began) {
            thread::yield_now();
            let began = Instant::now();
            *self = Self { began, gave: (began - now).min(SLICES) };
        }
    }

    fn is_long(&self, worked: Duration) -> bool {
        worked > LONG.max(self.gave / SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_long_after_work_that_others_need_not_wait_for() {
        let turn = Turn::new();
        assert!(!turn.is_long(LONG));
        assert!(turn.is_long(LONG * 2));
    }

    #[test]
    fn whoever_computes_has_the_core_for_most_of_the_time_and_no_more() {
        let gave = Duration::from_millis(3);
        let turn = Turn { gave, ..Turn::new() };
        assert!(!turn.is_long(gave / SHARE));
        assert!(turn.is_long(gave / SHARE + LONG));
    }

    #[test]
    fn after_a_pause_a_turn_begins() {
        let gave = Duration::from_millis(3);
        let mut turn = Turn { began: Instant::now() - gave, gave };
        let end = turn.without(|| {
            let start = Instant::now();
            while start.elapsed() < AWAY * 2 {}
            start + AWAY
        });
        assert!(turn.began > end);
        assert_eq!(turn.gave, Duration::ZERO);
        let began = turn.began - gave;
        turn.began = began;
        turn.end_if_long();
        assert!(turn.began > began + gave, "others had their turn, and the next one begins");
    }

    #[test]
    fn the_page_has_these_numbers() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
        let page = std::fs::read_to_string(page).unwrap();
        assert_eq!(SHARE, 16);
        let says = format!("After {} us of work others have the core", LONG.as_micros());
        assert!(page.contains(&says) && page.contains("a sixteenth of the time that they had it"), "{says}");
    }
}

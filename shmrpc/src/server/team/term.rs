//! How long a leader leads, and whether that pays.

use std::mem;
use std::time::{Duration, Instant};

use shmrpc_transport::sys::thread::{computed, times_slept};

/// A term, at most. Then all find out anew who wants whose core: there may be enough of them by now.
const LONGEST: Duration = Duration::from_millis(100);
/// Turns of lanes between two looks at what they took.
const LOOK_EVERY: u32 = 64;
/// What a turn may take on average: with longer ones threads of their own do as much or more, and calls are over sooner
/// (ARCHITECTURE.md, "Lanes").
const ON_AVERAGE: Duration = Duration::from_micros(1);
/// What all turns of a term may take beyond that: the first ones find the caches cold, and a few say little about the rest.
const BEYOND: Duration = Duration::from_micros(300);
/// A turn of a lane that takes longer holds up the others: so much of a term may go that way. Some always does: to wake a caller, and
/// while the host has the processor. What others compute meanwhile is not the turn's.
const SLOW: Duration = Duration::from_micros(20);
const SLOW_MOST: Duration = Duration::from_millis(5);
/// Waits between two looks at what was served meanwhile; and seven lanes served in four waits are the least that pays: as many
/// switches as that are spared.
const WAITS: u32 = 1024;
const PAYS: [u32; 2] = [7, 4];
/// Turns of lanes after which others have the core, at most.
const TURN_EVERY: u32 = 16;
/// Looks of a wait, while looking pays: as long as a client on another core takes to call again.
const LOOKS: u32 = 32;
/// Waits in vain, one after the other, after which it pays no more, and waits of which one tries it again.
const VAIN: u32 = 3;
const TRY_EVERY: u32 = 16;
/// After a wait that lasted longer the leader finds out again what it has computed itself.
const TAKEN: Duration = Duration::from_nanos(1_500);
/// A wait that lasted longer met somebody who computes.
const KEPT: Duration = Duration::from_micros(500);

/// What a leader knows of its term.
pub(super) struct Term {
    began: Instant,
    /// When the last turn or wait ended.
    last: Instant,
    /// Turns of lanes, and what they took.
    served: u32,
    serving: Duration,
    /// What the slow ones took.
    slow: Duration,
    waits: u32,
    /// Turns of lanes since others had the core.
    in_a_row: u32,
    /// Waits that looked in vain since one did not.
    vain: u32,
    /// What the thread had computed when that was last asked, and how often it had slept.
    computed: Duration,
    slept: u64,
    bounds: Bounds,
}

/// Times that the machine has a say in.
struct Bounds {
    longest: Duration,
    slow: Duration,
    kept: Duration,
}

/// What is counted of a thread.
trait Thread {
    fn computed(&self) -> Duration;
    fn times_slept(&self) -> u64;
}

/// The leader's.
struct Own;

/// Why a term is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// It has lasted, or somebody keeps the core.
    Time,
    /// Its calls take too long for one thread, or come too seldom.
    Vain,
}

impl Term {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            served: 0,
            serving: Duration::ZERO,
            slow: Duration::ZERO,
            waits: 0,
            in_a_row: 0,
            vain: 0,
            computed: Own.computed(),
            slept: Own.times_slept(),
            bounds: Bounds { longest: LONGEST, slow: SLOW, kept: KEPT },
        }
    }

    /// Ends for nothing that a busy machine does.
    #[cfg(test)]
    pub(super) fn endless() -> Self {
        let [longest, slow, kept] = [Duration::MAX; 3];
        Self { bounds: Bounds { longest, slow, kept }, ..Self::new() }
    }

    /// Whether others have to have the core now, whatever there is to do.
    pub(super) fn owes_a_turn(&self) -> bool {
        self.in_a_row == TURN_EVERY
    }

    /// Looks that the next wait begins with, before others have the core.
    pub(super) fn looks(&self) -> u32 {
        if self.vain < VAIN || self.waits.is_multiple_of(TRY_EVERY) { LOOKS } else { 0 }
    }

    /// They found a lane to serve. What they took is no part of its turn.
    pub(super) fn found(&mut self) {
        self.vain = 0;
        self.last = Instant::now();
    }

    /// They found nothing.
    pub(super) fn looked_in_vain(&mut self) {
        self.vain += 1;
    }

    /// A lane had its turn.
    pub(super) fn served(&mut self) -> Option<Over> {
        let took = self.step();
        self.served_for(took, &Own)
    }

    /// Others had the core.
    pub(super) fn waited(&mut self) -> Option<Over> {
        let took = self.step();
        self.waited_for(took, &Own)
    }

    fn served_for(&mut self, took: Duration, thread: &impl Thread) -> Option<Over> {
        self.in_a_row += 1;
        self.served += 1;
        let looks = self.served.is_multiple_of(LOOK_EVERY);
        if took > self.bounds.slow {
            let own = self.own_part_of(took, thread);
            self.serving += own;
            self.slow += if own > self.bounds.slow { own } else { Duration::ZERO };
        } else {
            self.serving += took;
            if looks {
                self.computed = thread.computed();
            }
        }
        if self.slow > SLOW_MOST || looks && self.is_slow() { Some(Over::Vain) } else { self.lasted() }
    }

    fn waited_for(&mut self, took: Duration, thread: &impl Thread) -> Option<Over> {
        self.in_a_row = 0;
        self.waits += 1;
        if took > TAKEN {
            self.computed = thread.computed();
        }
        let [served, waits] = PAYS;
        if self.waits.is_multiple_of(WAITS) && self.served * waits < self.waits * served {
            return Some(Over::Vain);
        }
        if took > self.bounds.kept { Some(self.ended()) } else { self.lasted() }
    }

    /// How much of a turn that just ended was the thread's own: what it computed, or all if it slept. The few turns since it last
    /// asked count as well.
    fn own_part_of(&mut self, took: Duration, thread: &impl Thread) -> Duration {
        let computed = thread.computed();
        let since = computed.saturating_sub(mem::replace(&mut self.computed, computed));
        let slept = thread.times_slept();
        if mem::replace(&mut self.slept, slept) == slept { took.min(since) } else { took }
    }

    fn is_slow(&self) -> bool {
        self.serving > ON_AVERAGE * self.served + BEYOND
    }

    fn lasted(&self) -> Option<Over> {
        (self.last - self.began > self.bounds.longest).then(|| self.ended())
    }

    fn ended(&self) -> Over {
        if self.is_slow() { Over::Vain } else { Over::Time }
    }

    fn step(&mut self) -> Duration {
        let now = Instant::now();
        let took = now - self.last;
        self.last = now;
        took
    }
}

impl Thread for Own {
    fn computed(&self) -> Duration {
        computed()
    }

    fn times_slept(&self) -> u64 {
        times_slept()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a turn takes that nobody has to be asked about.
    const SHORT: Duration = Duration::from_nanos(300);

    /// Computed so long, and slept so often.
    #[derive(Default)]
    struct Counted(Duration, u64);

    impl Thread for Counted {
        fn computed(&self) -> Duration {
            self.0
        }

        fn times_slept(&self) -> u64 {
            self.1
        }
    }

    /// What a thread has counted that had its core all the time.
    const BUSY: Counted = Counted(Duration::MAX, 0);

    fn fresh() -> Term {
        Term { computed: Duration::ZERO, slept: 0, ..Term::new() }
    }

    #[test]
    fn a_term_ends() {
        let mut term = fresh();
        assert_eq!(term.served_for(SHORT, &BUSY), None);
        assert_eq!(term.waited_for(SHORT, &BUSY), None);
        assert_eq!(term.waited_for(KEPT * 2, &BUSY), Some(Over::Time));
        term.last += LONGEST * 2;
        assert_eq!(term.served_for(SHORT, &BUSY), Some(Over::Time));
        assert_eq!(term.waited_for(SHORT, &BUSY), Some(Over::Time));
    }

    #[test]
    fn calls_that_take_long_are_not_for_one_thread() {
        let mut term = fresh();
        let turns = (1..).find(|_| term.served_for(ON_AVERAGE * 2, &BUSY) == Some(Over::Vain));
        let enough = u32::try_from(BEYOND.as_nanos() / ON_AVERAGE.as_nanos()).unwrap() + 1;
        assert_eq!(turns, Some(enough.next_multiple_of(LOOK_EVERY)));
    }

    #[test]
    fn the_first_calls_may_take_longer() {
        let mut term = fresh();
        for _ in 0..LOOK_EVERY * 4 {
            assert_eq!(term.served_for(ON_AVERAGE * 2, &BUSY), None);
        }
        for _ in 0..LOOK_EVERY * 64 {
            assert_eq!(term.served_for(ON_AVERAGE / 2, &BUSY), None);
        }
        assert_eq!(term.waited_for(KEPT * 2, &BUSY), Some(Over::Time));
    }

    #[test]
    fn some_turns_may_be_slow() {
        let mut term = fresh();
        assert_eq!(term.served_for(SLOW_MOST / 2, &Counted(SLOW_MOST / 2, 0)), None);
        assert_eq!(term.served_for(SLOW_MOST / 2, &Counted(SLOW_MOST, 0)), None);
        assert_eq!(term.served_for(SLOW * 2, &Counted(SLOW_MOST * 2, 0)), Some(Over::Vain));
    }

    #[test]
    fn what_others_computed_in_a_turn_is_not_its_own() {
        let mut term = fresh();
        let mut thread = Counted::default();
        for _ in 0..LOOK_EVERY * 4 {
            thread.0 += SHORT;
            assert_eq!(term.served_for(SLOW_MOST * 2, &thread), None);
        }
    }

    #[test]
    fn what_the_thread_itself_computed_in_a_turn_counts_though_others_did_too() {
        let mut term = fresh();
        assert_eq!(term.served_for(SLOW_MOST * 4, &Counted(SLOW_MOST * 2, 0)), Some(Over::Vain));
    }

    #[test]
    fn what_a_turn_slept_counts() {
        let mut term = fresh();
        assert_eq!(term.served_for(SLOW_MOST * 2, &Counted(Duration::ZERO, 1)), Some(Over::Vain));
    }

    #[test]
    fn earlier_turns_and_waits_do_not_count_for_a_late_one() {
        let (mut term, long) = (fresh(), SLOW_MOST * 2);
        assert_eq!(term.waited_for(TAKEN * 2, &Counted(long, 0)), None);
        assert_eq!(term.served_for(long, &Counted(long, 0)), None);
        for _ in 0..LOOK_EVERY {
            assert_eq!(term.served_for(SHORT, &Counted(long * 2, 0)), None);
        }
        assert_eq!(term.served_for(long, &Counted(long * 2, 0)), None);
    }

    #[test]
    fn a_short_term_is_judged_at_its_end() {
        let mut term = fresh();
        assert_eq!(term.served_for(ON_AVERAGE + BEYOND * 2, &BUSY), None);
        assert_eq!(term.waited_for(KEPT * 2, &BUSY), Some(Over::Vain));
    }

    #[test]
    fn a_leader_that_mostly_waits_is_none() {
        for (served, pays) in [(1, false), (2, true)] {
            let mut term = fresh();
            let ends = (0..WAITS).any(|_| {
                let turns = (0..served).any(|_| term.served_for(SHORT, &BUSY).is_some());
                turns || term.waited_for(SHORT, &BUSY) == Some(Over::Vain)
            });
            assert_eq!(ends, !pays, "{served}");
        }
    }

    #[test]
    fn others_have_the_core_now_and_then() {
        let mut term = fresh();
        let turns = (1..).find(|_| {
            assert_eq!(term.served_for(SHORT, &BUSY), None);
            term.owes_a_turn()
        });
        assert_eq!(turns, Some(TURN_EVERY));
        assert_eq!(term.waited_for(SHORT, &BUSY), None);
        assert!(!term.owes_a_turn());
    }

    #[test]
    fn who_looks_in_vain_stops_and_tries_it_again() {
        let mut term = fresh();
        let looks: Vec<_> = (0..TRY_EVERY * 2)
            .map(|_| {
                let looks = term.looks();
                if looks > 0 {
                    term.looked_in_vain();
                }
                term.waited_for(SHORT, &BUSY);
                looks > 0
            })
            .collect();
        let tried: Vec<_> = (0..).zip(looks).filter_map(|(wait, looks)| looks.then_some(wait)).collect();
        assert_eq!(tried, [0, 1, 2, TRY_EVERY]);
        // What a look finds makes it pay.
        term.found();
        for _ in 0..VAIN {
            // A wait without looks is none of them.
            term.waited_for(SHORT, &BUSY);
            assert_eq!(term.looks(), LOOKS);
            term.looked_in_vain();
            term.waited_for(SHORT, &BUSY);
        }
        assert_eq!(term.looks(), 0);
    }

    #[test]
    fn looks_are_no_part_of_a_turn() {
        let mut term = fresh();
        let long = Duration::from_secs(3600);
        term.last -= long;
        term.found();
        assert!(term.step() < long);
    }

    #[test]
    fn the_page_has_these_numbers() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
        let page = std::fs::read_to_string(page).unwrap();
        let says = |text: &str| assert!(page.contains(text), "{text}");
        let micros = |time: Duration| time.as_micros();
        says(&format!(
            "if requests take more than {} us each and {} us in all beyond that (looked at every {LOOK_EVERY}",
            micros(ON_AVERAGE),
            micros(BEYOND)
        ));
        says(&format!(
            "if those of more than {} us take more than {} ms of a term",
            micros(SLOW),
            SLOW_MOST.as_millis()
        ));
        says(&format!("A term ends after {} ms", LONGEST.as_millis()));
        says(&format!("when somebody who computes had the core for {} us", micros(KEPT)));
        says(&format!("After {TURN_EVERY} requests in a row others have the core"));
        assert_eq!((WAITS, PAYS), (1_024, [7, 4]));
        says("if after 1,024 waits, or twice as many, and so on, fewer than");
        says("seven requests had been served in four waits");
    }
}

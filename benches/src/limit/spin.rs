//! The round trip of a word between two processes that both poll: what a call costs if it does nothing.

use std::{
    hint::spin_loop,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use crate::shared::Shared;

/// One way to do it. Which one is fastest differs between machines and even runs, so a round tries them all.
#[derive(Debug, Clone, Copy)]
struct Variant {
    lines: Lines,
    /// Words are published by a swap rather than a store: it drains the store buffer at once.
    swap: bool,
    /// The waiting side pauses between looks.
    pause: bool,
}

/// Where question and answer lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lines {
    /// Both on the same cache line. Only processes that may write each other's memory can do that.
    One,
    /// A line each.
    Two,
    /// A ring of lines each, one after another, as the messages of a lane: what a call costs if it does nothing more.
    Ring,
}

impl Lines {
    /// All of them.
    pub(crate) const ALL: [Lines; 3] = [Lines::One, Lines::Two, Lines::Ring];
    /// Variants of each.
    const VARIANTS: u64 = 4;

    /// The numbers of its variants.
    pub(crate) fn variants(self) -> std::ops::Range<u64> {
        let first = self as u64 * Lines::VARIANTS;
        first..first + Lines::VARIANTS
    }
}

/// Lines of a ring: as many as a lane has slots.
const RING: usize = 128;

impl Variant {
    fn number(number: u64) -> Variant {
        let lines = match number / Lines::VARIANTS {
            0 => Lines::One,
            1 => Lines::Two,
            _ => Lines::Ring,
        };
        Variant { lines, swap: number & 1 != 0, pause: number & 2 != 0 }
    }

    /// The lines of question and answer number `round`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a ring has few lines")]
    fn lines(self, round: u64) -> [usize; 2] {
        let place = round as usize % RING;
        match self.lines {
            Lines::One => [0, 0],
            Lines::Two => [0, RING],
            Lines::Ring => [place, RING + place],
        }
    }
}

/// The caller: asks `first..first + count`.
pub(crate) fn call(shared: &Shared, variant: u64, first: u64, count: u64) {
    exchange(Variant::number(variant), |way| {
        for round in first..first + count {
            let [ask, answer] = way.lines(round).map(|line| shared.word(line));
            way.publish(ask, 2 * round + 1);
            way.wait(answer, 2 * round + 2);
        }
    });
}

/// The peer: answers `0..count`.
pub(crate) fn serve(shared: &Shared, variant: u64, count: u64) {
    exchange(Variant::number(variant), |way| {
        for round in 0..count {
            let [ask, answer] = way.lines(round).map(|line| shared.word(line));
            way.wait(ask, 2 * round + 1);
            way.publish(answer, 2 * round + 2);
        }
    });
}

/// Runs `side` compiled for one variant, so that no branch on the variant is left in the loop.
#[inline(always)]
fn exchange(variant: Variant, side: impl Fn(Variant)) {
    let Variant { lines, swap, pause } = variant;
    macro_rules! compiled {
        ($($lines:ident $swap:literal $pause:literal,)*) => {
            match (lines, swap, pause) {
                $((Lines::$lines, $swap, $pause) => {
                    side(Variant { lines: Lines::$lines, swap: $swap, pause: $pause });
                })*
            }
        };
    }
    compiled! {
        One false false, One false true, One true false, One true true,
        Two false false, Two false true, Two true false, Two true true,
        Ring false false, Ring false true, Ring true false, Ring true true,
    }
}

impl Variant {
    #[inline(always)]
    fn publish(self, word: &AtomicU64, value: u64) {
        if self.swap {
            word.swap(value, AcqRel);
        } else {
            word.store(value, Release);
        }
    }

    #[inline(always)]
    fn wait(self, word: &AtomicU64, value: u64) {
        while word.load(Acquire) != value {
            if self.pause {
                spin_loop();
            }
        }
    }
}

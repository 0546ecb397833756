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
    /// Question and answer lie on the same cache line.
    one_line: bool,
    /// Words are published by a swap rather than a store: it drains the store buffer at once.
    swap: bool,
    /// The waiting side pauses between looks.
    pause: bool,
}

/// How many variants there are.
pub(crate) const VARIANTS: u64 = 8;

impl Variant {
    fn number(number: u64) -> Variant {
        Variant { one_line: number & 1 != 0, swap: number & 2 != 0, pause: number & 4 != 0 }
    }
}

/// The caller: asks `first..first + count`.
pub(crate) fn call(shared: &Shared, variant: u64, first: u64, count: u64) {
    let ask = |ask: &AtomicU64, answer: &AtomicU64, step: Step| {
        for round in first..first + count {
            step.publish(ask, 2 * round + 1);
            step.wait(answer, 2 * round + 2);
        }
    };
    exchange(shared, Variant::number(variant), ask);
}

/// The peer: answers `0..count`.
pub(crate) fn serve(shared: &Shared, variant: u64, count: u64) {
    let answer = |ask: &AtomicU64, answer: &AtomicU64, step: Step| {
        for round in 0..count {
            step.wait(ask, 2 * round + 1);
            step.publish(answer, 2 * round + 2);
        }
    };
    exchange(shared, Variant::number(variant), answer);
}

/// Runs `side` compiled for one variant, so that no branch on the variant is left in the loop.
#[inline(always)]
fn exchange(shared: &Shared, variant: Variant, side: impl Fn(&AtomicU64, &AtomicU64, Step)) {
    let ask = shared.word(0);
    let answer = if variant.one_line { ask } else { shared.word(4) };
    match (variant.swap, variant.pause) {
        (false, false) => side(ask, answer, Step { swap: false, pause: false }),
        (false, true) => side(ask, answer, Step { swap: false, pause: true }),
        (true, false) => side(ask, answer, Step { swap: true, pause: false }),
        (true, true) => side(ask, answer, Step { swap: true, pause: true }),
    }
}

/// How to publish and how to wait.
#[derive(Debug, Clone, Copy)]
struct Step {
    swap: bool,
    pause: bool,
}

impl Step {
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

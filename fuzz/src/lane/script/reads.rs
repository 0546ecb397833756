//! What the product reads of the fuzzer's memory, word by word, and what it writes to its own.

use std::sync::LazyLock;

use shmrpc_transport::slot::SLOTS;

use super::{End, Plan, Script, Stage};
use crate::ground::{ARENA, DONE, LANE, LANES, RELEASE, RING, TAKEN};
use crate::input::Input;

impl Script {
    pub(in crate::lane) fn loaded(&mut self, real: u64) -> u64 {
        let at = (real as u32 ^ MARK) as usize * 4;
        match at.checked_sub(LANES) {
            None if at >= RELEASE => self.release_word(((at - RELEASE) / 4) as u32),
            Some(0) => self.asleep(),
            Some(8) => self.tape.read(|input| input.byte().into()),
            Some(TAKEN) => {
                let published = self.published;
                // The peer that has gone has nothing left to say; its last word was chosen at the start.
                let said = if self.tape.is_over() { &mut self.last_words } else { &mut self.tape };
                let taken = said.read(|input| near(input, published));
                self.taken = Some(taken);
                taken.into()
            }
            Some(DONE) => self.done(),
            Some(at) if (RING..LANE).contains(&at) => {
                let (slot, at) = ((at - RING) as u32 / 64, (at - RING) % 64);
                if slot != self.position % SLOTS {
                    self.blame(format!("slot {slot} was read at position {}", self.position));
                }
                match at {
                    0 => self.stamp().into(),
                    4 => self.message_word(0),
                    at => self.message_word(at / 8),
                }
            }
            _ => {
                self.blame(format!("a word was read that is none: {real:#x}"));
                0
            }
        }
    }

    fn release_word(&mut self, id: u32) -> u64 {
        let lent = self.lent.get(&id).copied();
        let (released, value) = self.tape.read(|input| match input.below(4) {
            0 | 1 => (true, lent.unwrap_or(0)),
            2 => (false, 0),
            _ => (false, input.half()),
        });
        if released || Some(value) == lent {
            self.lent.remove(&id);
        }
        value.into()
    }

    fn asleep(&mut self) -> u64 {
        let last = self.published.wrapping_sub(1);
        self.tape.read(|input| match input.below(4) {
            0 => 0,
            1 => 1 << 32 | u64::from(last),
            2 => 1 << 32 | u64::from(input.half()),
            _ => input.word(),
        })
    }

    fn done(&mut self) -> u64 {
        if self.tape.is_over() {
            self.close();
        }
        let published = self.published;
        let done = self.tape.read(|input| near(input, published));
        let outstanding = published.wrapping_sub(self.credited);
        // A client also looks before it leaves a lane for another.
        let believed = outstanding >= SLOTS && !std::mem::take(&mut self.wants_credit);
        // The first look for a message only tells whether to look more closely.
        let first = believed && std::mem::take(&mut self.claims);
        if believed && done.wrapping_sub(self.credited) <= outstanding {
            self.credited = done;
        } else if believed && !first {
            self.end.get_or_insert(End::Poisoned);
        }
        done.into()
    }

    fn stamp(&mut self) -> u32 {
        self.is_over();
        let decides = std::mem::take(&mut self.will_sleep);
        if decides && self.end == Some(End::Poisoned) {
            // Whoever ends a connection ends the waits of its lanes.
            self.slept += 1;
            if self.slept == 2 {
                self.blame("it goes on after what no good peer writes".into());
                self.hang_up();
            }
        }
        let expected = self.position.wrapping_add(1);
        let last_lap = if self.position < SLOTS { 0 } else { expected.wrapping_sub(SLOTS) };
        let stamp = match self.seen {
            Some(seen) => seen,
            None if self.end.is_some() => last_lap,
            None if self.tape.is_over() => {
                self.close();
                last_lap
            }
            None => {
                let (stamp, later) = self.tape.read(|input| match input.below(16) {
                    0..=11 => (expected, None),
                    12 => (last_lap, Some(expected)),
                    13 | 14 => (last_lap, Some(last_lap)),
                    _ => {
                        let any = input.half();
                        (any, Some(any))
                    }
                });
                self.seen = later;
                stamp
            }
        };
        self.is_there = stamp == expected;
        let wrong = stamp != last_lap && stamp != expected.wrapping_sub(SLOTS);
        if decides && wrong && !self.is_there {
            self.end.get_or_insert(End::Poisoned);
        }
        stamp
    }

    /// The product writes to its own memory.
    pub(in crate::lane) fn storing(&mut self, address: usize, value: u64) {
        // Its first store is to its side of lane 0: to a word or a slot in the page that the side begins in.
        let base = *self.base.get_or_insert((address & !4095).wrapping_sub(LANES & !4095));
        let at = address.wrapping_sub(base);
        let fault = match at.checked_sub(LANES) {
            None => at < RELEASE,
            Some(0) if value >> 32 == 1 => {
                (self.seen, self.will_sleep) = (None, true);
                value as u32 != self.position
            }
            Some(0) => value != 0,
            Some(8) => {
                self.wants_credit = value == 1;
                value > 1
            }
            Some(TAKEN | DONE) => value as u32 != self.position,
            Some(at) => !(RING..LANE).contains(&at),
        };
        if fault {
            self.blame(format!("{value:#x} was stored at {at}, at position {}", self.position));
        }
    }

    fn message_word(&mut self, word: usize) -> u64 {
        if !matches!(self.stage, Stage::Reading(..)) {
            if !matches!(self.stage, Stage::Idle) || !self.is_there || self.end.is_some() {
                self.blame(format!("word {word} was read after its message, or before there was one"));
                return self.tape.read(|input| input.word());
            }
            let plan = Plan::new(&mut self.tape, self.serves, self.awaiting.map(|id| (id, self.asked)));
            if self.trusted {
                plan.write(&self.own);
            }
            self.stage = Stage::Reading(plan, 0);
        }
        let Stage::Reading(plan, read) = &mut self.stage else { unreachable!() };
        if *read & 1 << word != 0 {
            self.blame(format!("word {word} of a message was read twice"));
            return self.tape.read(|input| input.word());
        }
        *read |= 1 << word;
        let value = plan.words[word];
        if *read == u8::MAX {
            let Stage::Reading(plan, _) = std::mem::replace(&mut self.stage, Stage::Idle) else {
                unreachable!()
            };
            self.received(plan);
        }
        value
    }
}

/// The count that it is, mostly.
fn near(input: &mut Input<'_>, count: u32) -> u32 {
    match input.below(8) {
        0..=5 => count,
        6 => count.wrapping_sub(u32::from(input.byte())),
        _ => input.half(),
    }
}

/// In every word of the fuzzer's memory, with its place in units of 4 bytes.
const MARK: u32 = 0x5a00_0000;

/// All of them, up to the end of lane 0.
pub(super) static MARKS: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..(LANES + LANE) as u32 / 4).flat_map(|at| (MARK | at).to_le_bytes()).collect());

const _: () = assert!(ARENA > LANES + LANE);

/// Whether a word that was read is the stamp of the first message for lane 0: of a session's memory, and of no other.
pub(in crate::lane) fn is_first_stamp(real: u64) -> bool {
    u32::try_from(real).is_ok_and(|real| (real ^ MARK) as usize * 4 == LANES + RING)
}

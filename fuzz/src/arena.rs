//! The arena and its release words: the peer writes any value into any word at any time.

use std::cell::RefCell;
use std::collections::HashMap;

use shmrpc_transport::shm::arena::{Arena, BLOCKS, Block, UNIT};

use crate::input::Input;

/// Any order of calls, and any release words, against a map of who owns which unit.
pub fn arena(data: &[u8]) {
    let mut state = State::default();
    let mut input = Input(data);
    state.add_segment(40 + input.below(60) as u64);
    while !input.is_empty() {
        state.step(&mut input);
        assert_eq!(state.arena.lent(), state.lent.len());
        assert_eq!(state.arena.segments(), state.segments.len());
    }
    state.all_comes_back();
    crate::memory::assert_bounded();
}

/// What a release word was read as: by the arena, in this order.
type Reads = RefCell<Vec<(u32, u32)>>;

#[derive(Default)]
struct State {
    arena: Arena,
    /// Segments by id: where their bytes begin, and which block owns each unit.
    segments: Vec<(u32, u64, Vec<Option<u32>>)>,
    next_segment: u32,
    held: Vec<Block>,
    /// Lent blocks: id, generation, segment, offset, capacity.
    lent: Vec<(u32, u32, u32, u64, u64)>,
    words: HashMap<u32, u32>,
    generations: HashMap<u32, u32>,
}

impl State {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=3 => {
                let bytes = match input.byte() {
                    255 => input.word(),
                    byte => u64::from(byte) * 40 + 1,
                };
                self.allocate(bytes);
            }
            4 | 5 if !self.held.is_empty() => {
                let at = input.below(self.held.len().min(256));
                let bytes = u64::from(input.byte()) * 40;
                let block = &mut self.held[at];
                let before = block.capacity;
                self.arena.shrink(block, bytes);
                let left = before.min(bytes.max(1).next_multiple_of(UNIT));
                assert_eq!(block.capacity, left);
                let (segment, start, id) = (block.segment, block.offset, block.id);
                self.give(segment, start + left, start + before, id);
            }
            6 | 7 if !self.held.is_empty() => {
                let block = self.held.swap_remove(input.below(self.held.len().min(256)));
                self.give(block.segment, block.offset, block.offset + block.capacity, block.id);
                self.arena.free(block);
            }
            8..=10 if !self.held.is_empty() => {
                let block = self.held.swap_remove(input.below(self.held.len().min(256)));
                let Block { id, generation, segment, offset, capacity } = block;
                self.lent.push((id, generation, segment, offset, capacity));
                self.arena.lend(block);
            }
            // An honest release, of the latest use of an id.
            11 if !self.lent.is_empty() => {
                let (id, generation, ..) = self.lent[input.below(self.lent.len().min(256))];
                self.words.insert(id, generation);
            }
            // Any value in any word: of ids that were never used, of generations gone by or to come.
            12 => drop(self.words.insert(input.byte().into(), input.byte().into())),
            13 => drop(self.words.insert(input.half(), input.half())),
            14 => {
                let most = input.below(20);
                self.watched(|arena, released| arena.reclaim(most, released));
            }
            15 if input.flag() => self.retire(),
            15 if self.segments.len() < 6 => self.add_segment(1 + input.below(100) as u64),
            _ => {}
        }
    }

    fn add_segment(&mut self, units: u64) {
        let id = self.next_segment;
        self.next_segment += 1;
        // Only the first one has something before its arena.
        let start = if id == 0 { 10 * UNIT } else { 0 };
        self.arena.add_segment(id, start, start + units * UNIT);
        self.segments.push((id, start, vec![None; units as usize]));
    }

    /// Lets the arena read release words, and takes back from the reference what it must have taken back.
    fn watched<T>(&mut self, work: impl FnOnce(&mut Arena, &dyn Fn(u32) -> u32) -> T) -> T {
        let reads = Reads::default();
        let words = &self.words;
        let done = work(&mut self.arena, &|id| {
            let value = words.get(&id).copied().unwrap_or(0);
            reads.borrow_mut().push((id, value));
            value
        });
        for (id, value) in reads.into_inner() {
            assert!(id < BLOCKS);
            let at =
                self.lent.iter().position(|lent| lent.0 == id).expect("the word of a block that is not lent");
            if self.lent[at].1 == value {
                let (id, _, segment, offset, capacity) = self.lent.swap_remove(at);
                self.give(segment, offset, offset + capacity, id);
            }
        }
        done
    }

    fn allocate(&mut self, bytes: u64) {
        let block = self.watched(|arena, released| arena.allocate(bytes, released));
        match block {
            Some(block) => {
                assert_eq!(Some(block.capacity), bytes.max(1).checked_next_multiple_of(UNIT));
                self.take(&block);
                self.held.push(block);
            }
            None => {
                let longest = self.segments.iter().map(|(.., units)| longest_free(units)).max().unwrap_or(0);
                assert!(
                    bytes.max(1) > longest * UNIT,
                    "{bytes} bytes refused, {longest} units are free in one run"
                );
            }
        }
    }

    fn take(&mut self, block: &Block) {
        assert!(block.id < BLOCKS);
        assert!(self.held.iter().all(|other| other.id != block.id), "{block:?} has an id in use");
        assert!(self.lent.iter().all(|other| other.0 != block.id), "{block:?} has an id in use");
        let before = self.generations.insert(block.id, block.generation).unwrap_or(0);
        assert_eq!(block.generation, before.wrapping_add(1));
        for owner in self.units(block.segment, block.offset, block.offset + block.capacity) {
            assert_eq!(owner.replace(block.id), None, "{block:?} overlaps");
        }
    }

    fn give(&mut self, segment: u32, from: u64, to: u64, id: u32) {
        for owner in self.units(segment, from, to) {
            assert_eq!(owner.take(), Some(id));
        }
    }

    fn units(&mut self, segment: u32, from: u64, to: u64) -> &mut [Option<u32>] {
        assert!(from.is_multiple_of(UNIT) && to.is_multiple_of(UNIT));
        let (_, start, units) =
            self.segments.iter_mut().find(|known| known.0 == segment).expect("no such segment");
        &mut units[((from - *start) / UNIT) as usize..((to - *start) / UNIT) as usize]
    }

    fn retire(&mut self) {
        for id in self.arena.retire() {
            let at = self.segments.iter().position(|known| known.0 == id).expect("no such segment");
            assert_ne!(at, 0, "the first segment stays");
            let (.., units) = self.segments.remove(at);
            assert!(units.iter().all(Option::is_none), "segment {id} is in use");
        }
    }

    /// An honest peer after all: every segment is one run again.
    fn all_comes_back(mut self) {
        for block in self.held.drain(..) {
            self.arena.free(block);
        }
        self.words = self.lent.iter().map(|(id, generation, ..)| (*id, *generation)).collect();
        let words = &self.words;
        self.arena.reclaim(usize::MAX, |id| words.get(&id).copied().unwrap_or(0));
        assert_eq!(self.arena.lent(), 0);
        let mut sizes: Vec<u64> = self.segments.iter().map(|(.., units)| units.len() as u64).collect();
        sizes.sort_unstable();
        for units in sizes.into_iter().rev() {
            let whole = self.arena.allocate(units * UNIT, |_| 0).expect("a whole segment");
            assert_eq!(whole.capacity, units * UNIT);
        }
        assert_eq!(self.arena.allocate(1, |_| 0), None);
    }
}

/// Units of the longest run that nobody owns.
fn longest_free(units: &[Option<u32>]) -> u64 {
    units.split(Option::is_some).map(|run| run.len() as u64).max().unwrap_or(0)
}

//! The arena against a simple reference: a map of who owns each unit.
#![cfg(not(loom))]
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;
use shmrpc_transport::shm::arena::{Arena, BLOCKS, Block, UNIT};

#[derive(Debug, Clone)]
enum Step {
    Allocate(u64),
    Shrink(usize, u64),
    Free(usize),
    Lend(usize),
    Release(usize),
    Reclaim,
    Retire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5000u64).prop_map(Step::Allocate),
        1 => (any::<usize>(), 0..5000u64).prop_map(|(at, bytes)| Step::Shrink(at, bytes)),
        1 => any::<usize>().prop_map(Step::Free),
        2 => any::<usize>().prop_map(Step::Lend),
        2 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Reclaim),
        1 => Just(Step::Retire),
    ]
}

/// Segments and the ranges in them that the arena was given.
const SEGMENTS: [(u32, u64, u64); 2] = [(0, 4096, 4096 + 64 * 100), (3, 0, 64 * 80)];

/// What a message of so many bytes takes.
fn size(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(UNIT)
}

/// Who owns which unit: segment and unit to block id.
#[derive(Default)]
struct Reference {
    owners: HashMap<(u32, u64), u32>,
    generations: HashMap<u32, u32>,
}

impl Reference {
    fn take(&mut self, block: &Block, asked: u64) {
        let (_, start, end) = SEGMENTS.into_iter().find(|(id, ..)| *id == block.segment).unwrap();
        assert!(
            block.offset >= start && block.offset + block.capacity <= end,
            "{block:?} outside its segment"
        );
        assert!(block.offset.is_multiple_of(UNIT) && block.capacity.is_multiple_of(UNIT));
        assert!(block.capacity == size(asked) && block.id < BLOCKS);
        for unit in block.offset / UNIT..(block.offset + block.capacity) / UNIT {
            assert_eq!(self.owners.insert((block.segment, unit), block.id), None, "{block:?} overlaps");
        }
        let before = self.generations.insert(block.id, block.generation);
        assert_ne!(before, Some(block.generation), "{block:?} has its predecessor's generation");
    }

    /// Whether a segment has that much that belongs to nobody, in one run.
    fn has_room(&self, bytes: u64) -> bool {
        SEGMENTS.into_iter().any(|(segment, start, end)| {
            let mut run = 0;
            (start / UNIT..end / UNIT).any(|unit| {
                run = if self.owners.contains_key(&(segment, unit)) { 0 } else { run + UNIT };
                run >= size(bytes)
            })
        })
    }

    fn give(&mut self, segment: u32, from: u64, to: u64) {
        for unit in from / UNIT..to / UNIT {
            assert!(self.owners.remove(&(segment, unit)).is_some());
        }
    }
}

/// A block that was lent.
struct Lent {
    id: u32,
    generation: u32,
    segment: u32,
    offset: u64,
    capacity: u64,
}

/// The arena, beside what is known of it.
#[derive(Default)]
struct Model {
    arena: Arena,
    reference: Reference,
    held: Vec<Block>,
    lent: Vec<Lent>,
    /// The release words.
    words: HashMap<u32, u32>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        for (id, start, end) in SEGMENTS {
            model.arena.add_segment(id, start, end);
        }
        model
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Allocate(bytes) => {
                self.reclaim();
                let words = &self.words;
                let block = self.arena.allocate(bytes, |id| words.get(&id).copied().unwrap_or(0));
                assert_eq!(block.is_some(), self.reference.has_room(bytes), "{bytes} bytes");
                if let Some(block) = block {
                    self.reference.take(&block, bytes);
                    self.held.push(block);
                }
            }
            Step::Shrink(at, bytes) if !self.held.is_empty() => self.shrink(at % self.held.len(), bytes),
            Step::Free(at) if !self.held.is_empty() => {
                let block = self.held.swap_remove(at % self.held.len());
                self.reference.give(block.segment, block.offset, block.offset + block.capacity);
                self.arena.free(block);
            }
            Step::Lend(at) if !self.held.is_empty() => {
                let block = self.held.swap_remove(at % self.held.len());
                let Block { id, generation, segment, offset, capacity, .. } = block;
                self.lent.push(Lent { id, generation, segment, offset, capacity });
                self.arena.lend(block);
            }
            Step::Release(at) if !self.lent.is_empty() => {
                let Lent { id, generation, .. } = self.lent[at % self.lent.len()];
                self.words.insert(id, generation);
            }
            Step::Reclaim => {
                self.reclaim();
                assert_eq!(self.arena.lent(), self.lent.len());
            }
            Step::Retire => self.retire(),
            _ => {}
        }
    }

    /// What was released counts as free for the reference when the arena may have seen it.
    fn reclaim(&mut self) {
        let words = &self.words;
        self.arena.reclaim(usize::MAX, |id| words.get(&id).copied().unwrap_or(0));
        self.lent.retain(|lent| {
            let back = words.get(&lent.id) == Some(&lent.generation);
            if back {
                self.reference.give(lent.segment, lent.offset, lent.offset + lent.capacity);
            }
            !back
        });
    }

    fn shrink(&mut self, at: usize, bytes: u64) {
        let block = &mut self.held[at];
        let before = block.capacity;
        self.arena.shrink(block, bytes);
        assert_eq!(block.capacity, before.min(size(bytes)));
        self.reference.give(block.segment, block.offset + block.capacity, block.offset + before);
    }

    fn retire(&mut self) {
        self.reclaim();
        for id in self.arena.retire() {
            assert!(id != SEGMENTS[0].0, "the first segment stays");
            assert!(self.reference.owners.keys().all(|(segment, _)| *segment != id), "{id} is used");
            let (_, start, end) = SEGMENTS.into_iter().find(|(known, ..)| *known == id).unwrap();
            self.arena.add_segment(id, start, end);
        }
    }

    /// Everything comes back, and every segment is one run again.
    fn end(mut self) {
        for block in self.held.drain(..) {
            self.arena.free(block);
        }
        self.words.extend(self.lent.iter().map(|lent| (lent.id, lent.generation)));
        self.arena.reclaim(usize::MAX, |id| self.words.get(&id).copied().unwrap_or(0));
        assert_eq!(self.arena.lent(), 0);
        for (id, start, end) in SEGMENTS {
            let whole = self.arena.allocate(end - start, |_| 0).unwrap();
            assert_eq!((whole.segment, whole.offset, whole.capacity), (id, start, end - start));
        }
        assert!(self.arena.allocate(1, |_| 0).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_overlaps_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.take(step));
        model.end();
    }
}

#[test]
fn ids_are_bounded() {
    let mut arena = Arena::default();
    arena.add_segment(0, 0, u64::from(BLOCKS) * UNIT * 2);
    for _ in 0..BLOCKS {
        let block = arena.allocate(1, |_| 0).unwrap();
        arena.lend(block);
    }
    assert!(arena.allocate(1, |_| 0).is_none());
    assert!(arena.allocate(u64::MAX, |_| 0).is_none());
}

#[test]
fn what_was_used_since_the_last_look_is_not_retired() {
    let mut arena = Arena::default();
    arena.add_segment(0, 0, UNIT);
    arena.add_segment(1, 0, UNIT * 10);
    assert_eq!(arena.retire(), [0; 0], "new");
    let block = arena.allocate(UNIT * 2, |_| 0).unwrap();
    assert_eq!(arena.retire(), [0; 0], "used, and in use");
    assert_eq!(arena.retire(), [0; 0], "in use");
    arena.free(block);
    let block = arena.allocate(UNIT * 2, |_| 0).unwrap();
    arena.free(block);
    assert_eq!(arena.retire(), [0; 0], "used");
    assert_eq!(arena.retire(), [1]);
    assert_eq!(arena.retire(), [0; 0], "the first stays");
    assert_eq!(arena.segments(), 1);
}

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
        assert!(block.capacity >= asked && block.id < BLOCKS);
        for unit in block.offset / UNIT..(block.offset + block.capacity) / UNIT {
            assert_eq!(self.owners.insert((block.segment, unit), block.id), None, "{block:?} overlaps");
        }
        let before = self.generations.insert(block.id, block.generation);
        assert_ne!(before, Some(block.generation), "{block:?} has its predecessor's generation");
    }

    fn give(&mut self, segment: u32, from: u64, to: u64) {
        for unit in from / UNIT..to / UNIT {
            assert!(self.owners.remove(&(segment, unit)).is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_overlaps_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut arena = Arena::default();
        for (id, start, end) in SEGMENTS {
            arena.add_segment(id, start, end);
        }
        let mut reference = Reference::default();
        let mut held: Vec<Block> = Vec::new();
        // Lent blocks as (id, generation, segment, offset, capacity), and the release words.
        let mut lent: Vec<(u32, u32, u32, u64, u64)> = Vec::new();
        let mut words: HashMap<u32, u32> = HashMap::new();
        for step in steps {
            // What was released counts as free for the reference when the arena may have seen it.
            let settle = |reference: &mut Reference, lent: &mut Vec<(u32, u32, u32, u64, u64)>| {
                lent.retain(|(id, generation, segment, offset, capacity)| {
                    let back = words.get(id) == Some(generation);
                    if back {
                        reference.give(*segment, *offset, offset + capacity);
                    }
                    !back
                });
            };
            match step {
                Step::Allocate(bytes) => {
                    arena.reclaim(usize::MAX, |id| words.get(&id).copied().unwrap_or(0));
                    settle(&mut reference, &mut lent);
                    if let Some(block) = arena.allocate(bytes, |id| words.get(&id).copied().unwrap_or(0)) {
                        reference.take(&block, bytes);
                        held.push(block);
                    }
                }
                Step::Shrink(at, bytes) if !held.is_empty() => {
                    let at = at % held.len();
                    let before = held[at].capacity;
                    arena.shrink(&mut held[at], bytes);
                    let block = &held[at];
                    prop_assert!(block.capacity <= before && (block.capacity >= bytes || block.capacity == before));
                    reference.give(block.segment, block.offset + block.capacity, block.offset + before);
                }
                Step::Free(at) if !held.is_empty() => {
                    let block = held.swap_remove(at % held.len());
                    reference.give(block.segment, block.offset, block.offset + block.capacity);
                    arena.free(block);
                }
                Step::Lend(at) if !held.is_empty() => {
                    let block = held.swap_remove(at % held.len());
                    lent.push((block.id, block.generation, block.segment, block.offset, block.capacity));
                    arena.lend(block);
                }
                Step::Release(at) if !lent.is_empty() => {
                    let (id, generation, ..) = lent[at % lent.len()];
                    words.insert(id, generation);
                }
                Step::Reclaim => {
                    arena.reclaim(usize::MAX, |id| words.get(&id).copied().unwrap_or(0));
                    settle(&mut reference, &mut lent);
                    prop_assert_eq!(arena.lent(), lent.len());
                }
                Step::Retire => {
                    arena.reclaim(usize::MAX, |id| words.get(&id).copied().unwrap_or(0));
                    settle(&mut reference, &mut lent);
                    for id in arena.retire() {
                        prop_assert!(id != SEGMENTS[0].0, "the first segment stays");
                        prop_assert!(reference.owners.keys().all(|(segment, _)| *segment != id), "{} is used", id);
                        let (_, start, end) = SEGMENTS.into_iter().find(|(known, ..)| *known == id).unwrap();
                        arena.add_segment(id, start, end);
                    }
                }
                _ => {}
            }
        }
        // Everything comes back, and every segment is one run again.
        for block in held.drain(..) {
            arena.free(block);
        }
        let last: HashMap<u32, u32> = lent.iter().map(|(id, generation, ..)| (*id, *generation)).collect();
        arena.reclaim(usize::MAX, |id| last.get(&id).or(words.get(&id)).copied().unwrap_or(0));
        prop_assert_eq!(arena.lent(), 0);
        for (id, start, end) in SEGMENTS {
            let whole = arena.allocate(end - start, |_| 0).unwrap();
            prop_assert_eq!((whole.segment, whole.offset, whole.capacity), (id, start, end - start));
        }
        prop_assert!(arena.allocate(1, |_| 0).is_none());
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

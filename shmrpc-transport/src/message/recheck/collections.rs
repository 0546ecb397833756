//! The insides of rkyv's archived hash tables and B-trees, as far as its validation leaves them to us.
//!
//! The layouts are those of rkyv 0.8, in which archives do not change: `repr(C)`, with rkyv's own 32-bit pointers and
//! lengths. What rkyv shows of them is compared at compile time; tests find every byte where it is said to be.

use core::mem::MaybeUninit;

use rkyv::collections::btree_map::ArchivedBTreeMap;
use rkyv::collections::btree_set::ArchivedBTreeSet;
use rkyv::collections::swiss_table::{ArchivedHashMap, ArchivedHashSet};
use rkyv::primitive::ArchivedUsize;
use rkyv::rancor::fail;
use rkyv::rel_ptr::RawRelPtrI32;

use crate::message::Refusal;

/// Control bytes are read in groups of this many.
const GROUP: usize = 16;
/// Set in the control byte of an empty bucket. The others hold 7 bits of their key's hash.
const EMPTY: u8 = 0x80;
/// Entries of a B-tree's node.
const ENTRIES: usize = 5;

/// What a hash map is, and a hash set, whatever they hold.
#[repr(C)]
struct Table {
    /// To the first control byte. The buckets lie before it.
    controls: RawRelPtrI32,
    len: ArchivedUsize,
    capacity: ArchivedUsize,
}

/// What a B-tree map is, and a B-tree set, whatever they hold.
#[repr(C)]
struct Tree {
    root: RawRelPtrI32,
    len: ArchivedUsize,
}

/// How each node of a B-tree begins.
#[repr(C)]
struct Node<K, V> {
    /// [`LEAF`], or an inner node.
    kind: u8,
    keys: [MaybeUninit<K>; ENTRIES],
    values: [MaybeUninit<V>; ENTRIES],
}

const LEAF: u8 = 0;

#[repr(C)]
struct Leaf<K, V> {
    node: Node<K, V>,
    len: ArchivedUsize,
}

#[repr(C)]
struct Inner<K, V> {
    node: Node<K, V>,
    /// Before each entry. An absent one is an invalid pointer.
    lesser: [RawRelPtrI32; ENTRIES],
    /// Behind the last entry.
    greater: RawRelPtrI32,
}

const _: () = {
    assert!(size_of::<Table>() == size_of::<ArchivedHashMap<u128, u8>>());
    assert!(align_of::<Table>() == align_of::<ArchivedHashMap<u128, u8>>());
    assert!(size_of::<Table>() == size_of::<ArchivedHashSet<u128>>());
    assert!(align_of::<Table>() == align_of::<ArchivedHashSet<u128>>());
    assert!(size_of::<Tree>() == size_of::<ArchivedBTreeMap<u128, u8>>());
    assert!(align_of::<Tree>() == align_of::<ArchivedBTreeMap<u128, u8>>());
    assert!(size_of::<Tree>() == size_of::<ArchivedBTreeSet<u128>>());
    assert!(align_of::<Tree>() == align_of::<ArchivedBTreeSet<u128>>());
};

#[derive(Debug, thiserror::Error)]
enum Forged {
    #[error("control byte {index} of a hash table of {capacity} buckets is not that of its bucket")]
    Control { index: usize, capacity: usize },
    #[error("a leaf of a B-tree has no entries")]
    EmptyLeaf,
    #[error("an inner node of a B-tree has no first child")]
    NoFirstChild,
}

/// Checks the control bytes behind a map's capacity. rkyv has validated the map.
pub(super) fn check_map<K, V, H>(map: &ArchivedHashMap<K, V, H>) -> Result<(), Refusal> {
    // SAFETY: a map is a table and nothing else (`repr(transparent)`; size and alignment are asserted above), and any
    // bytes are a valid `Table`.
    check_table(unsafe { &*(&raw const *map).cast() })
}

/// As [`check_map`].
pub(super) fn check_set<K, H>(set: &ArchivedHashSet<K, H>) -> Result<(), Refusal> {
    // SAFETY: as in `check_map`.
    check_table(unsafe { &*(&raw const *set).cast() })
}

/// Checks that each leaf has an entry, and each inner node a first child. rkyv has validated the map.
pub(super) fn check_tree_map<K, V>(map: &ArchivedBTreeMap<K, V>) -> Result<(), Refusal> {
    // SAFETY: any bytes are a valid `Tree`; size and alignment are asserted above.
    check_tree::<K, V>(unsafe { &*(&raw const *map).cast() })
}

/// As [`check_tree_map`].
pub(super) fn check_tree_set<K>(set: &ArchivedBTreeSet<K>) -> Result<(), Refusal> {
    // SAFETY: as in `check_tree_map`; a set is a map whose values are `()`.
    check_tree::<K, ()>(unsafe { &*(&raw const *set).cast() })
}

/// The table is one that rkyv validated.
fn check_table(table: &Table) -> Result<(), Refusal> {
    let capacity = table.capacity.to_native() as usize;
    // rkyv has looked at no byte of a table without buckets, and nobody else will: its length is zero.
    if capacity == 0 {
        return Ok(());
    }
    let count = capacity.next_multiple_of(GROUP) + GROUP - 1;
    let controls = table.controls.as_ptr_wrapping().cast::<u8>();
    // SAFETY: rkyv has found that the payload has `capacity` buckets before `controls` and `count` bytes behind it.
    let controls = unsafe { core::slice::from_raw_parts(controls, count) };
    let (own, behind) = controls.split_at(capacity);
    for (index, control) in behind.iter().enumerate() {
        if control & EMPTY == 0 && own.get(index % capacity) != Some(control) {
            fail!(Forged::Control { index: capacity + index, capacity });
        }
    }
    Ok(())
}

/// The tree is one that rkyv validated.
fn check_tree<K, V>(tree: &Tree) -> Result<(), Refusal> {
    if tree.len.to_native() == 0 {
        return Ok(());
    }
    // SAFETY: a tree with entries has a root, which rkyv validated.
    unsafe { check_node::<K, V>(tree.root.as_ptr_wrapping().cast()) }
}

/// # Safety
/// `node` is a node that rkyv validated.
unsafe fn check_node<K, V>(node: *const Node<K, V>) -> Result<(), Refusal> {
    // SAFETY: every node has a kind.
    if unsafe { (*node).kind } == LEAF {
        // SAFETY: rkyv has found a leaf here. Any bytes are a valid one of ours.
        let leaf = unsafe { &*node.cast::<Leaf<K, V>>() };
        if leaf.len.to_native() == 0 {
            fail!(Forged::EmptyLeaf);
        }
        return Ok(());
    }
    // SAFETY: rkyv has found an inner node here. Any bytes are a valid one of ours.
    let inner = unsafe { &*node.cast::<Inner<K, V>>() };
    if inner.lesser.first().is_some_and(RawRelPtrI32::is_invalid) {
        fail!(Forged::NoFirstChild);
    }
    for child in inner.lesser.iter().chain([&inner.greater]).filter(|child| !child.is_invalid()) {
        // SAFETY: rkyv has validated what a valid pointer of a node points to. No deeper than `MAX_DEPTH`.
        unsafe { check_node::<K, V>(child.as_ptr_wrapping().cast()) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
    use std::ops::Range;

    use rkyv::rancor::Error;
    use rkyv::util::AlignedVec;
    use rkyv::{Archived, to_bytes};

    use super::*;
    use crate::message::{Wire, validate};

    /// Why `T` is not to be had from `bytes`, if so.
    fn refused<T: Wire>(bytes: &[u8]) -> Option<String> {
        validate::<T>(bytes).err().map(|refusal| refusal.reason().into())
    }

    /// Where the control bytes of a table lie that is the root.
    fn controls(bytes: &[u8], capacity: usize) -> Range<usize> {
        let to_controls = bytes.len() - size_of::<Table>();
        let offset = i32::from_le_bytes(*bytes[to_controls..].first_chunk().unwrap());
        let start = to_controls.checked_add_signed(offset as isize).unwrap();
        start..start + capacity.next_multiple_of(GROUP) + GROUP - 1
    }

    /// Sets each control byte behind the buckets to each value, and looks keys up in what is not refused.
    fn forge<T: Wire>(mut bytes: AlignedVec, capacity: usize, look: impl Fn(&Archived<T>)) {
        let controls = controls(&bytes, capacity);
        for index in capacity..controls.len() {
            let (at, bucket) = (controls.start + index, bytes[controls.start + index % capacity]);
            let before = bytes[at];
            for forged in 0..=u8::MAX {
                bytes[at] = forged;
                let refused = refused::<T>(&bytes);
                if forged & EMPTY == 0 && forged != bucket {
                    let refused = refused.expect("a full control byte that is not its bucket's");
                    // Of the first few, rkyv says the same.
                    let ours = format!("control byte {index} of a hash table of {capacity} buckets");
                    let same = format!("unwrapped control byte at index {index}");
                    assert!(refused.starts_with(&ours) || refused.starts_with(&same), "{refused}");
                } else if refused.is_none() && forged % 16 == 0 {
                    look(validate::<T>(&bytes).unwrap());
                }
            }
            bytes[at] = before;
            assert_eq!(refused::<T>(&bytes), None);
        }
    }

    #[test]
    fn a_control_byte_is_that_of_its_bucket() {
        for len in (1..20).chain([31, 64]) {
            let map: HashMap<u64, String> = (0..len).map(|key| (key, format!("the value {key}"))).collect();
            let bytes = to_bytes::<Error>(&map).unwrap();
            let capacity = validate::<HashMap<u64, String>>(&bytes).unwrap().capacity();
            forge::<HashMap<u64, String>>(bytes, capacity, |map| {
                (0..2 * len).for_each(|key| assert!(map.get(&key.into()).is_none() || key < len));
            });
            let set: HashSet<u64> = (0..len).collect();
            forge::<HashSet<u64>>(to_bytes::<Error>(&set).unwrap(), capacity, |set| {
                (0..2 * len).for_each(|key| assert!(!set.contains(&key.into()) || key < len));
            });
        }
    }

    #[test]
    fn a_lookup_ends_whatever_hashes_the_buckets_claim() {
        for len in 1..40 {
            let map: HashMap<u32, u8> = (0..len).map(|key| (key, 0)).collect();
            let mut bytes = to_bytes::<Error>(&map).unwrap();
            let capacity = validate::<HashMap<u32, u8>>(&bytes).unwrap().capacity();
            for hash in 0..EMPTY {
                let controls = controls(&bytes, capacity);
                for control in &mut bytes[controls] {
                    *control = if *control & EMPTY == 0 { hash } else { EMPTY };
                }
                let map = validate::<HashMap<u32, u8>>(&bytes).unwrap();
                (0..500).for_each(|key: u32| assert!(map.get(&key.into()).is_none() || key < len));
            }
        }
    }

    /// The nodes of a tree, the root first: where each lies in `bytes`, how many entries it and its children have.
    fn nodes<K, V>(bytes: &[u8], node: *const Node<K, V>, found: &mut Vec<(usize, u8, usize)>) -> usize {
        // SAFETY: a node of a tree that was just encoded.
        let kind = unsafe { (*node).kind };
        let (index, at) = (found.len(), node.addr() - bytes.as_ptr().addr());
        found.push((at, kind, 0));
        let count = if kind == LEAF {
            // SAFETY: it says that it is a leaf.
            unsafe { &*node.cast::<Leaf<K, V>>() }.len.to_native() as usize
        } else {
            // SAFETY: it says that it is an inner node.
            let inner = unsafe { &*node.cast::<Inner<K, V>>() };
            let children = inner.lesser.iter().chain([&inner.greater]).filter(|child| !child.is_invalid());
            ENTRIES
                + children
                    .map(|child| nodes::<K, V>(bytes, child.as_ptr_wrapping().cast(), found))
                    .sum::<usize>()
        };
        found[index].2 = count;
        count
    }

    /// Takes from each node in turn what an iterator relies on, and as many entries from the length.
    fn rob<T: Wire, K, V>(bytes: &mut AlignedVec, len: usize) {
        assert_eq!(refused::<T>(bytes), None);
        let to_len = bytes.len() - size_of::<ArchivedUsize>();
        let mut found = Vec::new();
        let tree = bytes[to_len - size_of::<RawRelPtrI32>()..].as_ptr().cast::<Tree>();
        // SAFETY: the root of an archive is its last object.
        let root = unsafe { &(*tree).root };
        assert_eq!(nodes::<K, V>(bytes, root.as_ptr_wrapping().cast(), &mut found), len);
        for (index, (at, kind, count)) in found.iter().copied().enumerate() {
            let (at, what, gone, words) = if kind == LEAF {
                (
                    at + core::mem::offset_of!(Leaf<K, V>, len),
                    0u32,
                    count,
                    "a leaf of a B-tree has no entries",
                )
            } else {
                let at = at + core::mem::offset_of!(Inner<K, V>, lesser);
                (at, 1, found[index + 1].2, "an inner node of a B-tree has no first child")
            };
            if gone == len {
                continue;
            }
            let good = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&what.to_le_bytes());
            bytes[to_len..].copy_from_slice(&u32::try_from(len - gone).unwrap().to_le_bytes());
            let refused = refused::<T>(bytes).expect("a node that an iterator cannot pass");
            assert!(refused.starts_with(words), "{refused}");
            *bytes = good;
        }
    }

    #[test]
    fn a_tree_has_an_entry_wherever_an_iterator_goes() {
        for len in (1..60).chain([215, 216, 300]) {
            let map: BTreeMap<u16, String> = (0..len).map(|key| (key, format!("the value {key}"))).collect();
            let mut bytes = to_bytes::<Error>(&map).unwrap();
            rob::<BTreeMap<u16, String>, Archived<u16>, Archived<String>>(&mut bytes, map.len());
            let set: BTreeSet<u128> = (0..len.into()).collect();
            let mut bytes = to_bytes::<Error>(&set).unwrap();
            rob::<BTreeSet<u128>, Archived<u128>, ()>(&mut bytes, set.len());
        }
    }
}

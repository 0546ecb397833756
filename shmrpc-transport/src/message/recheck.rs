//! What rkyv's validation leaves out, checked after it and before anybody gets a reference.
//!
//! rkyv 0.8.18 lets two things pass that its own lookups and iterators then rely on:
//!
//! ```text
//!  hash table:   .. bucket 1 | bucket 0 | control bytes 0 .. capacity | behind them, to the end of the last group
//!                                          ^                            ^ repeat the first ones, or say "empty"
//!                                          each was compared with its bucket; of those behind, only some were
//!
//!  B-tree node:  kind | 5 keys | 5 values | a leaf: count of entries | an inner node: 5 + 1 children, each may be absent
//!                                           ^ may be 0                                ^ the first may be absent, too
//! ```
//!
//! - A lookup reads a group of control bytes anywhere, and takes each full one behind the capacity for that of a bucket.
//!   If that bucket is empty, nobody validated it.
//! - An iterator goes down to the first child of each inner node, and reads the first entry of each leaf, without
//!   asking whether there is one.
//!
//! What else they rely on is validated by rkyv. Tables: fewer buckets are full than there are; the groups that a lookup
//! tries cover every bucket's control byte, or the one behind the capacity that stands for it; so it finds an empty one and
//! ends, whatever the hash is. Trees: each node is reached by one way, lies before its parent and has at most 5 entries, and
//! all of them are as many as the map says. Neither needs the hashes or the order to be right: a wrong one hides an entry
//! and no more.

use core::num::{NonZeroI8, NonZeroU8};

use rkyv::boxed::ArchivedBox;
use rkyv::collections::btree_map::ArchivedBTreeMap;
use rkyv::collections::btree_set::ArchivedBTreeSet;
use rkyv::collections::swiss_table::{ArchivedHashMap, ArchivedHashSet};
use rkyv::ffi::ArchivedCString;
use rkyv::net::{
    ArchivedIpAddr, ArchivedIpv4Addr, ArchivedIpv6Addr, ArchivedSocketAddr, ArchivedSocketAddrV4,
    ArchivedSocketAddrV6,
};
use rkyv::ops::{
    ArchivedBound, ArchivedRange, ArchivedRangeFrom, ArchivedRangeInclusive, ArchivedRangeTo,
    ArchivedRangeToInclusive,
};
use rkyv::option::ArchivedOption;
use rkyv::primitive::{
    ArchivedChar, ArchivedF32, ArchivedF64, ArchivedI16, ArchivedI32, ArchivedI64, ArchivedI128,
    ArchivedNonZeroI16, ArchivedNonZeroI32, ArchivedNonZeroI64, ArchivedNonZeroI128, ArchivedNonZeroU16,
    ArchivedNonZeroU32, ArchivedNonZeroU64, ArchivedNonZeroU128, ArchivedU16, ArchivedU32, ArchivedU64,
    ArchivedU128,
};
use rkyv::result::ArchivedResult;
use rkyv::string::ArchivedString;
use rkyv::time::ArchivedDuration;
use rkyv::traits::ArchivePointee;
use rkyv::tuple::{
    ArchivedTuple1, ArchivedTuple2, ArchivedTuple3, ArchivedTuple4, ArchivedTuple5, ArchivedTuple6,
    ArchivedTuple7, ArchivedTuple8, ArchivedTuple9, ArchivedTuple10, ArchivedTuple11, ArchivedTuple12,
};
use rkyv::vec::ArchivedVec;

use super::Refusal;

// unsafe: reads control bytes and nodes, which rkyv keeps to itself.
mod collections;

/// An archived type of which everything is known that rkyv does not validate. Not to be implemented by hand: a wrong
/// answer is not memory-safe.
pub trait Recheck {
    /// Whether there may be such a thing in a value: a hash table, a tree. Without, nothing is looked at.
    const NEEDED: bool = false;

    /// Checks it, in a value that rkyv validated.
    ///
    /// # Errors
    /// [`Refusal`] if a lookup or an iterator would leave what was validated.
    #[inline(always)]
    fn recheck(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

macro_rules! plain {
    ($($type:ty)*) => {$(
        impl Recheck for $type {}
    )*};
}

plain! { () u8 i8 bool ArchivedChar str ArchivedString ArchivedCString ArchivedDuration }
plain! { ArchivedU16 ArchivedU32 ArchivedU64 ArchivedU128 ArchivedF32 ArchivedF64 }
plain! { ArchivedI16 ArchivedI32 ArchivedI64 ArchivedI128 NonZeroU8 NonZeroI8 }
plain! { ArchivedNonZeroU16 ArchivedNonZeroU32 ArchivedNonZeroU64 ArchivedNonZeroU128 }
plain! { ArchivedNonZeroI16 ArchivedNonZeroI32 ArchivedNonZeroI64 ArchivedNonZeroI128 }
plain! { ArchivedIpv4Addr ArchivedIpv6Addr ArchivedIpAddr }
plain! { ArchivedSocketAddrV4 ArchivedSocketAddrV6 ArchivedSocketAddr }

impl<T: Recheck> Recheck for [T] {
    const NEEDED: bool = T::NEEDED;

    #[inline]
    fn recheck(&self) -> Result<(), Refusal> {
        if T::NEEDED { self.iter().try_for_each(T::recheck) } else { Ok(()) }
    }
}

/// Types whose parts are all that matters.
macro_rules! made_of {
    ($($type:ident<$($parameter:ident),+>: |$value:ident| $check:expr;)*) => {$(
        impl<$($parameter: Recheck),+> Recheck for $type<$($parameter),+> {
            const NEEDED: bool = false $(|| $parameter::NEEDED)+;

            #[inline]
            fn recheck(&self) -> Result<(), Refusal> {
                let $value = self;
                $check
            }
        }
    )*};
}

made_of! {
    ArchivedVec<T>: |vec| vec.as_slice().recheck();
    ArchivedOption<T>: |option| option.as_ref().map_or(Ok(()), T::recheck);
    ArchivedResult<T, E>: |result| match result {
        ArchivedResult::Ok(value) => value.recheck(),
        ArchivedResult::Err(error) => error.recheck(),
    };
    ArchivedRange<T>: |range| range.start.recheck().and(range.end.recheck());
    ArchivedRangeInclusive<T>: |range| range.start.recheck().and(range.end.recheck());
    ArchivedRangeFrom<T>: |range| range.start.recheck();
    ArchivedRangeTo<T>: |range| range.end.recheck();
    ArchivedRangeToInclusive<T>: |range| range.end.recheck();
    ArchivedBound<T>: |bound| match bound {
        ArchivedBound::Included(value) | ArchivedBound::Excluded(value) => value.recheck(),
        ArchivedBound::Unbounded => Ok(()),
    };
}

impl<T: Recheck, const N: usize> Recheck for [T; N] {
    const NEEDED: bool = T::NEEDED;

    #[inline]
    fn recheck(&self) -> Result<(), Refusal> {
        self.as_slice().recheck()
    }
}

impl<T: Recheck + ArchivePointee + ?Sized> Recheck for ArchivedBox<T> {
    const NEEDED: bool = T::NEEDED;

    #[inline]
    fn recheck(&self) -> Result<(), Refusal> {
        if T::NEEDED { self.get().recheck() } else { Ok(()) }
    }
}

macro_rules! tuples {
    ($($type:ident<$($parameter:ident $index:tt),+>)*) => { made_of! {
        $($type<$($parameter),+>: |tuple| Ok(())$(.and(tuple.$index.recheck()))+;)*
    } };
}

tuples! {
    ArchivedTuple1<A 0>
    ArchivedTuple2<A 0, B 1>
    ArchivedTuple3<A 0, B 1, C 2>
    ArchivedTuple4<A 0, B 1, C 2, D 3>
    ArchivedTuple5<A 0, B 1, C 2, D 3, E 4>
    ArchivedTuple6<A 0, B 1, C 2, D 3, E 4, F 5>
    ArchivedTuple7<A 0, B 1, C 2, D 3, E 4, F 5, G 6>
    ArchivedTuple8<A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7>
    ArchivedTuple9<A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8>
    ArchivedTuple10<A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9>
    ArchivedTuple11<A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10>
    ArchivedTuple12<A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11>
}

impl<K: Recheck, V: Recheck, H> Recheck for ArchivedHashMap<K, V, H> {
    const NEEDED: bool = true;

    fn recheck(&self) -> Result<(), Refusal> {
        collections::check_map(self)?;
        if K::NEEDED || V::NEEDED {
            self.iter().try_for_each(|(key, value)| key.recheck().and(value.recheck()))?;
        }
        Ok(())
    }
}

impl<K: Recheck, H> Recheck for ArchivedHashSet<K, H> {
    const NEEDED: bool = true;

    fn recheck(&self) -> Result<(), Refusal> {
        collections::check_set(self)?;
        if K::NEEDED { self.iter().try_for_each(K::recheck) } else { Ok(()) }
    }
}

impl<K: Recheck, V: Recheck> Recheck for ArchivedBTreeMap<K, V> {
    const NEEDED: bool = true;

    fn recheck(&self) -> Result<(), Refusal> {
        collections::check_tree_map(self)?;
        if K::NEEDED || V::NEEDED {
            self.iter().try_for_each(|(key, value)| key.recheck().and(value.recheck()))?;
        }
        Ok(())
    }
}

impl<K: Recheck> Recheck for ArchivedBTreeSet<K> {
    const NEEDED: bool = true;

    fn recheck(&self) -> Result<(), Refusal> {
        collections::check_tree_set(self)?;
        if K::NEEDED { self.iter().try_for_each(K::recheck) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
    use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};

    use rkyv::rancor::fail;
    use rkyv::util::AlignedVec;
    use rkyv::{Archive, Archived, Deserialize, Serialize, to_bytes};

    use super::*;
    use crate::message::validate;

    /// One value of it is refused by us, and none by rkyv.
    #[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize, Deserialize)]
    #[rkyv(derive(PartialEq, Eq, Hash, PartialOrd, Ord))]
    struct Odd(bool);

    #[derive(Debug, thiserror::Error)]
    #[error("odd")]
    struct IsOdd;

    impl Recheck for ArchivedOdd {
        const NEEDED: bool = true;

        fn recheck(&self) -> Result<(), Refusal> {
            if self.0 { fail!(IsOdd) } else { Ok(()) }
        }
    }

    fn is_refused<T: Archive<Archived: crate::message::Valid>>(bytes: &AlignedVec) -> bool {
        assert!(T::Archived::NEEDED);
        validate::<T>(bytes).is_err()
    }

    macro_rules! is_found {
        ($($type:ty: |$odd:ident| $value:expr;)*) => {$(
            for $odd in [false, true] {
                let value: $type = $value;
                let bytes = to_bytes::<rkyv::rancor::Error>(&value).unwrap();
                assert_eq!(is_refused::<$type>(&bytes), $odd, "{value:?}");
            }
        )*};
    }

    #[test]
    fn every_part_is_found() {
        is_found! {
            Vec<Odd>: |odd| vec![Odd(false), Odd(odd)];
            VecDeque<Odd>: |odd| VecDeque::from([Odd(false), Odd(odd)]);
            [Odd; 2]: |odd| [Odd(false), Odd(odd)];
            Box<[Odd]>: |odd| Box::new([Odd(false), Odd(odd)]);
            Box<Odd>: |odd| Box::new(Odd(odd));
            Option<Odd>: |odd| Some(Odd(odd));
            Result<Odd, u8>: |odd| Ok(Odd(odd));
            Result<u8, Odd>: |odd| Err(Odd(odd));
            Range<Odd>: |odd| Odd(odd)..Odd(false);
            Range<Odd>: |odd| Odd(false)..Odd(odd);
            RangeInclusive<Odd>: |odd| Odd(odd)..=Odd(false);
            RangeInclusive<Odd>: |odd| Odd(false)..=Odd(odd);
            RangeFrom<Odd>: |odd| Odd(odd)..;
            RangeTo<Odd>: |odd| ..Odd(odd);
            RangeToInclusive<Odd>: |odd| ..=Odd(odd);
            Bound<Odd>: |odd| Bound::Included(Odd(odd));
            Bound<Odd>: |odd| Bound::Excluded(Odd(odd));
            HashMap<Odd, u8>: |odd| HashMap::from([(Odd(odd), 1)]);
            HashMap<u8, Odd>: |odd| HashMap::from([(1, Odd(false)), (2, Odd(odd))]);
            HashSet<Odd>: |odd| HashSet::from([Odd(odd)]);
            BTreeMap<Odd, u8>: |odd| BTreeMap::from([(Odd(odd), 1)]);
            BTreeMap<u8, Odd>: |odd| (0..9).map(|key| (key, Odd(odd && key == 8))).collect();
            BTreeSet<Odd>: |odd| BTreeSet::from([Odd(odd)]);
            Vec<Option<Box<[Odd]>>>: |odd| vec![None, Some(Box::new([Odd(odd)]))];
        }
    }

    #[test]
    fn every_field_of_a_tuple_is_found() {
        /// Each of the fields in turn.
        macro_rules! fields {
            ($($before:ident)*;) => {};
            ($($before:ident)*; $this:ident $($after:ident)*) => {
                is_found! { ($($before,)* Odd, $($after,)*): |odd| ($($before::MAX,)* Odd(odd), $($after::MAX,)*); }
                fields!($($before)* $this; $($after)*);
            };
        }
        macro_rules! lengths {
            () => {};
            ($first:ident $($rest:ident)*) => {
                fields!(; $first $($rest)*);
                lengths!($($rest)*);
            };
        }
        lengths!(u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8 u8);
    }

    /// What has neither tables nor trees pays for no second look.
    #[test]
    fn most_types_are_not_looked_at() {
        type Plain =
            (Vec<Option<Box<[String]>>>, Result<[u64; 3], Bound<i8>>, std::time::Duration, Range<char>);
        const { assert!(!<Archived<Plain> as Recheck>::NEEDED) };
    }
}

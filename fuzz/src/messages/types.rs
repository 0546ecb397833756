//! Types of many shapes, values of them made of the fuzzer's bytes, and what a handler may do with their archives.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::hash::BuildHasherDefault;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroI32, NonZeroU8, NonZeroU64};
use std::ops::{Bound, Range};
use std::time::Duration;

use shmrpc::Archived;
use shmrpc::arg;

use super::Sample;
use crate::input::Input;

/// The same order of entries in every process, so that the same input gives the same archive.
type Hasher = BuildHasherDefault<DefaultHasher>;

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) struct Numbers {
    small: (u8, i8, u16, i16),
    middle: (u32, i32, u64, i64),
    large: (u128, i128),
    truth: bool,
    letter: char,
    array: [u32; 3],
    flags: [bool; 4],
}

/// Arguments as a handler takes them: `&str`, `&[u8]`, `&[f32]`, `&[u64]`.
pub(super) type Texts = (String, Vec<u8>, Vec<f32>, Vec<u64>);

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) enum Shape {
    Nothing,
    Circle(u64),
    Box { width: u16, letter: char, label: String },
    Level(Level),
}

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) enum Level {
    Low = 1,
    High = 9,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) struct Shapes {
    first: Shape,
    maybe: Option<Shape>,
    either: Result<Level, Vec<Shape>>,
    boxed: Box<Shape>,
    optional: Option<Box<Option<bool>>>,
    unit: (),
    words: Vec<String>,
    slice: Box<[u32]>,
    text: Box<str>,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) struct Maps {
    hash: HashMap<String, u32, Hasher>,
    hash_set: HashSet<u64, Hasher>,
    tree: BTreeMap<u16, Vec<u8>>,
    tree_set: BTreeSet<String>,
    deep: BTreeMap<String, HashMap<u8, Option<bool>, Hasher>>,
    queue: VecDeque<i32>,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub(super) struct Standard {
    time: Duration,
    address: IpAddr,
    socket: SocketAddr,
    numbers: (NonZeroU8, NonZeroI32, Option<NonZeroU64>),
    text: CString,
    range: Range<u32>,
    bound: Bound<u16>,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message(recursive)]
pub(super) struct Tree {
    value: u32,
    children: Vec<Tree>,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message(recursive)]
pub(super) struct List {
    value: u32,
    next: Option<Box<List>>,
}

#[derive(Debug, PartialEq)]
#[shmrpc::message(recursive)]
pub(super) enum Json {
    Null,
    Truth(bool),
    Number(i64),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
    Hash(HashMap<u16, Json, Hasher>),
}

impl Tree {
    pub(super) fn depth(&self) -> usize {
        1 + self.children.iter().map(Self::depth).max().unwrap_or(0)
    }
}

impl List {
    pub(super) fn length(&self) -> usize {
        std::iter::successors(Some(self), |list| list.next.as_deref()).count()
    }
}

/// For the compiler, which else might not look.
fn seen<T>(value: T) {
    std::hint::black_box(value);
}

macro_rules! same {
    ($($type:ty)*) => {$(
        impl Sample for $type {
            fn same(&self, other: &Self) -> bool {
                self == other
            }
        }
    )*};
}

same!(Numbers Shapes Standard Tree List Vec<Vec<Vec<u16>>>);

impl Sample for Texts {
    fn same(&self, other: &Self) -> bool {
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        (&self.0, &self.1, bits(&self.2), &self.3) == (&other.0, &other.1, bits(&other.2), &other.3)
    }

    fn read(archived: &Archived<Self>) {
        let sum = arg::slice::<f32>(&archived.2).iter().sum::<f32>();
        let wide = arg::slice::<u64>(&archived.3).iter().fold(0, |sum: u64, more| sum.wrapping_add(*more));
        let text = arg::text(&archived.0);
        seen((text.chars().count(), arg::slice::<u8>(&archived.1).contains(&7), sum, wide));
    }
}

impl Sample for Maps {
    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn read(archived: &Archived<Self>) {
        for (key, value) in archived.hash.iter() {
            seen(archived.hash.get(key.as_str()).is_some_and(|found| found == value));
        }
        archived.hash_set.iter().for_each(|key| seen(archived.hash_set.contains(key)));
        for (key, value) in archived.tree.iter().chain(archived.tree.range(Archived::<u16>::from(7)..)) {
            seen((archived.tree.get(key), value.iter().max()));
        }
        archived.tree_set.iter().for_each(|key| seen(archived.tree_set.get(key.as_str())));
        for (key, inner) in archived.deep.iter() {
            seen(archived.deep.get(key.as_str()).map(|found| found.len()));
            (0..=u8::MAX).for_each(|key| seen(inner.get(&key)));
        }
        assert_eq!(archived.hash.iter().count(), archived.hash.len());
        assert_eq!(archived.hash_set.iter().count(), archived.hash_set.len());
        assert_eq!(archived.tree.iter().count(), archived.tree.len());
        assert_eq!(archived.tree_set.iter().count(), archived.tree_set.len());
        // Keys that are not there, of many hashes.
        for key in 0..200u16 {
            let text = key.to_string();
            seen((archived.hash.get(text.as_str()), archived.hash_set.contains(&u64::from(key).into())));
            seen((archived.tree.get(&key.into()), archived.tree_set.get(text.as_str())));
            seen(archived.deep.get(text.as_str()).is_some());
        }
    }
}

impl Sample for Json {
    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn read(archived: &Archived<Self>) {
        match archived {
            Archived::<Self>::Array(items) => items.iter().for_each(Self::read),
            Archived::<Self>::Object(map) => {
                for (key, value) in map.iter() {
                    seen(map.get(key.as_str()).is_some());
                    Self::read(value);
                }
            }
            Archived::<Self>::Hash(map) => {
                map.values().for_each(Self::read);
                (0..300u16).for_each(|key| seen(map.get(&key.into()).is_some()));
            }
            _ => {}
        }
    }
}

/// Makes a value of the fuzzer's bytes; at depth 0 one without parts.
pub(super) trait Make {
    fn make(input: &mut Input<'_>, depth: usize) -> Self;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Make for $type {
            fn make(input: &mut Input<'_>, _: usize) -> Self {
                Self::from_le_bytes(input.array())
            }
        }
    )*};
}

numbers!(u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 f32);

/// Types that are made of a few parts.
macro_rules! makes {
    ($($type:ty: |$input:ident, $depth:ident| $make:expr;)*) => {$(
        impl Make for $type {
            fn make($input: &mut Input<'_>, $depth: usize) -> Self {
                $make
            }
        }
    )*};
}

fn make<T: Make>(input: &mut Input<'_>, depth: usize) -> T {
    T::make(input, depth)
}

/// Up to 20 of them, so that a tree has more than one node.
fn some<T: Make, C: FromIterator<T>>(input: &mut Input<'_>, depth: usize) -> C {
    let count = if depth == 0 { 0 } else { input.below(20) };
    (0..count).map(|_| make(input, depth - 1)).collect()
}

makes! {
    (): |_i, _d| ();
    bool: |i, _d| i.flag();
    char: |i, _d| char::from_u32(i.half() % 0x11_0000).unwrap_or('?');
    String: |i, _d| { let count = i.below(40); String::from_utf8_lossy(i.bytes(count)).into_owned() };
    Box<str>: |i, d| make::<String>(i, d).into();
    Duration: |i, _d| Duration::new(i.word(), i.half() % 1_000_000_000);
    IpAddr: |i, _d| if i.flag() { i.array::<4>().into() } else { i.array::<16>().into() };
    SocketAddr: |i, d| (make::<IpAddr>(i, d), i.short()).into();
    NonZeroU8: |i, _d| NonZeroU8::new(i.byte()).unwrap_or(NonZeroU8::MIN);
    NonZeroI32: |i, d| NonZeroI32::new(make(i, d)).unwrap_or(NonZeroI32::MIN);
    NonZeroU64: |i, _d| NonZeroU64::new(i.word()).unwrap_or(NonZeroU64::MIN);
    CString: |i, _d| { let count = i.below(30); CString::new(i.bytes(count)).unwrap_or_default() };
    Range<u32>: |i, _d| i.half()..i.half();
    Bound<u16>: |i, _d| match i.below(3) { 0 => Bound::Included(i.short()), 1 => Bound::Excluded(i.short()), _ => Bound::Unbounded };
    Level: |i, _d| if i.flag() { Level::High } else { Level::Low };
    Shape: |i, d| match i.below(4) {
        0 => Shape::Nothing,
        1 => Shape::Circle(i.word()),
        2 => Shape::Box { width: i.short(), letter: make(i, d), label: make(i, d) },
        _ => Shape::Level(make(i, d)),
    };
    Shapes: |i, d| Shapes {
        first: make(i, d), maybe: make(i, d), either: if i.flag() { Ok(make(i, d)) } else { Err(some(i, d)) },
        boxed: make(i, d), optional: make(i, d), unit: (), words: some(i, d), slice: some(i, d), text: make(i, d),
    };
    Maps: |i, d| Maps {
        hash: some(i, d), hash_set: some(i, d), tree: some(i, d), tree_set: some(i, d), deep: some(i, d),
        queue: some(i, d),
    };
    Standard: |i, d| Standard {
        time: make(i, d), address: make(i, d), socket: make(i, d), numbers: make(i, d), text: make(i, d),
        range: make(i, d), bound: make(i, d),
    };
    Numbers: |i, d| Numbers {
        small: make(i, d), middle: make(i, d), large: make(i, d), truth: make(i, d), letter: make(i, d),
        array: [make(i, d), make(i, d), make(i, d)], flags: [make(i, d), make(i, d), make(i, d), make(i, d)],
    };
    Tree: |i, d| Tree { value: i.half(), children: some(i, d) };
    List: |i, d| List { value: i.half(), next: if d == 0 { None } else { Some(Box::new(make(i, d - 1))) } };
    Json: |i, d| match i.below(7) {
        0 => Json::Null,
        1 => Json::Truth(i.flag()),
        2 => Json::Number(make(i, d)),
        3 => Json::Text(make(i, d)),
        4 => Json::Array(some(i, d)),
        5 => Json::Object(some(i, d)),
        _ => Json::Hash(some(i, d)),
    };
}

impl<T: Make> Make for Option<T> {
    fn make(input: &mut Input<'_>, depth: usize) -> Self {
        input.flag().then(|| make(input, depth))
    }
}

impl<T: Make> Make for Box<T> {
    fn make(input: &mut Input<'_>, depth: usize) -> Self {
        Self::new(make(input, depth))
    }
}

impl<T: Make> Make for Vec<T> {
    fn make(input: &mut Input<'_>, depth: usize) -> Self {
        some(input, depth)
    }
}

impl<K: Make + Eq + std::hash::Hash, V: Make> Make for HashMap<K, V, Hasher> {
    fn make(input: &mut Input<'_>, depth: usize) -> Self {
        some(input, depth)
    }
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<$($name: Make),*> Make for ($($name,)*) {
            fn make(input: &mut Input<'_>, depth: usize) -> Self {
                ($(make::<$name>(input, depth),)*)
            }
        }
    )*};
}

tuples!((A B) (A B C) (A B C D));

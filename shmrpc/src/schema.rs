//! What a type looks like on the wire, as text: how two processes find out whether they mean the same thing.
//!
//! A [`Describe`] writes the canonical text of a type:
//!
//! ```text
//! u64   String   Vec<u8>   [u8;16]   Option<(u32,bool)>   Result<u64,String>   ()
//! struct Entry{key:String,value:Vec<u8>,version:u64}     struct Meters(f64)     struct Marker
//! enum KvError{NotFound(String),Conflict{expected:u64,found:u64}}               enum Level{Low=1,High=9}
//! struct Node{value:u32,child:Option<Box<Node#1>>}            // `Node#1`: the first type that this text defined
//! ```
//!
//! Names of types, fields and variants, their order and their types are part of it; module paths, names of
//! parameters, docs and visibility are not. A method adds its own name and result:
//! `put(String,Vec<u8>)->u64`, `oneway touch(String)`.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fmt::Write;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroU8, NonZeroU16, NonZeroU32,
    NonZeroU64, NonZeroU128,
};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::time::Duration;

use crate::{Archived, Message};

/// A type that can be sent: `#[shmrpc::message]` implements it, as do the types of the standard library that can travel.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a shmrpc message",
    label = "cannot be sent to another process",
    note = "if it is your own struct or enum, add `#[shmrpc::message]` to it",
    note = "in place of any other type, send plain data: `u64` for `usize`, `String` for a path, `Duration` for an `Instant` \
        or a `SystemTime`, an enum of your own for an error; a file or a socket goes as an `OwnedFd`, which is a parameter or a \
        result of its own"
)]
pub trait Schema: 'static {
    /// Whether a value can contain values of its own type, so that its depth is not bounded by its type.
    const RECURSIVE: bool = false;
    /// Whether it has collections, of what a generic message got as its arguments, whose elements take no bytes.
    const EMPTY_ELEMENTS: bool = false;

    /// Writes the canonical text of the type.
    fn describe(to: &mut Describe);
}

/// A type that is said to be a message, whatever it is made of: nothing is asked of the fields of a struct or an enum. So
/// the macros can ask for it where anything else would go in a circle, or be refused a second time. Each [`Message`] is
/// one, or a field of it would not be sent.
pub trait Declared {}

/// What all methods of a service look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSchema {
    /// The trait's name.
    pub name: &'static str,
    /// In the order of the trait.
    pub methods: Vec<MethodSchema>,
}

/// What one method looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodSchema {
    /// Position in the trait as written, before `#[cfg]`.
    pub index: u16,
    /// The method's name.
    pub name: &'static str,
    /// Whether it is never answered.
    pub oneway: bool,
    /// Canonical text: `put(String,Vec<u8>)->u64`.
    pub text: String,
    /// FNV-1a (64 bits) of the text.
    pub hash: u64,
    /// Whether its arguments or its result have descriptors.
    pub descriptors: bool,
}

impl MethodSchema {
    /// A method that returns `R`. `A` is the tuple of its arguments.
    #[must_use]
    pub fn unary<A: Schema, R: Schema>(index: u16, name: &'static str) -> Self {
        Self::new(index, name, false, |to| {
            A::describe(to);
            to.text.push_str("->");
            R::describe(to);
        })
    }

    /// A method that is never answered.
    #[must_use]
    pub fn oneway<A: Schema>(index: u16, name: &'static str) -> Self {
        Self::new(index, name, true, A::describe)
    }

    fn new(index: u16, name: &'static str, oneway: bool, describe: impl FnOnce(&mut Describe)) -> Self {
        let mut to = Describe::new();
        to.text.push_str(if oneway { "oneway " } else { "" });
        to.text.push_str(name);
        describe(&mut to);
        let descriptors = to.descriptors;
        let text = to.finish();
        Self { index, name, oneway, hash: hash(&text), text, descriptors }
    }
}

/// The hash of a canonical text: FNV-1a, 64 bits. It is compared between processes, so it never changes.
const fn hash(text: &str) -> u64 {
    let mut bytes = text.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    while let [byte, rest @ ..] = bytes {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
        bytes = rest;
    }
    hash
}

/// Writes canonical texts. What a [`Schema`] is given to describe itself to.
#[derive(Debug, Default)]
pub struct Describe {
    text: String,
    /// Structs and enums whose definition was written, in order.
    defined: Vec<TypeId>,
    /// Whether the list being written has an item already.
    list: List,
    /// Whether a descriptor was among it.
    descriptors: bool,
}

/// The brackets around the list being written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum List {
    /// No item yet, so no brackets either.
    #[default]
    Empty,
    /// `(..)`
    Positional,
    /// `{..}`
    Named,
}

impl Describe {
    /// Writes to an empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The canonical text of `T`.
    #[must_use]
    pub fn text_of<T: Schema + ?Sized>() -> String {
        let mut to = Self::new();
        T::describe(&mut to);
        to.finish()
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    /// A type of the language, by its name.
    pub fn primitive(&mut self, name: &str) {
        self.text.push_str(name);
    }

    /// A descriptor.
    pub(crate) fn descriptor(&mut self) {
        self.descriptors = true;
        self.primitive("OwnedFd");
    }

    /// The struct `T`: `struct name{..}`, `struct name(..)` or `struct name`.
    pub fn structure<T: ?Sized + 'static>(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.define::<T>("struct ", name, fields);
    }

    /// The enum `T`: `enum name{..}`, of [`variant`](Self::variant)s.
    pub fn enumeration<T: ?Sized + 'static>(&mut self, name: &str, variants: impl FnOnce(&mut Self)) {
        self.define::<T>("enum ", name, variants);
    }

    /// A variant of the enum being written.
    pub fn variant(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.next(List::Named);
        self.text.push_str(name);
        self.list(fields);
    }

    /// A field with a name.
    pub fn field<T: Schema + ?Sized>(&mut self, name: &str) {
        self.next(List::Named);
        self.text.push_str(name);
        self.text.push(':');
        T::describe(self);
    }

    /// A field of a tuple.
    pub fn element<T: Schema + ?Sized>(&mut self) {
        self.next(List::Positional);
        T::describe(self);
    }

    /// Whether any of `flags` is set: for [`Schema::RECURSIVE`] of what has parts.
    #[must_use]
    pub const fn any(mut flags: &[bool]) -> bool {
        while let [flag, rest @ ..] = flags {
            if *flag {
                return true;
            }
            flags = rest;
        }
        false
    }

    /// A type that was defined before is written by name and number, so that recursion ends and no two types are mixed up.
    fn define<T: ?Sized + 'static>(&mut self, keyword: &str, name: &str, body: impl FnOnce(&mut Self)) {
        let id = TypeId::of::<T>();
        if let Some(position) = self.defined.iter().position(|defined| *defined == id) {
            let _ = write!(self.text, "{name}#{}", position + 1);
            return;
        }
        self.defined.push(id);
        self.text.push_str(keyword);
        self.text.push_str(name);
        self.list(body);
    }

    fn list(&mut self, items: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.list);
        items(self);
        self.text.push_str(match std::mem::replace(&mut self.list, outer) {
            List::Empty => "",
            List::Positional => ")",
            List::Named => "}",
        });
    }

    fn next(&mut self, list: List) {
        let opens = self.list == List::Empty;
        self.text.push(match list {
            _ if !opens => ',',
            List::Named => '{',
            List::Positional | List::Empty => '(',
        });
        self.list = list;
    }

    fn generic(&mut self, name: &str, arguments: &[fn(&mut Self)]) {
        self.text.push_str(name);
        for (position, argument) in arguments.iter().enumerate() {
            self.text.push(if position == 0 { '<' } else { ',' });
            argument(self);
        }
        self.text.push('>');
    }
}

macro_rules! primitives {
    ($($type:ident)*) => { $(
        impl Schema for $type {
            fn describe(to: &mut Describe) {
                to.primitive(stringify!($type));
            }
        }

        impl Message for $type {}
        impl Declared for $type {}
    )* };
}

primitives! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 bool char String CString Duration }
primitives! { NonZeroU8 NonZeroU16 NonZeroU32 NonZeroU64 NonZeroU128 }
primitives! { NonZeroI8 NonZeroI16 NonZeroI32 NonZeroI64 NonZeroI128 }
primitives! { Ipv4Addr Ipv6Addr IpAddr SocketAddrV4 SocketAddrV6 SocketAddr }

macro_rules! generics {
    ($($type:ident<$($parameter:ident),*>)*) => { $(
        impl<$($parameter: Schema),*> Schema for $type<$($parameter),*> {
            const RECURSIVE: bool = Describe::any(&[$($parameter::RECURSIVE),*]);
            const EMPTY_ELEMENTS: bool = Describe::any(&[$($parameter::EMPTY_ELEMENTS),*]);

            fn describe(to: &mut Describe) {
                to.generic(stringify!($type), &[$($parameter::describe),*]);
            }
        }

        impl<$($parameter: Message),*> Message for $type<$($parameter),*> {}
        impl<$($parameter: Declared),*> Declared for $type<$($parameter),*> {}
    )* };
}

generics! { Option<T> Result<T, E> Range<T> RangeInclusive<T> RangeFrom<T> RangeTo<T> RangeToInclusive<T> Bound<T> }

/// Types that hold any number of elements. A count of elements that take no bytes is bounded by nothing. In brackets: what keys
/// have to be; in parentheses: the hasher.
macro_rules! collections {
    ($($type:ident<$($parameter:ident),*> $([$key:ident: $bound:ident])? $(($hasher:ident))?;)*) => { $(
        impl<$($parameter: Message,)* $($hasher: 'static)?> Schema for $type<$($parameter,)* $($hasher)?> {
            const RECURSIVE: bool = Describe::any(&[$($parameter::RECURSIVE),*]);
            const EMPTY_ELEMENTS: bool = !Describe::any(&[$(size_of::<Archived<$parameter>>() != 0),*])
                || Describe::any(&[$($parameter::EMPTY_ELEMENTS),*]);

            fn describe(to: &mut Describe) {
                const { assert_takes_bytes(&[$(size_of::<Archived<$parameter>>()),*]) };
                to.generic(stringify!($type), &[$($parameter::describe),*]);
            }
        }

        impl<$($parameter: Message,)* $($hasher: BuildHasher + Default + 'static)?> Message
            for $type<$($parameter,)* $($hasher)?>
        $(where $key: $bound)?
        {
        }

        impl<$($parameter: Declared,)* $($hasher)?> Declared for $type<$($parameter,)* $($hasher)?> {}
    )* };
}

/// A key of a hash map, or an element of a hash set.
pub trait HashedKey: Message<Archived: Hash + Eq> + Hash + Eq {}

impl<T: Message<Archived: Hash + Eq> + Hash + Eq> HashedKey for T {}

/// A [`HashedKey`], asked for in one piece: rustc would say of the parts of that what each of them lacks.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key of a hash map, or an element of a hash set",
    label = "not a message, or not `Hash` and `Eq`, or its archive is not",
    note = "on a message, write `#[derive(PartialEq, Eq, Hash)]` and `#[rkyv(derive(PartialEq, Eq, Hash))]`; if it is generic, impls for its archive instead of the latter"
)]
pub trait IsHashedKey {}

#[diagnostic::do_not_recommend]
impl<T: HashedKey> IsHashedKey for T {}

/// A key of an ordered map, or an element of an ordered set.
pub trait OrderedKey: Message<Archived: Ord> + Ord {}

impl<T: Message<Archived: Ord> + Ord> OrderedKey for T {}

/// An [`OrderedKey`], asked for in one piece.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key of an ordered map, or an element of an ordered set",
    label = "not a message, or not `Ord`, or its archive is not",
    note = "on a message, write `#[derive(PartialEq, Eq, PartialOrd, Ord)]` and `#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord))]`; if it is generic, impls for its archive instead of the latter"
)]
pub trait IsOrderedKey {}

#[diagnostic::do_not_recommend]
impl<T: OrderedKey> IsOrderedKey for T {}

/// What a hash map or a hash set may be given to hash with.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the hasher of a map or a set that is sent",
    label = "not `BuildHasher`, or not `Default`: the other process makes its own"
)]
pub trait IsHasher {}

#[diagnostic::do_not_recommend]
impl<T: BuildHasher + Default + 'static> IsHasher for T {}

collections! {
    Vec<T>; VecDeque<T>; BTreeSet<T> [T: OrderedKey]; BTreeMap<K, V> [K: OrderedKey];
    HashSet<T> [T: HashedKey] (S); HashMap<K, V> [K: HashedKey] (S);
}

impl Schema for str {
    fn describe(to: &mut Describe) {
        to.primitive("str");
    }
}

impl<T: Message> Schema for [T] {
    const RECURSIVE: bool = T::RECURSIVE;
    const EMPTY_ELEMENTS: bool = size_of::<Archived<T>>() == 0 || T::EMPTY_ELEMENTS;

    fn describe(to: &mut Describe) {
        const { assert_takes_bytes(&[size_of::<Archived<T>>()]) };
        to.text.push('[');
        T::describe(to);
        to.text.push(']');
    }
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    const RECURSIVE: bool = T::RECURSIVE;
    const EMPTY_ELEMENTS: bool = T::EMPTY_ELEMENTS;

    fn describe(to: &mut Describe) {
        to.text.push('[');
        T::describe(to);
        let _ = write!(to.text, ";{N}]");
    }
}

impl<T: Message, const N: usize> Message for [T; N] {}
impl<T: Declared, const N: usize> Declared for [T; N] {}

impl<T: Schema + ?Sized> Schema for Box<T> {
    const RECURSIVE: bool = T::RECURSIVE;
    const EMPTY_ELEMENTS: bool = T::EMPTY_ELEMENTS;

    fn describe(to: &mut Describe) {
        to.generic("Box", &[T::describe]);
    }
}

impl<T: Message> Message for Box<T> {}
impl<T: Message> Message for Box<[T]> {}
impl Message for Box<str> {}
impl<T: Declared> Declared for Box<T> {}
impl<T: Declared> Declared for Box<[T]> {}
impl Declared for Box<str> {}

impl Schema for () {
    fn describe(to: &mut Describe) {
        to.primitive("()");
    }
}

impl Message for () {}
impl Declared for () {}

macro_rules! tuples {
    ($($first:ident $($rest:ident)*)?) => { $(
        impl<$first: Schema, $($rest: Schema),*> Schema for ($first, $($rest,)*) {
            const RECURSIVE: bool = Describe::any(&[$first::RECURSIVE, $($rest::RECURSIVE),*]);
            const EMPTY_ELEMENTS: bool = Describe::any(&[$first::EMPTY_ELEMENTS, $($rest::EMPTY_ELEMENTS),*]);

            fn describe(to: &mut Describe) {
                to.list(|to| {
                    to.element::<$first>();
                    $(to.element::<$rest>();)*
                });
            }
        }

        impl<$first: Message, $($rest: Message),*> Message for ($first, $($rest,)*) {}
        impl<$first: Declared, $($rest: Declared),*> Declared for ($first, $($rest,)*) {}

        tuples! { $($rest)* }
    )? };
}

tuples! { T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 }

/// Refuses elements whose archived parts have these sizes, if all are zero.
const fn assert_takes_bytes(sizes: &[usize]) {
    let mut rest = sizes;
    while let [size, tail @ ..] = rest {
        if *size != 0 {
            return;
        }
        rest = tail;
    }
    panic!("shmrpc: elements of a collection must not be zero-sized: send their number instead");
}

#[cfg(test)]
mod tests;

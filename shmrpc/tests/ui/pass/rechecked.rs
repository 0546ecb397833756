//! Every part of a message is checked after rkyv's validation.

#![deny(missing_docs, warnings)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use shmrpc::private::rkyv::{self, rancor::Error};
use shmrpc::private::{Declared, Recheck, Refusal};
use shmrpc::{Archived, Describe, Message};

/// One value of it is refused by its own check, and none by rkyv.
#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = rkyv)]
pub struct Odd(bool);

impl shmrpc::Schema for Odd {
    fn describe(to: &mut Describe) {
        to.structure::<Self>("Odd", |to| to.element::<bool>());
    }
}

impl Recheck for ArchivedOdd {
    const NEEDED: bool = true;

    fn recheck(&self) -> Result<(), Refusal> {
        use rkyv::rancor::Source;
        if self.0 { Err(Refusal::new(std::fmt::Error)) } else { Ok(()) }
    }
}

impl Message for Odd {}
impl Declared for Odd {}

/// Fields with names.
#[derive(Debug)]
#[shmrpc::message]
pub struct Named {
    first: Odd,
    plain: u8,
    #[cfg(all())]
    last: Option<Odd>,
    #[cfg(any())]
    absent: Absent,
}

/// Fields with numbers, of which not all are there.
#[derive(Debug)]
#[shmrpc::message]
pub struct Numbered(#[cfg(any())] Absent, u8, Odd, Vec<Odd>);

/// A field of a parameter's type.
#[derive(Debug)]
#[shmrpc::message]
pub struct Generic<K, V> {
    plain: V,
    map: HashMap<K, V>,
}

/// Every kind of variant.
#[derive(Debug)]
#[shmrpc::message]
pub enum Shape {
    /// Nothing.
    Unit,
    /// Fields with numbers.
    Tuple(#[cfg(any())] Absent, u8, Odd),
    /// Fields with names.
    Struct {
        /// Not it.
        plain: u8,
        /// It.
        odd: Odd,
    },
}

/// Itself.
#[derive(Debug)]
#[shmrpc::message(recursive)]
pub enum Tree {
    /// The end.
    Leaf(Odd),
    /// More.
    Node(BTreeMap<u8, Tree>),
}

/// No tables anywhere.
#[derive(Debug)]
#[shmrpc::message]
pub struct Plain {
    shapes: Vec<Option<String>>,
}

macro_rules! is_found {
    ($($type:ty: |$odd:ident| $value:expr;)*) => {$(
        for $odd in [false, true] {
            let value: $type = $value;
            let bytes = rkyv::to_bytes::<Error>(&value).unwrap();
            let archived = rkyv::access::<Archived<$type>, Error>(&bytes).unwrap();
            assert_eq!(archived.recheck().is_err(), $odd, "{value:?}");
            assert!(<Archived<$type> as Recheck>::NEEDED);
        }
    )*};
}

fn main() {
    is_found! {
        Named: |odd| Named { first: Odd(odd), plain: 1, last: None };
        Named: |odd| Named { first: Odd(false), plain: 1, last: Some(Odd(odd)) };
        Numbered: |odd| Numbered(1, Odd(odd), vec![]);
        Numbered: |odd| Numbered(1, Odd(false), vec![Odd(odd)]);
        Generic<String, Odd>: |odd| Generic { plain: Odd(odd), map: HashMap::new() };
        Generic<u8, Odd>: |odd| Generic { plain: Odd(false), map: HashMap::from([(1, Odd(odd))]) };
        Shape: |odd| Shape::Tuple(1, Odd(odd));
        Shape: |odd| Shape::Struct { plain: 1, odd: Odd(odd) };
        Shape: |odd| if odd { Shape::Tuple(1, Odd(true)) } else { Shape::Unit };
        Tree: |odd| Tree::Node(BTreeMap::from([(1, Tree::Node(BTreeMap::from([(2, Tree::Leaf(Odd(odd)))])))]));
    }
    const { assert!(!<Archived<Plain> as Recheck>::NEEDED) };
}

//! Messages with parameters.

#![deny(missing_docs, warnings)]
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use shmrpc::Message;
use shmrpc::prelude::*;

/// One page of many.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Page<T, const N: usize = 4>
where
    T: Clone,
{
    /// Some.
    pub items: Vec<T>,
    /// Others.
    pub pad: [u8; N],
}

/// One of two.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum Either<L, R = L> {
    /// This.
    Left(L),
    /// That.
    Right {
        /// The value.
        value: R,
    },
}

/// One of two, without names.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum OneOf<A, B> {
    /// This.
    First(A),
    /// That.
    Second(B, u8),
}

/// A pair.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Pair<A, B>(A, pub Option<B>);

/// A key, also where it arrived. rkyv's derives would know nothing of its parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[shmrpc::message]
#[rkyv(compare(PartialEq))]
pub struct Key<T> {
    /// What is looked for.
    pub value: T,
    /// Where.
    pub place: u32,
}

impl<T: Message> PartialEq for ArchivedKey<T>
where
    Archived<T>: PartialEq,
{
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.place == other.place
    }
}

impl<T: Message> Eq for ArchivedKey<T> where Archived<T>: Eq {}

impl<T: Message> Hash for ArchivedKey<T>
where
    Archived<T>: Hash,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
        self.place.hash(state);
    }
}

/// Uses them.
#[shmrpc::service]
pub trait Pages {
    /// Owned.
    fn page(&self, number: u32) -> Page<String, 2>;
    /// By keys.
    fn find(&self, keys: &Archived<HashSet<Key<String>>>) -> u32;
    /// Nested, and read in place.
    fn put(&self, page: &Archived<Page<Pair<u8, String>>>) -> Result<Either<u8>, Either<String, ()>>;
}

fn main() {
    let texts: Vec<_> = PagesClient::schema().methods.into_iter().map(|method| method.text).collect();
    assert_eq!(texts[0], "page(u32)->struct Page{items:Vec<String>,pad:[u8;2]}");
    assert_eq!(
        texts[2],
        "put(struct Page{items:Vec<struct Pair(u8,Option<String>)>,pad:[u8;4]})\
         ->Result<enum Either{Left(u8),Right{value:u8}},enum Either{Left(String),Right{value:()}}>"
    );
    assert!(!<Page<Either<u8>> as shmrpc::Schema>::RECURSIVE);
}

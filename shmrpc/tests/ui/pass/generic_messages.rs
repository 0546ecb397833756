//! Messages with parameters.

#![deny(missing_docs, warnings)]
#![forbid(unsafe_code)]

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

/// Uses them.
#[shmrpc::service]
pub trait Pages {
    /// Owned.
    fn page(&self, number: u32) -> Page<String, 2>;
    /// Nested, and read in place.
    fn put(&self, page: &Archived<Page<Pair<u8, String>>>) -> Result<Either<u8>, Either<String, ()>>;
}

fn main() {
    let texts: Vec<_> = PagesClient::schema().methods.into_iter().map(|method| method.text).collect();
    assert_eq!(texts[0], "page(u32)->struct Page{items:Vec<String>,pad:[u8;2]}");
    assert_eq!(
        texts[1],
        "put(struct Page{items:Vec<struct Pair(u8,Option<String>)>,pad:[u8;4]})\
         ->Result<enum Either{Left(u8),Right{value:u8}},enum Either{Left(String),Right{value:()}}>"
    );
    assert!(!<Page<Either<u8>> as shmrpc::Schema>::RECURSIVE);
}

//! Fields that are there sometimes.

#![deny(missing_docs, warnings, unused_lifetimes)]
#![forbid(unsafe_code)]

use shmrpc::prelude::*;

/// A struct.
#[shmrpc::message]
pub struct Plain {
    #[cfg(all())]
    there: Vec<String>,
    #[cfg(any())]
    absent: NoSuchType,
    #[cfg(all())]
    #[cfg(not(any()))]
    twice: u8,
}

/// An enum.
#[shmrpc::message]
pub enum Choice<T> {
    /// A variant.
    #[cfg(all())]
    There {
        /// A field.
        #[cfg(all())]
        there: Vec<T>,
        /// Another.
        #[cfg(any())]
        absent: NoSuchType<T>,
    },
    /// Another.
    #[cfg(any())]
    Absent(NoSuchType),
}

/// A tree.
#[shmrpc::message(recursive)]
pub struct Tree<K, T, const N: usize> {
    #[cfg(all())]
    key: [K; N],
    #[cfg(any())]
    absent: Vec<NoSuchType<T, N>>,
    #[cfg(all())]
    pair: Pair<T>,
    #[cfg(all())]
    children: Option<Box<Tree<K, T, N>>>,
}

/// A pair.
#[shmrpc::message]
pub struct Pair<T>(T, T);

/// Uses them.
#[shmrpc::service]
pub trait Fields {
    /// One way.
    fn put(&self, plain: Plain) -> Choice<u8>;
    /// Another.
    fn tree(&self, tree: &Archived<Tree<u8, String, 2>>) -> Choice<String>;
}

fn main() {
    let texts: Vec<_> = FieldsClient::schema().methods.into_iter().map(|method| method.text).collect();
    assert_eq!(texts[0], "put(struct Plain{there:Vec<String>,twice:u8})->enum Choice{There{there:Vec<u8>}}");
}

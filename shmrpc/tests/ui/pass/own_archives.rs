//! A message is an rkyv type like any other: whoever likes encodes it with any of rkyv's serializers.

#![deny(missing_docs, warnings)]

use std::collections::HashMap;

use shmrpc::private::rkyv::{self, rancor::Error};

/// A struct.
#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub struct Entry<T> {
    key: String,
    values: Vec<T>,
}

/// An enum of messages.
#[derive(Debug, PartialEq)]
#[shmrpc::message]
pub enum Change {
    /// Here it is.
    Put {
        /// What.
        entry: Entry<u64>,
    },
    /// No more.
    Gone(HashMap<String, Entry<u8>>),
}

/// Itself.
#[derive(Debug, PartialEq)]
#[shmrpc::message(recursive)]
pub struct Tree {
    change: Change,
    children: Vec<Tree>,
}

fn main() {
    let entry = Entry { key: "a".to_owned(), values: vec![7] };
    let gone = Change::Gone(HashMap::from([("b".to_owned(), Entry { key: "b".to_owned(), values: vec![1] })]));
    let leaf = Tree { change: gone, children: vec![] };
    let tree = Tree { change: Change::Put { entry }, children: vec![leaf] };
    let bytes = rkyv::to_bytes::<Error>(&tree).unwrap();
    assert_eq!(rkyv::access::<ArchivedTree, Error>(&bytes).unwrap().children.len(), 1);
    assert_eq!(rkyv::from_bytes::<Tree, Error>(&bytes).unwrap(), tree);
}

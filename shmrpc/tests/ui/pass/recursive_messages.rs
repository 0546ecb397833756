//! Messages that contain themselves.

#![deny(missing_docs, warnings)]
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use shmrpc::prelude::*;

/// A tree.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct Node {
    /// Here.
    pub value: u32,
    /// Below.
    pub children: Vec<Node>,
    left: Option<Box<Self>>,
    named: HashMap<String, Node>,
}

/// Any value.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub enum Json {
    /// Nothing.
    Null,
    /// A number.
    Number(f64),
    /// A list.
    Array(Vec<Json>),
    /// A map.
    Object {
        /// Its entries.
        entries: BTreeMap<String, Json>,
    },
}

/// A list of anything.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct List<T> {
    head: T,
    tail: Option<Box<List<T>>>,
}

/// A tree of anything.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub enum Tree<K, V, const N: usize>
where
    K: Clone,
{
    /// The end.
    Leaf {
        /// Its key.
        key: [K; N],
        /// Its value.
        value: V,
    },
    /// More.
    Node(Vec<Tree<K, V, N>>),
}

/// Contains [`B`].
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct A {
    b: Vec<B>,
}

/// Contains [`A`].
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct B {
    a: Option<Box<A>>,
    holder: Option<Box<Holder>>,
}

/// On the way from [`B`] to [`A`].
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Holder(Vec<(u8, A)>);

/// Of anything, trees too.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Many<T> {
    all: Vec<(u8, T)>,
    holder: Option<Holder>,
}

/// Of anything, and never of itself.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum Few<T> {
    /// Some.
    Some(Vec<T>),
}

/// Uses them.
#[shmrpc::service]
pub trait Trees {
    /// Both ways.
    fn node(&self, node: Node) -> Node;
    /// Read in place.
    fn json(&self, json: &Archived<Json>) -> Result<Json, List<u8>>;
    /// Generic.
    fn tree(&self, tree: Tree<String, Json, 2>) -> List<Holder>;
}

fn main() {
    let texts: Vec<_> = TreesClient::schema().methods.into_iter().map(|method| method.text).collect();
    let node = "struct Node{value:u32,children:Vec<Node#1>,left:Option<Box<Node#1>>,named:HashMap<String,Node#1>}";
    assert_eq!(texts[0], format!("node({node})->Node#1"));
    fn recursive<T: shmrpc::Schema>() -> bool {
        T::RECURSIVE
    }
    assert!(recursive::<Node>() && recursive::<Holder>() && recursive::<Option<(u8, Holder)>>());
    assert!(recursive::<HashMap<u8, [Box<Holder>; 1]>>());
    assert!(!recursive::<HashMap<u8, [Box<u8>; 1]>>());
    assert!(recursive::<Many<u8>>() && recursive::<Few<Many<u8>>>() && recursive::<Few<Node>>());
    assert!(!recursive::<Few<Few<u8>>>());
}

//! Elements that take no bytes, of collections that get them as an argument.

use shmrpc::prelude::*;

#[shmrpc::message]
pub struct Marker;

#[shmrpc::message]
pub struct Page<T> {
    items: Vec<T>,
}

#[shmrpc::message(recursive)]
pub enum Tree<T> {
    Leaf(Option<Box<[T]>>),
    Node(Vec<Tree<T>>),
}

#[shmrpc::message]
pub struct Holder<T> {
    page: Page<(T, u8)>,
    other: Page<T>,
}

#[shmrpc::message]
pub struct Uses {
    page: Page<Marker>,
    fine: Page<u8>,
}

#[shmrpc::service]
pub trait Pages {
    fn get(&self, uses: Uses) -> Page<()>;
    fn tree(&self, tree: &Archived<Tree<Marker>>) -> Option<Holder<Marker>>;
    fn fine(&self, page: Page<u8>) -> Tree<(Marker, u8)>;
}

fn main() {}

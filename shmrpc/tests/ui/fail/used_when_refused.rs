use std::collections::HashMap;

use shmrpc::prelude::*;

#[shmrpc::message]
pub struct Size {
    bytes: usize,
}

#[shmrpc::message]
pub enum Borrowed<'a, T: Clone, const N: usize = 2>
where
    T: PartialEq,
{
    Some { text: &'a str, items: [T; N] },
    None,
}

#[shmrpc::message(recursive = true)]
pub struct Node {
    children: Vec<Node>,
}

#[shmrpc::message]
pub struct Uses {
    size: Size,
    all: Vec<Size>,
    named: HashMap<String, Size>,
    node: Option<Box<Node>>,
}

#[shmrpc::message(recursive)]
pub struct Tree {
    node: Node,
    children: Vec<Tree>,
}

#[shmrpc::service]
pub trait Sizes {
    fn put(&self, size: Size, all: Vec<Size>) -> Result<Uses, Node>;
    fn get(&self, tree: &Archived<Tree>) -> Size;
}

pub struct Server;

impl Sizes for Server {
    fn put(&self, _: Size, _: Vec<Size>) -> Result<Uses, Node> {
        todo!()
    }
    fn get(&self, _: &Archived<Tree>) -> Size {
        todo!()
    }
}

fn main() {
    let _ = SizesServer::new(Server);
    let _ = SizesClient::connect("shm:sizes");
}

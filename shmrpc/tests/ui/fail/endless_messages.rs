#[shmrpc::message(recursive)]
pub struct Direct {
    next: Direct,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct Parts {
    maybe: Option<Self>,
    pair: (u8, Parts),
    array: [Parts; 2],
    fine: Vec<Parts>,
    fine_too: Option<Box<Parts>>,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub enum Tree {
    Leaf(u32),
    Both(Tree, Option<[Tree; 1]>),
    Named { left: std::option::Option<Box<Tree>>, right: Result<(Tree, u8), String> },
}

#[shmrpc::message]
pub struct Unsaid<T> {
    head: T,
    tail: Option<Unsaid<T>>,
}

#[shmrpc::message]
pub struct Linked {
    parent: &'static Linked,
    next: Option<&'static Self>,
    shared: Option<std::rc::Rc<Linked>>,
}

pub fn depth(tree: &Tree) -> u32 {
    match tree {
        Tree::Leaf(depth) => *depth,
        Tree::Both(left, _) => depth(left),
        Tree::Named { left, .. } => left.as_ref().map_or(0, |left| depth(left)),
    }
}

fn main() {}

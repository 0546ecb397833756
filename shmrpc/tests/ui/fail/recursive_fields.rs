use std::collections::HashMap;

pub struct Version(u64);

#[shmrpc::message(recursive)]
pub struct Tree {
    version: Version,
    children: Vec<Tree>,
}

#[shmrpc::message(recursive)]
pub enum Json {
    Null,
    Array(Vec<Json>),
    Object { entries: HashMap<String, (Version, Json)> },
}

#[shmrpc::message(recursive)]
pub struct List<T> {
    head: T,
    version: Option<Box<Version>>,
    both: Vec<(T, Version)>,
    tail: Option<Box<List<T>>>,
}

fn main() {}

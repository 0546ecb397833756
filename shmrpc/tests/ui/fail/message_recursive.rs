use std::collections::HashMap;

#[shmrpc::message]
pub struct Node {
    value: u32,
    children: Vec<Node>,
}

#[shmrpc::message]
pub enum Json {
    Null,
    Array(Vec<Self>),
    Object(HashMap<String, Json>),
}

#[shmrpc::message]
pub struct List<T> {
    head: T,
    tail: Option<Box<List<T>>>,
}

fn main() {}

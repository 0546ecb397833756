pub struct Version(u64);

#[shmrpc::message]
pub struct Page<T> {
    items: Vec<T>,
    version: Version,
}

#[shmrpc::message]
pub struct Pairs<T> {
    pairs: Vec<(T, Version)>,
}

pub struct Other<T>(T);

#[shmrpc::message]
pub enum Others<T: Clone> {
    Some(Option<Other<T>>),
    None { all: Vec<T> },
}

fn main() {}

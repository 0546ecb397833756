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

fn main() {}

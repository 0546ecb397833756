//! No shmrpc at this path.

#[derive(Debug)]
#[shmrpc::message(crate = ::nowhere)]
pub struct Entry {
    key: String,
}

#[shmrpc::message(crate = ::nowhere)]
pub enum Choice {
    One { value: u64 },
}

#[shmrpc::message(crate = std)]
pub struct Plain(u64);

#[shmrpc::service(crate = ::nowhere)]
pub trait Kv {
    fn get(&self, key: &str) -> u64;
}

fn main() {}

//! Maps with hashers that the other process cannot make.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher};

pub struct NoHasher;

pub struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher::new()
    }
}

#[shmrpc::message]
pub struct Held {
    map: HashMap<u8, String, NoHasher>,
    set: HashSet<u8, Seeded>,
}

#[shmrpc::service]
pub trait Maps {
    fn put(&self, map: HashMap<u8, String, NoHasher>) -> HashSet<u8, Seeded>;
}

fn main() {}

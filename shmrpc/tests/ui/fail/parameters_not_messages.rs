use std::collections::{BTreeSet, HashMap};

pub struct Entry {
    pub key: String,
}

#[shmrpc::message]
pub struct Key(u64);

#[shmrpc::service]
pub trait Kv {
    fn put(&self, entry: Entry, all: Vec<Entry>) -> Result<Vec<Entry>, HashMap<String, Entry>>;
    fn get(&self, keys: BTreeSet<Key>) -> u64;
}

fn main() {}

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

#[derive(PartialEq, Eq, Hash)]
#[shmrpc::message]
pub struct Key(u64);

#[shmrpc::message]
pub struct Maps {
    hashed: HashMap<f32, String>,
    ordered: BTreeMap<Key, String>,
    set: HashSet<Key>,
    fine: HashMap<String, u8>,
}

#[shmrpc::service]
pub trait Kv {
    fn get(&self, maps: Maps, keys: BTreeSet<f64>) -> HashMap<Key, u64>;
}

fn main() {}

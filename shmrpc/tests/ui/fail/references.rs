use shmrpc::prelude::*;

#[shmrpc::message]
pub struct Entry {
    key: String,
}

#[shmrpc::service]
pub trait References {
    fn message(&self, entry: &Entry) -> u64;
    fn number(&self, value: &u64) -> u64;
    fn string(&self, key: &String) -> u64;
    fn bytes(&self, value: &Vec<u8>) -> u64;
    fn entries(&self, entries: &[Entry]) -> u64;
    fn wide(&self, numbers: &[u128]) -> u64;
    fn tuple(&self, pair: &(u32, String)) -> u64;
    fn array(&self, hash: &[u8; 32]) -> u64;
    fn mutable(&self, value: &mut [u8]) -> u64;
    fn twice(&self, key: &&str) -> u64;
    fn forever(&self, key: &'static str) -> u64;
    fn inside(&self, keys: Vec<&str>, values: Option<&[u8]>) -> u64;
    fn dynamic(&self, entry: &dyn Send) -> u64;
    fn texts(&self, keys: &[&str], lists: &[&[u8]]) -> u64;
    fn map(&self, map: &std::collections::HashMap<String, Option<u8>>, maybe: &Option<String>) -> u64;
    fn path(&self, path: &std::path::Path) -> u64;
    fn hidden(&self, key: &impl AsRef<str>) -> u64;
    fn fine(&self, entry: &Archived<Entry>, key: &str, value: &[u8]) -> u64;
}

fn main() {}

use shmrpc::prelude::*;

pub struct Streaming<T>(T);

#[shmrpc::service]
pub trait NotYet {
    #[concurrent]
    fn compact(&self) -> u64;
    async fn watch(&self, key: &str) -> u64;
    fn scan(&self, prefix: &str) -> Streaming<u64>;
    fn load(&self, entries: Streaming<u64>) -> u64;
}

fn main() {}

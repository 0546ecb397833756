#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
pub enum KvError {
    #[error("no such key: {0}")]
    NotFound(String),
}

#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> Result<Entry, KvError>;
    fn put(&self, key: &str, value: &[u8]) -> u64; // borrowed: read where it arrived
    #[oneway]
    fn touch(&self, key: &str); // no reply, no wait
}

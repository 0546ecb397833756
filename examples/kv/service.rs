//! The service: the one place that server and clients share.

use shmrpc::prelude::*;

/// A value under its key.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Counts the changes of this key, from 1.
    pub version: u64,
}

/// What can be wrong with a question.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
pub enum KvError {
    /// Nothing is stored under this key.
    #[error("no such key: {0}")]
    NotFound(String),
    /// Somebody else changed the value meanwhile.
    #[error("version is {found}, expected {expected}")]
    Conflict {
        /// The version that the caller expected.
        expected: u64,
        /// The version that is there.
        found: u64,
    },
}

/// A key-value store whose values have versions.
#[shmrpc::service]
pub trait Kv {
    /// The value of a key.
    fn get(&self, key: &str) -> Result<Entry, KvError>;
    /// Sets a value; returns its version.
    fn put(&self, key: &str, value: &[u8]) -> u64;
    /// Sets a value and its version, unless a newer one is there; returns the version that is there then.
    fn put_entry(&self, entry: &Archived<Entry>) -> u64;
    /// Sets a value if its version is still `expected` (0: if there is none); returns the new version. The entry's
    /// own version does not matter.
    fn compare_and_put(&self, ctx: &Context, entry: Entry, expected: u64) -> Result<u64, KvError>;
    /// Gives a value the next version. Nobody waits for it.
    #[oneway]
    fn touch(&self, key: &str);
}

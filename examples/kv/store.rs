//! The server's side: the service over a hash map.

use std::collections::HashMap;

use parking_lot::Mutex;
use shmrpc::prelude::*;

use kv_service::{Entry, Kv, KvError};

/// The values, by key.
#[derive(Default)]
pub(crate) struct Store(Mutex<HashMap<String, Entry>>);

impl Kv for Store {
    fn get(&self, key: &str) -> Result<Entry, KvError> {
        self.0.lock().get(key).cloned().ok_or_else(|| KvError::NotFound(key.to_owned()))
    }

    fn put(&self, key: &str, value: &[u8]) -> u64 {
        let mut entries = self.0.lock();
        let version = entries.get(key).map_or(0, |entry| entry.version) + 1;
        entries.insert(key.to_owned(), Entry { key: key.to_owned(), value: value.to_owned(), version });
        version
    }

    fn put_entry(&self, entry: &Archived<Entry>) -> u64 {
        let mut entries = self.0.lock();
        let found = entries.get(entry.key.as_str()).map_or(0, |entry| entry.version);
        let version = entry.version.to_native();
        if version > found {
            let (key, value) = (entry.key.to_string(), entry.value.to_vec());
            entries.insert(key.clone(), Entry { key, value, version });
        }
        version.max(found)
    }

    fn compare_and_put(&self, ctx: &Context, entry: Entry, expected: u64) -> Result<u64, KvError> {
        let mut entries = self.0.lock();
        let found = entries.get(&entry.key).map_or(0, |entry| entry.version);
        if found == 0 && expected != 0 {
            return Err(KvError::NotFound(entry.key));
        }
        if found != expected {
            return Err(KvError::Conflict { expected, found });
        }
        let version = found + 1;
        eprintln!("{} set {} to version {version}", ctx.peer(), entry.key);
        entries.insert(entry.key.clone(), Entry { version, ..entry });
        Ok(version)
    }

    fn touch(&self, key: &str) {
        if let Some(entry) = self.0.lock().get_mut(key) {
            entry.version += 1;
        }
    }
}

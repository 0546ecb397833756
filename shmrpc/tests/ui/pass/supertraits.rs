//! Supertraits are asked of the implementation. If one is a service, it has a client and a server of its own.
#![deny(missing_docs, unsafe_code, unused)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use shmrpc::prelude::*;

/// Reads.
#[shmrpc::service]
pub trait Reader {
    /// What was put last.
    fn get(&self, key: &str) -> Option<u64>;
}

/// Reads and writes.
#[shmrpc::service]
pub trait Store: Reader + Debug + Send + Sync + 'static {
    /// Puts.
    fn put(&self, key: &str, value: u64);
    /// Uses what the supertraits promise.
    fn show(&self, key: &str) -> String {
        format!("{:?} in {self:?}", self.get(key))
    }
}

#[derive(Debug, Default)]
struct Map(Mutex<BTreeMap<String, u64>>);

impl Reader for Map {
    fn get(&self, key: &str) -> Option<u64> {
        self.0.lock().unwrap().get(key).copied()
    }
}

impl Store for Map {
    fn put(&self, key: &str, value: u64) {
        self.0.lock().unwrap().insert(key.to_owned(), value);
    }
}

/// Would not be seen if the client had a method of this name.
trait NotInherited {
    fn get(&self) -> &'static str {
        "not inherited"
    }
}

impl NotInherited for StoreClient {}

fn main() {
    let map = Arc::new(Map::default());
    let server = Server::builder()
        .service(ReaderServer::from_arc(Arc::clone(&map)))
        .service(StoreServer::from_arc(map))
        .listen("inproc:supertraits")
        .start()
        .unwrap();
    let (reader, store) = (ReaderClient::connect("inproc:supertraits"), StoreClient::connect("inproc:supertraits"));
    let (reader, store) = (reader.unwrap(), store.unwrap());
    store.put("a", 1).unwrap();
    assert_eq!(reader.get("a").unwrap(), Some(1));
    assert_eq!(store.show("a").unwrap(), "Some(1) in Map(Mutex { data: {\"a\": 1}, poisoned: false, .. })");
    assert_eq!(store.get(), "not inherited");
    drop(server);
}

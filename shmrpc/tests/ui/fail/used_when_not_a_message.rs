//! A field that is no message is reported where it stands, and not once more where its message is used.

use shmrpc::prelude::*;

pub struct Version(u64);

#[shmrpc::message]
pub struct Entry {
    key: String,
    version: Version,
}

#[shmrpc::message]
pub struct Page {
    entries: Vec<Entry>,
}

#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> Entry;
    fn put(&self, entry: &Archived<Entry>, page: Page) -> Result<Page, Entry>;
}

struct MyKv;

impl Kv for MyKv {
    fn get(&self, _key: &str) -> Entry {
        todo!()
    }
    fn put(&self, _entry: &Archived<Entry>, _page: Page) -> Result<Page, Entry> {
        todo!()
    }
}

fn main() {
    let _ = Server::builder().service(KvServer::new(MyKv));
    let kv = KvClient::connect("shm:kv").unwrap();
    let _ = kv.get("a");
    let _ = kv.view().get("a");
}

//! The example of the docs, in a crate that is as strict as can be.

#![deny(missing_docs, warnings)]
#![forbid(unsafe_code)]

use std::time::Duration;

use shmrpc::prelude::*;

/// What is stored.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    version: u64,
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
pub enum KvError {
    /// It is not there.
    #[error("no such key: {0}")]
    NotFound(String),
    /// Somebody else was faster.
    #[error("version is {found}, expected {expected}")]
    Conflict {
        /// What the caller expected.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// It does not work now.
    #[error("not now")]
    Busy,
}

/// A key-value store.
#[shmrpc::service]
pub trait Kv {
    /// Reads an entry.
    fn get(&self, key: &str) -> Result<Entry, KvError>;
    /// Writes an entry, and returns its version.
    fn put(&self, key: &str, value: &[u8]) -> u64;
    /// Writes an entry, and returns its version.
    fn put_entry(&self, entry: &Archived<Entry>) -> u64;
    /// Writes an entry if it has this version.
    fn compare_and_put(&self, ctx: &Context, entry: Entry, expected: u64) -> Result<u64, KvError>;
    /// Adds numbers up.
    fn sum(&self, samples: &[f32]) -> f32;
    /// Keeps an entry.
    #[oneway]
    fn touch(&self, key: &str);
    /// Forgets everything.
    fn clear(&self);
    /// Has a default.
    fn version(&self) -> u32 {
        7
    }
}

struct MyKv;

impl Kv for MyKv {
    fn get(&self, key: &str) -> Result<Entry, KvError> {
        Err(KvError::NotFound(key.to_owned()))
    }
    fn put(&self, key: &str, value: &[u8]) -> u64 {
        (key.len() + value.len()) as u64
    }
    fn put_entry(&self, entry: &Archived<Entry>) -> u64 {
        entry.version.into()
    }
    fn compare_and_put(&self, _ctx: &Context, entry: Entry, expected: u64) -> Result<u64, KvError> {
        Err(KvError::Conflict { expected, found: entry.version })
    }
    fn sum(&self, samples: &[f32]) -> f32 {
        samples.iter().sum()
    }
    fn touch(&self, _key: &str) {}
    fn clear(&self) {}
}

/// Never runs: it only has to compile.
pub fn calls() -> Result<(), Box<dyn std::error::Error>> {
    let kv = KvClient::connect("shm:kv")?;
    let version: u64 = kv.put("a", b"1")?;
    let entry: Entry = kv.get("a")?;
    let view = kv.view().get("a")?;
    assert_eq!(view.key, entry.key);
    match kv.get("b") {
        Err(CallError::Service(KvError::NotFound(_))) => {}
        _ => panic!(),
    }
    let _: u64 = kv.put_entry(&entry)?;
    let _: u64 = kv.compare_and_put(entry, version)?;
    let _: f32 = kv.sum(&[1.0, 2.0])?;
    let () = kv.touch("a")?;
    let () = kv.clear()?;
    kv.with_timeout(Duration::from_millis(50)).get("a")?;
    let _: KvClient = KvClient::builder().connect("shm:kv,uds:kv")?;
    fn shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>(_: &T) {}
    shared(&kv);
    shared(&kv.view());
    Ok(())
}

/// The archived error is found under its usual name.
pub fn archived(error: &ArchivedKvError) -> u64 {
    match error {
        ArchivedKvError::NotFound(key) => key.len() as u64,
        ArchivedKvError::Conflict { expected, found } => expected.to_native() + found.to_native(),
        ArchivedKvError::Busy => 0,
    }
}

fn main() {
    let server = KvServer::new(MyKv);
    assert!(format!("{server:?}").contains("KvServer"));
    let texts: Vec<_> = <KvClient as Client>::schema().methods.into_iter().map(|method| method.text).collect();
    let error = "enum KvError{NotFound(String),Conflict{expected:u64,found:u64},Busy}";
    let entry = "struct Entry{key:String,value:Vec<u8>,version:u64}";
    assert_eq!(
        texts,
        [
            format!("get(String)->Result<{entry},{error}>"),
            "put(String,Vec<u8>)->u64".to_owned(),
            format!("put_entry({entry})->u64"),
            format!("compare_and_put({entry},u64)->Result<u64,{error}>"),
            "sum(Vec<f32>)->f32".to_owned(),
            "oneway touch(String)".to_owned(),
            "clear()->()".to_owned(),
            "version()->u32".to_owned(),
        ]
    );
    let _ = (calls, archived);
}

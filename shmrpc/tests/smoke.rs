//! smoke
#![allow(missing_docs, reason = "tests")]
use shmrpc::prelude::*;

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub version: u64,
}

#[shmrpc::service]
pub trait Kv {
    fn add(&self, a: u32, b: u32) -> u32;
    fn get(&self, key: &str) -> Result<Entry, String>;
    fn sum(&self, samples: &[f32]) -> f32;
    #[oneway]
    fn touch(&self, key: &str);
}
struct S;
impl Kv for S {
    fn add(&self, a: u32, b: u32) -> u32 {
        a + b
    }
    fn get(&self, key: &str) -> Result<Entry, String> {
        if key.is_empty() {
            return Err("empty".into());
        }
        Ok(Entry { key: key.into(), value: vec![7; 100000], version: 3 })
    }
    fn sum(&self, samples: &[f32]) -> f32 {
        samples.iter().sum()
    }
    fn touch(&self, key: &str) {
        println!("touched {key}");
    }
}

#[test]
fn smoke() {
    let dir = std::env::temp_dir().join(format!("shmrpc-smoke-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let ep = format!("shm:{}/kv", dir.display());
    let server = Server::builder().service(KvServer::new(S)).listen(&ep).start().unwrap();
    let kv = KvClient::connect(&ep).unwrap();
    println!("{}", Client::transport(&kv));
    assert_eq!(kv.add(1, 2).unwrap(), 3);
    kv.touch("x").unwrap();
    assert_eq!(kv.get("").unwrap_err(), CallError::Service("empty".into()));
    assert_eq!(kv.get("k").unwrap().value.len(), 100000);
    let v = kv.view().get("k").unwrap();
    assert_eq!(v.key, "k");
    assert!(v.is_in_place());
    assert_eq!(kv.sum(&vec![1.0; 5_000_000]).unwrap(), 5e6);
    let t = std::time::Instant::now();
    for i in 0..1000000 {
        kv.add(i, 1).unwrap();
    }
    println!("{:?} per call", t.elapsed() / 1000000);
    drop(server);
    println!("{:?}", kv.add(1, 2));
    println!("{:?}", v.value.len());
    std::fs::remove_dir_all(&dir).unwrap();
}

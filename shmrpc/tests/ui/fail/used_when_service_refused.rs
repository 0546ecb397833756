//! A service that is refused is refused once, and not where its client and its server are named.

use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Kv {
    fn get(&self, size: usize) -> u64;
    fn put(&self, (a, b): (u8, u8)) -> u64;
    fn text(&self) -> &str;
    fn own(&self) -> Self;
    fn all(&self) -> Vec<Self>;
    fn fine(&self, key: &str) -> Result<u64, String>;
    fn connect(&self);
}

struct MyKv;

impl Kv for MyKv {
    fn get(&self, _size: usize) -> u64 {
        todo!()
    }
    fn put(&self, _: (u8, u8)) -> u64 {
        todo!()
    }
    fn text(&self) -> &str {
        todo!()
    }
    fn own(&self) -> Self {
        todo!()
    }
    fn all(&self) -> Vec<Self> {
        todo!()
    }
    fn fine(&self, _key: &str) -> Result<u64, String> {
        todo!()
    }
    fn connect(&self) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _server = Server::builder().service(KvServer::new(MyKv)).listen("shm:kv").start()?;
    let kv = KvClient::connect("shm:kv")?;
    let sum: u64 = kv.fine("a")? + *KvClient::builder().connect("shm:kv")?.view().fine("a")? + kv.get(1)?;
    println!("{} {} {}", sum, kv.put((1, 2))?, kv.text()?);
    kv.own()?;
    let viewed: u64 = *kv.view().get(1)? + kv.get(1)?;
    println!("{viewed}");
    Ok(())
}

#[shmrpc::service]
pub struct Kv {
    key: String,
}

#[shmrpc::service]
pub fn get(_key: &str) -> u64 {
    0
}

#[shmrpc::service]
impl Kv {
    pub fn get(&self) -> u64 {
        0
    }
}

#[shmrpc::service]
pub mod kv {}

fn main() {}

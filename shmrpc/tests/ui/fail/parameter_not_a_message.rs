pub struct Entry {
    pub key: String,
}

#[shmrpc::service]
pub trait Kv {
    fn put(&self, entry: Entry) -> u64;
}

fn main() {}

pub struct Entry {
    pub key: String,
}

#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> Vec<Entry>;
}

fn main() {}

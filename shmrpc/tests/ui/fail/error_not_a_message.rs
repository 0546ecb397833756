#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> Result<u64, std::io::Error>;
}

fn main() {}

#[shmrpc::service]
pub trait Names {
    fn twice(&self, key: &str, value: u64, key: u64) -> u64;
    fn raw(&self, r#type: u64, r#type: &[u8]) -> u64;
    fn with_body(&self, key: u64, key: u64) -> u64 {
        key
    }
    fn fine(&self, key: u64) -> u64;
}

fn main() {}

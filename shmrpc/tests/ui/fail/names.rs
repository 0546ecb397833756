#[shmrpc::service]
pub trait Names {
    fn connect(&self, endpoint: &str) -> u64;
    fn builder(&self) -> u64;
    fn r#builder(&self) -> u64;
    fn get(&self) -> u64;
    fn get(&self, key: &str) -> u64;
    #[cfg(any())]
    fn sometimes(&self) -> u64;
    fn sometimes(&self) -> u64;
}

fn main() {}

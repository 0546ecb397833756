#[shmrpc::service]
pub trait Kv {
    fn get(&self) -> u64;
    #[cfg_attr(all(), cfg(any()))]
    fn put(&self, value: u64);
    #[cfg_attr(all(), doc = "A doc is no cfg.")]
    fn clear(&self);
}

#[shmrpc::message]
pub struct Entry {
    #[cfg_attr(all(), cfg(all()))]
    pub key: u64,
    #[cfg_attr(not(any()), doc = "Nor is this.")]
    pub value: u64,
}

fn main() {}

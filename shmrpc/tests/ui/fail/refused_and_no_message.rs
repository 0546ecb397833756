pub struct Entry {
    pub key: String,
}

#[shmrpc::service]
pub trait Kv {
    fn resize(&self, size: usize) -> u64;
    fn put(&self, entry: Entry) -> Vec<Entry>;
    fn all(&self) -> Vec<std::rc::Rc<u8>>;
}

fn main() {}

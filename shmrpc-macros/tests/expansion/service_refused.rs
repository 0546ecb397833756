/// A key-value store.
pub trait Kv {
    fn put(&self, key: &str) -> u64;
    fn resize(&self, size: usize, (a, b): (u8, u8)) -> Result<Vec<usize>, String>;
}

/// A key-value store.
#[cfg(feature = "kv")]
pub trait Kv {
    fn put(&self, key: &str, value: &[u8]) -> u64;
    #[cfg(feature = "clear")]
    fn clear(&self);
}

/// A key-value store.
#[cfg(feature = "kv")]
pub trait Kv {
    fn put(&self, key: &str, value: &[u8]) -> u64;
    #[cfg(feature = "clear")]
    fn clear(&self);
}
#[cfg(feature = "kv")]
#[derive(::shmrpc::private::Methods)]
#[service(
    ::shmrpc;#[doc = " A key-value store."]#[cfg(feature = "kv")]pub
    trait
    Kv{fn
    put(&self, key:&str, value:&[u8])->u64;#[cfg(feature = "clear")]fn
    clear(&self);}
)]
#[::shmrpc::private::discard]
enum Kv {
    Method0,
    #[cfg(feature = "clear")]
    Method1,
}

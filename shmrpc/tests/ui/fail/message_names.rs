#[shmrpc::message]
pub struct Fields {
    key: String,
    value: u64,
    key: u64,
    r#value: u64,
}

#[shmrpc::message]
pub enum Variants {
    One,
    Two { first: u8, first: u16 },
    One,
}

/// Of these, one is left.
#[shmrpc::message]
pub struct Either {
    #[cfg(unix)]
    fd: i32,
    #[cfg(not(unix))]
    fd: u64,
}

#[shmrpc::service]
pub trait Kv {
    fn put(&self, fields: Fields) -> Variants;
    fn either(&self) -> Either;
}

fn main() {}

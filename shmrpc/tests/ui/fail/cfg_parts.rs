//! What is there under a `#[cfg]`, and what is not.

pub struct Version(u64);

#[shmrpc::message]
pub struct Plain {
    #[cfg(all())]
    there: Version,
    #[cfg(any())]
    absent: NoSuchType,
    fine: u64,
}

#[shmrpc::message]
pub enum Choice {
    #[cfg(all())]
    There(Version, u8),
    #[cfg(any())]
    Absent(Version),
}

#[shmrpc::service]
pub trait Kv {
    #[cfg(all())]
    fn get(&self, version: Version) -> u64;
    #[cfg(any())]
    fn absent(&self, value: NoSuchType) -> u64;
}

fn main() {}

//! Variants of which none is there.

#[derive(Debug, Clone)]
#[shmrpc::message]
pub enum Absent {
    #[cfg(any())]
    One,
    #[cfg(all())]
    #[cfg(not(all()))]
    Two(u64),
}

#[shmrpc::message]
pub enum There {
    #[cfg(any())]
    One,
    #[cfg(all())]
    Two(u64),
}

#[shmrpc::message]
pub struct Holder {
    absent: Vec<Absent>,
    there: There,
}

#[shmrpc::service]
pub trait Service {
    fn get(&self, absent: Absent) -> Result<There, Absent>;
}

fn main() {}

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

#[shmrpc::message]
pub struct File {
    path: PathBuf,
    changed: SystemTime,
    name: String,
}

#[shmrpc::message]
pub struct Borrowed {
    name: &'static str,
    opened: Instant,
}

#[shmrpc::service]
pub trait Files {
    fn open(&self, path: PathBuf) -> Result<u64, std::io::Error>;
    fn read(&self, path: &PathBuf) -> File;
    fn list(&self, until: Instant) -> Vec<Borrowed>;
}

fn main() {}

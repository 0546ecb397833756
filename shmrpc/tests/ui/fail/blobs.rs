use shmrpc::prelude::*;

#[shmrpc::service]
pub trait Blobs {
    fn of_text(&self, text: Blob<String>) -> u64;
    fn borrowed(&self, frame: &Blob) -> u64;
    fn mutable(&self, frame: BlobMut) -> u64;
    fn inside(&self, frames: Vec<Blob>) -> u64;
    fn maybe(&self) -> Option<Blob>;
    fn of_error(&self) -> Result<Blob<bool>, u32>;
    fn of_refused_error(&self) -> Result<Blob<bool>, Vec<usize>>;
    fn as_error(&self) -> Result<u32, Blob>;
}

fn main() {}

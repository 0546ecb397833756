use shmrpc::prelude::*;

#[shmrpc::message]
pub struct Marker;

#[shmrpc::service]
pub trait Markers {
    fn count(&self, markers: Vec<Marker>) -> u64;
}

fn main() {
    let _ = <MarkersClient as Client>::schema();
}

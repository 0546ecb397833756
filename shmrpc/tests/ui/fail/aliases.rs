pub type Length = usize;

#[shmrpc::message]
pub struct Piece {
    length: Length,
}

#[shmrpc::service]
pub trait Lengths {
    fn put(&self, length: Length, all: Vec<Length>) -> u64;
}

fn main() {}

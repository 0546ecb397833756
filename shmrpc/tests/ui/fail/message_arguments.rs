#[shmrpc::message(flat)]
pub struct Unknown(u64);

#[shmrpc::message(recursive, recursive)]
pub struct Twice(u64);

#[shmrpc::message(recursive = true)]
pub struct Valued(u64);

#[shmrpc::message(recursive, crate = "shmrpc")]
pub struct Quoted(u64);

fn main() {}

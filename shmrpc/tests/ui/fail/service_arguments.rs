#[shmrpc::service(version = 2)]
pub trait Unknown {
    fn get(&self) -> u64;
}

#[shmrpc::service(recursive)]
pub trait Misplaced {
    fn get(&self) -> u64;
}

#[shmrpc::service(crate = ::shmrpc, crate = ::shmrpc)]
pub trait Twice {
    fn get(&self) -> u64;
}

#[shmrpc::service(crate = "shmrpc")]
pub trait Quoted {
    fn get(&self) -> u64;
}

#[shmrpc::service(crate)]
pub trait Bare {
    fn get(&self) -> u64;
}

fn main() {}

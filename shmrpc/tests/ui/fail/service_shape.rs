#[shmrpc::service]
pub unsafe trait Unsafe {
    fn get(&self) -> u64;
}

#[shmrpc::service]
pub trait Generic<T: Clone, const N: usize> {
    fn get(&self) -> u64;
}

#[shmrpc::service]
pub trait Borrowing<'a> {
    fn get(&self) -> u64;
}

#[shmrpc::service]
pub trait Bounded
where
    Self: Sized,
{
    fn get(&self) -> u64;
}

macro_rules! methods {
    () => {};
}

#[shmrpc::service]
pub trait Parts {
    const LIMIT: u64;
    type Item;
    methods!();
    fn get(&self) -> u64;
}

fn main() {}

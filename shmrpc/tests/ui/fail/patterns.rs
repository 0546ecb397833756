use std::rc::Rc;

pub struct Pair(u32, u32);

#[shmrpc::service]
pub trait Patterns {
    fn unnamed(&self, _: u64) -> u64;
    fn tuple(&self, (a, b): (u32, u32)) -> u32 {
        a + b
    }
    fn by_ref(&self, ref value: u64) -> u64 {
        *value
    }
    fn types(&self, (a, b): (usize, Rc<u8>), _: &usize, Pair(c, d): Pair, [e]: Box<[Pair; 1]>) -> u64;
    fn attributed(&self, #[cfg(all())] value: u64) -> u64;
    fn fine(&self, value: u64) -> u64;
}

fn main() {}

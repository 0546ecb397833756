#[shmrpc::service]
pub auto trait Automatic {
    fn get(&self) -> u64;
}

#[shmrpc::service]
pub trait Rare {
    fn any_number(&self, values: ...) -> u32;
    unsafe extern "C" fn variadic(&self, count: u32, _: ...) -> u32;
    fn bound(&self, value: unsafe<'a> &'a u8) -> u32;
    fn inside(&self) -> Vec<unsafe<'a> fn(&'a u8)>;
}

fn main() {}

#[shmrpc::service]
pub trait Methods {
    unsafe fn not_safe(&self) -> u64;
    extern "C" fn foreign(&self) -> u64;
    fn generic<T>(&self, value: T) -> u64;
    fn sized<const N: usize>(&self) -> [u8; N];
    fn borrowing<'a>(&'a self, key: &'a str) -> u64;
    fn bounded(&self) -> u64
    where
        Self: Sized;
    fn fine(&self, key: &str) -> u64;
}

fn main() {}

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

#[shmrpc::message]
pub struct Fields {
    size: usize,
    sizes: Option<Vec<isize>>,
    text: &'static str,
    bytes: Box<&'static [u8]>,
    shared: Arc<str>,
    cow: Cow<'static, str>,
    pointer: *mut u8,
    function: fn(),
    dynamic: Box<dyn Send>,
    units: Vec<()>,
    mark: PhantomData<u8>,
    marks: Vec<PhantomData<u8>>,
    fine: Box<str>,
}

#[shmrpc::message]
pub enum Variants {
    Tuple(usize, u64),
    Struct { size: isize, fine: u64 },
    Unit,
}

fn main() {}

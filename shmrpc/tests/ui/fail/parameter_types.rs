use shmrpc::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Arc, Weak};

pub struct IndexMap<K, V>(Vec<(K, V)>);

#[shmrpc::service]
pub trait Types {
    fn size(&self, size: usize) -> u64;
    fn sizes(&self, sizes: Vec<(isize, Option<NonZeroUsize>)>, slice: &[usize]) -> u64;
    fn shared(&self, a: Rc<u64>, b: Vec<Arc<String>>, c: Weak<u64>) -> u64;
    fn indexed(&self, map: IndexMap<u32, u32>) -> u64;
    fn zero_sized(&self, a: Vec<()>, b: HashMap<(), u64>, c: Box<[((), [u8; 0])]>) -> u64;
    fn pointer(&self, pointer: *const u8) -> u64;
    fn function(&self, function: fn(u32) -> u32, closure: Box<dyn Fn(u32) -> u32>) -> u64;
    fn hidden(&self, value: impl Clone) -> u64;
    fn dynamic(&self, value: Box<dyn Send>) -> u64;
    fn own(&self, other: Box<Self>) -> u64;
    fn slice(&self, values: [u8], text: str) -> u64;
    fn cow(&self, text: Cow<'static, str>) -> u64;
    fn archive(&self, value: Archived<u64>) -> u64;
    fn wide(&self, tuple: (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8)) -> u64;
    fn fine(&self, value: u64) -> u64;
}

fn main() {}

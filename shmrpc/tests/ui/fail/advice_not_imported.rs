//! What is advised need not be imported.

use std::collections::HashSet;
use std::ffi::CStr;
use std::num::{NonZeroUsize, Wrapping};

#[shmrpc::message]
pub struct Numbers {
    count: NonZeroUsize,
    name: &'static CStr,
    around: Wrapping<NonZeroUsize>,
    keys: HashSet<NonZeroUsize>,
}

#[shmrpc::service]
pub trait Counter {
    fn count(&self, names: Vec<CStr>, around: Wrapping<NonZeroUsize>, keys: HashSet<NonZeroUsize>) -> u64;
}

fn main() {}

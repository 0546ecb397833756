//! What stands around a refused type is told of in the same round.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::num::{Saturating, Wrapping};

pub struct Pair<T>(T, T);

#[shmrpc::message]
pub struct Twice<T>(T, T);

#[shmrpc::message]
pub struct Counters {
    seen: Wrapping<usize>,
    named: Vec<Pair<&'static str>>,
    twice: Twice<usize>,
    keyed: HashMap<&'static [f32], u8>,
}

#[shmrpc::service]
pub trait Count {
    fn add(&self, number: Wrapping<usize>, best: Box<Reverse<isize>>) -> Saturating<usize>;
    fn pairs(&self, twice: Twice<usize>) -> Option<Pair<fn()>>;
    fn keys(&self, keys: BTreeSet<&[f32]>, numbers: HashMap<usize, u8>);
}

fn main() {}

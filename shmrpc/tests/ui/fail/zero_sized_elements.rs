use std::collections::HashMap;

use shmrpc::prelude::*;

#[shmrpc::message]
pub struct Marker;

#[shmrpc::message]
pub struct Markers {
    all: Vec<Marker>,
    fine: HashMap<u8, Marker>,
}

#[shmrpc::message(recursive)]
pub struct Tree {
    fine: Vec<Tree>,
    markers: Option<Box<[Marker]>>,
}

#[shmrpc::service]
pub trait Counts {
    fn count(&self, markers: Vec<Marker>, fine: Markers) -> u64;
    fn tree(&self, tree: &Archived<Tree>) -> HashMap<String, Vec<(Marker, ())>>;
}

fn main() {}

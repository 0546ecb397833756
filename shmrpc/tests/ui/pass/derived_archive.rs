//! The archived type may have derives of its own.

#![deny(missing_docs, warnings)]

use shmrpc::prelude::*;

/// A struct.
#[shmrpc::message]
#[derive(Debug, Clone, PartialEq)]
#[rkyv(derive(Debug), compare(PartialEq))]
pub struct Point {
    /// Across.
    pub x: u32,
}

/// An enum with names.
#[shmrpc::message]
#[derive(Debug, Clone, PartialEq)]
#[rkyv(derive(Debug), compare(PartialEq))]
#[repr(u16)]
pub enum Shape {
    /// At a place.
    At {
        /// Where.
        point: Point,
    } = 3,
    /// Nowhere.
    Nowhere = 9,
}

fn debug<T: std::fmt::Debug>() {}
fn compares<A, B: PartialEq<A>>() {}

fn main() {
    debug::<Archived<Shape>>();
    compares::<Shape, Archived<Shape>>();
    compares::<Point, ArchivedPoint>();
    assert!(<Shape as shmrpc::Schema>::RECURSIVE == false);
}

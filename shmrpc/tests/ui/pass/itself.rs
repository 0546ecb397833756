//! In its fields, a message may name itself `Self`.

#![deny(warnings)]

use std::collections::HashMap;

use shmrpc::prelude::*;

#[shmrpc::message]
#[derive(Debug, Clone, PartialEq)]
#[rkyv(compare(PartialEq))]
pub struct Header {
    pub magic: [u8; Self::MAGIC.len()],
    pub parts: Vec<[Part; <Self>::PARTS]>,
    pub more: Option<[Part; Self::PARTS + 1]>,
}

impl Header {
    const MAGIC: [u8; 4] = *b"kv01";
    const PARTS: usize = 2;
}

#[shmrpc::message]
#[derive(Debug, Clone, PartialEq)]
#[rkyv(compare(PartialEq))]
pub struct Part(u8);

#[shmrpc::message]
pub enum Measured {
    Numbers([u32; Measured::COUNT]),
    Bytes { bytes: [u8; Self::COUNT] },
}

impl Measured {
    const COUNT: usize = 3;
}

/// Written in one piece.
#[shmrpc::message]
pub struct Plain {
    pub numbers: [u32; Self::COUNT],
    pub more: [[u8; Self::COUNT]; 2],
}

impl Plain {
    const COUNT: usize = 3;
}

#[shmrpc::message(recursive)]
pub struct Tree(Vec<Self>, Option<Box<Self>>);

#[shmrpc::message(recursive)]
pub struct TreeOf<T> {
    pub value: T,
    pub more: Vec<Self>,
    pub next: Option<Box<Self>>,
    pub last: HashMap<u8, Self>,
}

#[shmrpc::message(recursive)]
pub enum KindOf<T, const N: usize> {
    Of(Vec<Self>, [T; N]),
    None,
}

macro_rules! message {
    ($name:ident, $ty:ty) => {
        #[shmrpc::message(recursive)]
        pub struct $name {
            pub written: $ty,
            pub own: Vec<Self>,
            pub bytes: [u8; Self::COUNT],
        }

        impl $name {
            const COUNT: usize = 1;
        }
    };
}

message!(Made, Vec<Self>);

#[shmrpc::service]
pub trait Service {
    fn own(&self, header: &Archived<Header>, measured: Measured, tree: Tree) -> Result<Made, Plain>;
    fn of(&self, of: TreeOf<Part>) -> KindOf<u8, 2>;
}

fn main() {
    let _: fn(&ArchivedHeader) -> usize = |header| header.magic.len();
    let _: fn(&ArchivedTreeOf<u8>) -> Option<&ArchivedTreeOf<u8>> = |tree| tree.more.first();
    let _: fn(&ArchivedPlain) -> bool = |plain| plain.more[1][2] == 0;
}

//! What is served to good and evil clients alike.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, Ordering};

use shmrpc::Service;
use shmrpc::prelude::*;
use shmrpc_transport::rkyv;

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) enum Shape {
    Point(f32, f32),
    Named { name: String, letter: char, filled: Option<bool> },
    Many(Vec<Vec<u16>>),
}

#[shmrpc::service]
pub(crate) trait Target {
    fn add(&self, a: u32, b: u32) -> u32;
    fn echo(&self, text: &str) -> String;
    fn sum(&self, bytes: &[u8]) -> u64;
    /// At most 1 MiB.
    fn blob(&self, length: u32, first: u8) -> Vec<u8>;
    fn shapes(&self, shapes: Vec<Shape>) -> u32;
    #[oneway]
    fn note(&self, text: &str);
    fn weigh(&self, load: Blob) -> u64;
    /// Gives back what it gets.
    fn pass(&self, file: OwnedFd) -> OwnedFd;
    /// How often `blob` was called.
    fn blobs(&self) -> u32;
    /// At most 1 MiB.
    fn render(&self, ctx: &Context, length: u32) -> Blob;
    /// Returns when nobody keeps [`GATE`] closed.
    fn stay(&self);
}

// The server gives ids in the order in which it is asked, and we ask in the order of the trait.
pub(crate) const ADD: u16 = 0;
pub(crate) const ECHO: u16 = 1;
pub(crate) const SUM: u16 = 2;
pub(crate) const BLOB: u16 = 3;
pub(crate) const SHAPES: u16 = 4;
pub(crate) const NOTE: u16 = 5;
pub(crate) const WEIGH: u16 = 6;
pub(crate) const PASS: u16 = 7;

pub(crate) struct Here;

/// Closed by whoever may write.
pub(crate) static GATE: RwLock<()> = RwLock::new(());

/// One server a process.
static BLOBS: AtomicU32 = AtomicU32::new(0);

impl Target for Here {
    fn add(&self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    fn echo(&self, text: &str) -> String {
        text.to_owned()
    }
    fn sum(&self, bytes: &[u8]) -> u64 {
        sum(bytes)
    }
    fn blob(&self, length: u32, first: u8) -> Vec<u8> {
        BLOBS.fetch_add(1, Ordering::SeqCst);
        blob(length, first)
    }
    fn shapes(&self, shapes: Vec<Shape>) -> u32 {
        u32::try_from(shapes.len()).unwrap()
    }
    fn note(&self, text: &str) {
        let _ = text.len();
    }
    fn weigh(&self, load: Blob) -> u64 {
        sum(&load)
    }
    fn pass(&self, file: OwnedFd) -> OwnedFd {
        file
    }
    fn blobs(&self) -> u32 {
        BLOBS.load(Ordering::SeqCst)
    }
    fn render(&self, ctx: &Context, length: u32) -> Blob {
        ctx.blob(length.min(1 << 20) as usize).into()
    }
    fn stay(&self) {
        drop(GATE.read());
    }
}

pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

pub(crate) fn blob(length: u32, first: u8) -> Vec<u8> {
    (0..length.min(1 << 20)).map(|index| first.wrapping_add(index as u8)).collect()
}

/// What a client of this service asks in its hello.
pub(crate) fn question() -> Vec<u8> {
    let schema = TargetServer::new(Here).schema();
    let methods: Vec<(String, bool, u64, String)> = schema
        .methods
        .into_iter()
        .map(|method| (method.name.to_owned(), method.oneway, method.hash, method.text))
        .collect();
    archive(&(schema.name.to_owned(), methods))
}

/// The bytes of a value as a peer sends it.
pub(crate) fn archive<T>(value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    rkyv::to_bytes::<rkyv::rancor::Error>(value).unwrap().to_vec()
}

//! What is called: messages with holes, of every kind and size.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use shmrpc::prelude::*;
use shmrpc::private::{Answered, Request, ServiceSchema};
use shmrpc::{Blob, Service};

use crate::{POISON, poison_stack};

/// Holes between its fields.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Holes {
    pub a: u8,
    pub b: u64,
    pub c: u16,
    pub d: u32,
    pub e: bool,
}

/// Small and large variants.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum Uneven {
    None,
    Small(u8),
    Large { wide: u128, narrow: u8 },
    Holes(Holes),
    Text(String),
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Many {
    pub uneven: Vec<Uneven>,
    pub maybe: [Option<u64>; 3],
    pub maybe_small: [Option<u8>; 3],
    pub maybe_text: [Option<String>; 2],
    pub either: Vec<Result<u8, u64>>,
    pub tuples: Vec<(u8, u64, u16)>,
    pub array: [(u8, u32); 3],
    pub boxed: Box<Holes>,
    pub tree: BTreeMap<u8, Holes>,
    pub tree_set: BTreeSet<u64>,
    pub hash: HashMap<u8, (u8, u64)>,
    pub hash_set: HashSet<String>,
    pub queue: VecDeque<(u8, u16)>,
    pub time: Duration,
    pub addresses: Vec<IpAddr>,
    pub letter: char,
}

pub(crate) fn holes(seed: u8) -> Holes {
    Holes { a: seed, b: 2, c: 3, d: 4, e: true }
}

pub(crate) fn many(size: u8) -> Many {
    let all = [
        Uneven::None,
        Uneven::Small(1),
        Uneven::Large { wide: 1, narrow: 2 },
        Uneven::Holes(holes(9)),
        Uneven::Text("short".into()),
        Uneven::Text("longer than what fits into the string itself".into()),
    ];
    Many {
        uneven: all.iter().cloned().cycle().take(size.into()).collect(),
        maybe: [None, Some(1), None],
        maybe_small: [None, Some(1), None],
        maybe_text: [None, Some("x".into())],
        either: vec![Ok(1), Err(2), Ok(3)],
        tuples: (0..size).map(|index| (index, 1, 2)).collect(),
        array: [(1, 2), (3, 4), (5, 6)],
        boxed: Box::new(holes(1)),
        tree: (0..size).map(|index| (index, holes(index))).collect(),
        tree_set: (0..u64::from(size)).collect(),
        hash: (0..size).map(|index| (index, (index, 1))).collect(),
        hash_set: (0..size).map(|index| "s".repeat(index.into())).collect(),
        queue: (0..size).map(|index| (index, 1)).collect(),
        time: Duration::new(1, 2),
        addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        letter: 'x',
    }
}

#[shmrpc::service]
pub(crate) trait Padded {
    fn nothing(&self);
    fn byte(&self, value: u8) -> u8;
    fn pair(&self, a: u8, b: u32) -> (u8, u32);
    fn maybe(&self, value: Option<u8>) -> Option<u64>;
    fn holes(&self, value: Holes) -> Holes;
    fn uneven(&self, value: Uneven) -> Uneven;
    fn fails(&self, value: u8) -> Result<u64, Uneven>;
    fn text(&self, text: &str) -> String;
    fn many(&self, value: Many) -> Many;
    fn bytes(&self, value: &[u8]) -> Vec<u8>;
    fn count(&self, value: &[u8]) -> u32;
    fn ones(&self, length: u32) -> Vec<u8>;
    fn panics(&self, text: &str);
    #[oneway]
    fn note(&self, value: Holes);
    /// The whole of what was lent, and as much again, half of which is written.
    fn lent(&self, ctx: &Context, value: Blob) -> Blob;
    /// Shows what nobody may see.
    fn leaks(&self, length: u32) -> Vec<u8>;
}

pub(crate) struct Here;

impl Padded for Here {
    fn nothing(&self) {
        poison_stack();
    }
    fn byte(&self, value: u8) -> u8 {
        poison_stack();
        value
    }
    fn pair(&self, a: u8, b: u32) -> (u8, u32) {
        poison_stack();
        (a, b)
    }
    fn maybe(&self, value: Option<u8>) -> Option<u64> {
        poison_stack();
        value.map(u64::from)
    }
    fn holes(&self, value: Holes) -> Holes {
        poison_stack();
        value
    }
    fn uneven(&self, value: Uneven) -> Uneven {
        poison_stack();
        value
    }
    fn fails(&self, value: u8) -> Result<u64, Uneven> {
        poison_stack();
        Err(Uneven::Small(value))
    }
    fn text(&self, text: &str) -> String {
        poison_stack();
        text.to_owned()
    }
    fn many(&self, value: Many) -> Many {
        poison_stack();
        value
    }
    fn bytes(&self, value: &[u8]) -> Vec<u8> {
        poison_stack();
        value.to_vec()
    }
    fn count(&self, value: &[u8]) -> u32 {
        poison_stack();
        value.len() as u32
    }
    fn ones(&self, length: u32) -> Vec<u8> {
        poison_stack();
        vec![1; length as usize]
    }
    fn panics(&self, text: &str) {
        poison_stack();
        panic!("{text}")
    }
    fn note(&self, value: Holes) {
        poison_stack();
        black_box(&value);
    }
    fn lent(&self, ctx: &Context, value: Blob) -> Blob {
        poison_stack();
        let mut both = ctx.blob(2 * value.len());
        both[..value.len()].copy_from_slice(&value);
        both.into()
    }
    fn leaks(&self, length: u32) -> Vec<u8> {
        vec![POISON.load(Ordering::Relaxed); length as usize]
    }
}

/// A service that poisons the stack of whoever asks what it can: so hellos are written on it.
pub(crate) struct Poisoned<S>(pub(crate) S);

impl<S: Service> Service for Poisoned<S> {
    fn schema(&self) -> ServiceSchema {
        let schema = self.0.schema();
        poison_stack();
        schema
    }
    fn dispatch(&self, method: u16, request: Request<'_>) -> Answered {
        self.0.dispatch(method, request)
    }
}

#[shmrpc::service]
pub(crate) trait Unknown {
    fn anything(&self);
}

//! A field that could not stand in any struct is refused once.

use std::borrow::Cow;
use std::collections::HashMap;

#[shmrpc::message]
pub struct Last {
    key: String,
    bytes: [u8],
}

#[shmrpc::message]
pub struct First {
    text: str,
    dynamic: dyn Send,
    key: String,
}

#[shmrpc::message]
pub enum Variants<T> {
    Slice([u64]),
    Dynamic { value: dyn Fn() -> T },
    Inside(Vec<str>, Option<[T]>, HashMap<str, (u8, [u8; 2])>),
}

#[shmrpc::message]
pub struct Elided<T> {
    text: &str,
    named: &'a [u8],
    cow: Cow<str>,
    lent: Cow<'_, str>,
    more: &T,
    held: Box<&T>,
}

#[shmrpc::message]
pub struct Unnamed {
    any: _,
    many: Vec<_>,
    never: !,
    some: impl Send,
}

pub fn read(last: &Last, first: &First, elided: &Elided<u8>) -> usize {
    last.bytes.len() + first.text.len() + elided.text.len() + usize::from(*elided.more)
}

pub fn read_archive(last: &ArchivedLast) -> usize {
    last.key.len() + last.bytes.len()
}

fn main() {}

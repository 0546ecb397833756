//! What the services of the targets have in common: values of every sort, and what a hello says of a service.

use shmrpc::Client;
use shmrpc_transport::connection::OnWire;

use crate::archive::encode;
use crate::ground::ARENA;
use crate::input::Input;
use crate::wire::{MAX_MESSAGE, base_len};

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) enum Shape {
    Nothing,
    Letter(char),
    Named { name: String, filled: bool },
    Many(Vec<Option<u16>>),
}

pub(crate) fn size(input: &mut Input<'_>) -> usize {
    [4, 24, 600, 5_000][input.below(4)] + input.below(16)
}

pub(crate) fn text(input: &mut Input<'_>) -> String {
    "aeiouäöü€ 0123456".repeat(size(input) / 20)
}

pub(crate) fn shape(input: &mut Input<'_>) -> Shape {
    match input.below(4) {
        0 => Shape::Nothing,
        1 => Shape::Letter(char::from_u32(input.short().into()).unwrap_or('x')),
        2 => Shape::Named { name: text(input), filled: input.flag() },
        _ => Shape::Many((0..input.below(20)).map(|_| input.flag().then_some(7)).collect()),
    }
}

/// A blob of so many bytes as a message says it: inside the message, or in a block of the fuzzer's, if that is one.
pub(crate) fn on_wire(bytes: Vec<u8>, input: &mut Input<'_>) -> OnWire {
    let choice = input.below(4);
    if choice == 0 {
        return OnWire::Bytes(bytes);
    }
    let (mut id, mut segment, mut length) = (u32::from(input.byte()), 0, bytes.len() as u32);
    let mut offset = ARENA as u64 + u64::from(input.byte()) * 64;
    let generation = !id;
    match if choice == 3 { input.below(8) } else { 8 } {
        0 => id = 4095 + u32::from(input.byte() % 2),
        1 => segment = input.half(),
        2 => length = input.half(),
        3 => offset = input.word(),
        4 => offset = base_len() - u64::from(input.byte()) * 32,
        5 => length = length.wrapping_add_signed((input.byte() as i8).into()),
        // As long as a message may be, or longer, and all of it there.
        6 => (length, offset) = (MAX_MESSAGE as u32 + u32::from(input.byte() % 8) * 8 - 16, 0),
        7 => offset += u64::from(input.byte()),
        _ => {}
    }
    OnWire::Block { id, segment, generation, length, offset }
}

/// Whether a block that a peer names is one, if it has its base segment only.
pub(crate) fn is_block(id: u32, segment: u32, length: u32, offset: u64) -> bool {
    let inside = offset.checked_add(length.into()).is_some_and(|end| end <= base_len());
    segment == 0 && id < 4096 && u64::from(length) <= MAX_MESSAGE && offset.is_multiple_of(64) && inside
}

/// The answer of this kind, which a handler's own call has.
macro_rules! answered {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(value) => value,
            other => unreachable!("{other:?}"),
        }
    };
}

pub(crate) use answered;

/// The hello's question about all methods of a service, as `shmrpc::greeting` asks it.
pub(crate) fn question<C: Client>(methods: usize) -> Vec<u8> {
    let schema = C::schema();
    let asked: Vec<_> = schema
        .methods
        .iter()
        .map(|method| (method.name.to_owned(), method.oneway, method.hash, method.text.clone()))
        .collect();
    assert_eq!(asked.len(), methods);
    encode(&(schema.name.to_owned(), asked))
}

/// The answer to it.
pub(crate) fn ids(methods: usize) -> Vec<u8> {
    encode(&(0..methods as u16).collect::<Vec<u16>>())
}

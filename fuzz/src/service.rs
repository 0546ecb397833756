//! What the services of the targets have in common: values of every sort, and what a hello says of a service.

use shmrpc::Client;

use crate::archive::encode;
use crate::input::Input;

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

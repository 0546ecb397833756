//! What is served and called over the hostile memory: methods whose arguments and results have many ways to be wrong.

use std::sync::LazyLock;

use shmrpc::{Archived, Blob, Context};
use shmrpc_transport::connection::OnWire;
use shmrpc_transport::rkyv::{self, rancor::Failure};

use super::hostile;
use crate::archive::{decode, encode};
use crate::input::Input;
use crate::service::{Shape, answered, ids, on_wire, question, shape, size, text};

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(super) struct Refused {
    why: String,
    code: u32,
}

#[shmrpc::service]
pub(super) trait Odd {
    fn add(&self, a: u32, b: u32) -> u64;
    fn text(&self, text: &str) -> String;
    fn bytes(&self, bytes: &[u8], wanted: u32) -> Vec<u8>;
    fn shape(&self, ctx: &Context, shape: Shape) -> Result<Shape, Refused>;
    fn numbers(&self, numbers: &[u64]) -> u64;
    #[oneway]
    fn note(&self, text: &str);
    fn archived(&self, shapes: &Archived<Vec<Shape>>) -> u64;
    fn measure(&self, frame: Blob<u64>) -> u64;
    fn render(&self, ctx: &Context, from: Blob, wanted: u32) -> Blob<u16>;
}

/// Methods of [`Odd`], by their index.
pub(super) const METHODS: usize = 9;
/// Of [`Odd::note`], which nobody answers.
pub(super) const ONEWAY: u16 = 5;
const MEASURE: u16 = 7;
const RENDER: u16 = 8;

/// A call as a handler sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Add(u32, u32),
    Text(String),
    Bytes(Vec<u8>, u32),
    Shape(Shape),
    Numbers(Vec<u64>),
    Note(String),
    Archived(Vec<Shape>),
    Measure(Vec<u64>),
    Render(Vec<u8>, u32),
}

/// What comes of a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Shape(Shape),
    Refused(Refused),
    Frame(Vec<u16>),
    None,
}

impl Call {
    /// What the arguments are, if they are any. `blob` is what the blob in them holds, if it can be had.
    pub(super) fn read(method: u16, payload: &[u8], blob: Option<&[u8]>) -> Option<Self> {
        Some(match method {
            0 => decode::<(u32, u32)>(payload).map(|(a, b)| Self::Add(a, b))?,
            1 => decode::<(String,)>(payload).map(|(text,)| Self::Text(text))?,
            2 => decode::<(Vec<u8>, u32)>(payload).map(|(bytes, wanted)| Self::Bytes(bytes, wanted))?,
            3 => decode::<(Shape,)>(payload).map(|(shape,)| Self::Shape(shape))?,
            4 => decode::<(Vec<u64>,)>(payload).map(|(numbers,)| Self::Numbers(numbers))?,
            5 => decode::<(String,)>(payload).map(|(text,)| Self::Note(text))?,
            6 => decode::<(Vec<Shape>,)>(payload).map(|(shapes,)| Self::Archived(shapes))?,
            MEASURE => Self::Measure(numbers(blob?, u64::from_ne_bytes)?),
            RENDER => decode::<(OnWire, u32)>(payload)
                .zip(blob)
                .map(|((_, n), blob)| Self::Render(blob.to_vec(), n))?,
            _ => return None,
        })
    }

    /// The blob in the arguments, if there is one.
    pub(super) fn blob(method: u16, payload: &[u8]) -> Option<OnWire> {
        match method {
            MEASURE => decode::<(OnWire,)>(payload).map(|(frame,)| frame),
            RENDER => decode::<(OnWire, u32)>(payload).map(|(from, _)| from),
            _ => None,
        }
    }

    /// A good one.
    pub(super) fn sample(method: u16, input: &mut Input<'_>) -> Self {
        match method {
            0 => Self::Add(input.byte().into(), u32::MAX - u32::from(input.byte())),
            1 => Self::Text(text(input)),
            2 => Self::Bytes(vec![3; size(input)], [0, 100, 3_000, 20_000][input.below(4)]),
            3 => Self::Shape(shape(input)),
            4 => Self::Numbers(vec![u64::from(input.byte()); size(input) / 8]),
            5 => Self::Note(text(input)),
            6 => Self::Archived((0..input.below(4)).map(|_| shape(input)).collect()),
            MEASURE => Self::Measure(vec![u64::from(input.byte()); size(input) / 8]),
            _ => Self::Render(vec![4; size(input)], [0, 7, 600, 9_000][input.below(4)]),
        }
    }

    /// Its arguments. A blob in them lies where the input says.
    pub(super) fn payload(&self, input: &mut Input<'_>) -> Vec<u8> {
        match self.clone() {
            Self::Add(a, b) => encode(&(a, b)),
            Self::Text(text) | Self::Note(text) => encode(&(text,)),
            Self::Bytes(bytes, wanted) => encode(&(bytes, wanted)),
            Self::Shape(shape) => encode(&(shape,)),
            Self::Numbers(numbers) => encode(&(numbers,)),
            Self::Archived(shapes) => encode(&(shapes,)),
            Self::Measure(frame) => encode(&(on_wire(bytes(&frame, u64::to_ne_bytes), input),)),
            Self::Render(from, wanted) => encode(&(on_wire(from, input), wanted)),
        }
    }

    /// What the handler answers.
    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Add(a, b) => Answer::Number(u64::from(*a) + u64::from(*b)),
            Self::Text(text) => Answer::Text(text.clone()),
            Self::Bytes(bytes, wanted) => {
                Answer::Bytes(vec![bytes.len() as u8; (*wanted as usize).min(LARGEST)])
            }
            Self::Shape(Shape::Nothing) => Answer::Refused(Refused { why: "nothing".into(), code: 7 }),
            Self::Shape(shape) => Answer::Shape(shape.clone()),
            Self::Numbers(numbers) => {
                Answer::Number(numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number)))
            }
            Self::Note(_) => Answer::None,
            Self::Archived(shapes) => Answer::Number(shapes.len() as u64),
            Self::Measure(numbers) => {
                Answer::Number(numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number)))
            }
            Self::Render(from, wanted) => {
                Answer::Frame(vec![from.len() as u16; (*wanted as usize).min(LARGEST / 2)])
            }
        }
    }
}

/// Bytes of a result, at most: so small that what a session's results take in all can be lent.
const LARGEST: usize = 20_000;

impl Answer {
    /// What a payload says, of a kind: [`Answer::Refused`] of errors. `blob` is what the blob in it holds, if it can be had.
    pub(super) fn read(method: u16, is_error: bool, payload: &[u8], blob: Option<&[u8]>) -> Option<Self> {
        Some(match (method, is_error) {
            (3, true) => Self::Refused(decode(payload)?),
            (_, true) => return None,
            (0 | 4 | 6 | MEASURE, _) => Self::Number(decode(payload)?),
            (RENDER, _) => Self::Frame(numbers(blob?, u16::from_ne_bytes)?),
            (1, _) => Self::Text(decode(payload)?),
            (2, _) => Self::Bytes(decode(payload)?),
            (3, _) => Self::Shape(decode(payload)?),
            _ => return None,
        })
    }

    /// The blob in an answer that is no error, if there is one.
    pub(super) fn blob(method: u16, payload: &[u8]) -> Option<OnWire> {
        if method == RENDER { decode(payload) } else { None }
    }

    pub(super) fn sample(method: u16, input: &mut Input<'_>) -> Self {
        match method {
            1 => Self::Text(text(input)),
            2 => Self::Bytes(vec![9; size(input)]),
            3 if input.flag() => Self::Refused(Refused { why: text(input), code: input.half() }),
            3 => Self::Shape(shape(input)),
            RENDER => Self::Frame(vec![5; size(input) / 2]),
            _ => Self::Number(input.word()),
        }
    }

    /// The same as for a call.
    pub(super) fn payload(&self, input: &mut Input<'_>) -> Vec<u8> {
        match self {
            Self::Number(number) => encode(number),
            Self::Text(text) => encode(text),
            Self::Bytes(bytes) => encode(bytes),
            Self::Shape(shape) => encode(shape),
            Self::Refused(refused) => encode(refused),
            Self::Frame(frame) => encode(&on_wire(bytes(frame, u16::to_ne_bytes), input)),
            Self::None => vec![],
        }
    }
}

fn bytes<T: Copy, const N: usize>(numbers: &[T], bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| bytes(*number)).collect()
}

/// Numbers, if they are all whole.
fn numbers<T, const N: usize>(bytes: &[u8], number: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (whole, []) = bytes.as_chunks() else { return None };
    Some(whole.iter().map(|bytes| number(*bytes)).collect())
}

/// The failure of a call, as it travels.
pub(super) fn failure(payload: &[u8]) -> Option<(u32, String)> {
    decode(payload)
}

/// What an honest server says of a failure.
pub(super) fn sample_failure(input: &mut Input<'_>) -> Vec<u8> {
    encode(&(u32::from(input.byte() % 8), text(input)))
}

/// Tells the memory what it was called with.
pub(super) struct Told;

impl Told {
    fn run(&self, call: Call) -> Answer {
        let answer = call.answer();
        hostile::ran(call);
        answer
    }
}

impl Odd for Told {
    fn add(&self, a: u32, b: u32) -> u64 {
        answered!(self.run(Call::Add(a, b)), Number)
    }

    fn text(&self, text: &str) -> String {
        answered!(self.run(Call::Text(text.to_owned())), Text)
    }

    fn bytes(&self, bytes: &[u8], wanted: u32) -> Vec<u8> {
        answered!(self.run(Call::Bytes(bytes.to_vec(), wanted)), Bytes)
    }

    fn shape(&self, _: &Context, shape: Shape) -> Result<Shape, Refused> {
        match self.run(Call::Shape(shape)) {
            Answer::Refused(refused) => Err(refused),
            answer => Ok(answered!(answer, Shape)),
        }
    }

    fn numbers(&self, numbers: &[u64]) -> u64 {
        answered!(self.run(Call::Numbers(numbers.to_vec())), Number)
    }

    fn note(&self, text: &str) {
        self.run(Call::Note(text.to_owned()));
    }

    fn archived(&self, shapes: &Archived<Vec<Shape>>) -> u64 {
        let shapes = rkyv::deserialize::<Vec<Shape>, Failure>(shapes).expect("plain data");
        answered!(self.run(Call::Archived(shapes)), Number)
    }

    fn measure(&self, frame: Blob<u64>) -> u64 {
        answered!(self.run(Call::Measure(frame.to_vec())), Number)
    }

    fn render(&self, ctx: &Context, from: Blob, wanted: u32) -> Blob<u16> {
        let answer = answered!(self.run(Call::Render(from.to_vec(), wanted)), Frame);
        let mut frame = ctx.blob::<u16>(answer.len());
        frame.copy_from_slice(&answer);
        frame.into()
    }
}

/// The hello's question about all methods.
pub(super) static QUESTION: LazyLock<Vec<u8>> = LazyLock::new(|| question::<OddClient>(METHODS));

/// The answer to it.
pub(super) static IDS: LazyLock<Vec<u8>> = LazyLock::new(|| ids(METHODS));

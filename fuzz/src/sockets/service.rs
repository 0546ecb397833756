//! What is served and called over sockets: arguments and results of every sort.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use shmrpc::{Blob, Context};
use shmrpc_transport::connection::OnWire;

use crate::archive::{decode, encode};
use crate::input::Input;
use crate::service::{Shape, answered, ids, question, shape, size, text};

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(super) struct Refused {
    why: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.why)
    }
}

#[shmrpc::service]
pub(super) trait Mix {
    fn add(&self, a: u32, b: u32) -> u64;
    fn text(&self, text: &str) -> String;
    fn bytes(&self, bytes: &[u8], wanted: u32) -> Vec<u8>;
    fn words(&self, words: HashMap<String, u32>) -> BTreeMap<u32, String>;
    fn shape(&self, shape: Shape) -> Result<Shape, Refused>;
    fn measure(&self, frame: Blob<u16>) -> u64;
    fn render(&self, ctx: &Context, length: u32) -> Blob<u16>;
    #[oneway]
    fn note(&self, text: &str);
}

/// Methods of [`Mix`], by their index.
pub(super) const METHODS: u16 = 8;
pub(super) const WORDS: u16 = 3;
pub(super) const MEASURE: u16 = 5;
/// Of [`Mix::note`], which nobody answers.
pub(super) const ONEWAY: u16 = 7;
/// Elements of a result, at most.
const LARGEST: u32 = 20_000;

/// A call as a handler sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Add(u32, u32),
    Text(String),
    Bytes(Vec<u8>, u32),
    Words(BTreeMap<String, u32>),
    Shape(Shape),
    Measure(Vec<u16>),
    Render(u32),
    Note(String),
}

/// What comes of a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Words(BTreeMap<u32, String>),
    Shape(Shape),
    Refused(Refused),
    Frame(Vec<u16>),
    None,
}

/// What bytes are as arguments, as far as is known without the product.
#[derive(Debug)]
pub(super) enum Read {
    Call(Call),
    /// No valid arguments.
    Nothing,
    /// Arguments, or none.
    Either,
    /// A blob in shared memory.
    Block,
}

impl Call {
    /// What the arguments are, if they are any.
    pub(super) fn read(method: u16, payload: &[u8]) -> Read {
        let call = match method {
            0 => decode::<(u32, u32)>(payload).map(|(a, b)| Self::Add(a, b)),
            1 => decode::<(String,)>(payload).map(|(text,)| Self::Text(text)),
            2 => decode::<(Vec<u8>, u32)>(payload).map(|(bytes, wanted)| Self::Bytes(bytes, wanted)),
            // rkyv itself may not read every table that it lets pass.
            WORDS => return Read::Either,
            4 => decode::<(Shape,)>(payload).map(|(shape,)| Self::Shape(shape)),
            MEASURE => match decode::<(OnWire,)>(payload) {
                Some((OnWire::Block { .. },)) => return Read::Block,
                Some((OnWire::Bytes(bytes),)) if bytes.len() % 2 == 0 => Some(Self::Measure(halves(&bytes))),
                _ => None,
            },
            6 => decode::<(u32,)>(payload).map(|(length,)| Self::Render(length)),
            ONEWAY => decode::<(String,)>(payload).map(|(text,)| Self::Note(text)),
            _ => None,
        };
        call.map_or(Read::Nothing, Read::Call)
    }

    /// A good one.
    pub(super) fn sample(method: u16, input: &mut Input<'_>) -> Self {
        match method {
            0 => Self::Add(input.byte().into(), u32::MAX - u32::from(input.byte())),
            1 => Self::Text(text(input)),
            2 => Self::Bytes(vec![3; size(input)], [0, 100, 3_000, 20_000][input.below(4)]),
            WORDS => Self::Words((0..input.below(9)).map(|at| (text(input), at as u32)).collect()),
            4 => Self::Shape(shape(input)),
            MEASURE => Self::Measure(vec![u16::from(input.byte()); size(input)]),
            6 => Self::Render([0, 7, 600, 9_000][input.below(4)]),
            _ => Self::Note(text(input)),
        }
    }

    pub(super) fn method(&self) -> u16 {
        match self {
            Self::Add(..) => 0,
            Self::Text(_) => 1,
            Self::Bytes(..) => 2,
            Self::Words(_) => WORDS,
            Self::Shape(_) => 4,
            Self::Measure(_) => MEASURE,
            Self::Render(_) => 6,
            Self::Note(_) => ONEWAY,
        }
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        match self.clone() {
            Self::Add(a, b) => encode(&(a, b)),
            Self::Text(text) | Self::Note(text) => encode(&(text,)),
            Self::Bytes(bytes, wanted) => encode(&(bytes, wanted)),
            Self::Words(words) => encode(&(words.into_iter().collect::<HashMap<_, _>>(),)),
            Self::Shape(shape) => encode(&(shape,)),
            Self::Measure(frame) => encode(&(on_wire(&frame),)),
            Self::Render(length) => encode(&(length,)),
        }
    }

    /// What the handler answers.
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Add(a, b) => Answer::Number(u64::from(a) + u64::from(b)),
            Self::Text(text) => Answer::Text(text),
            Self::Bytes(bytes, wanted) => {
                Answer::Bytes(vec![bytes.len() as u8; wanted.min(LARGEST) as usize])
            }
            Self::Words(words) => Answer::Words(words.into_iter().map(|(word, at)| (at, word)).collect()),
            Self::Shape(Shape::Nothing) => Answer::Refused(Refused { why: "nothing".into() }),
            Self::Shape(shape) => Answer::Shape(shape),
            Self::Measure(frame) => Answer::Number(frame.iter().map(|at| u64::from(*at)).sum()),
            Self::Render(length) => Answer::Frame(vec![7; length.min(LARGEST) as usize]),
            Self::Note(_) => Answer::None,
        }
    }
}

impl Answer {
    /// What a payload says; of a service's error, if it is one.
    pub(super) fn read(method: u16, is_error: bool, payload: &[u8]) -> Option<Self> {
        Some(match (method, is_error) {
            (4, true) => Self::Refused(decode(payload)?),
            (_, true) => return None,
            (0 | MEASURE, _) => Self::Number(decode(payload)?),
            (1, _) => Self::Text(decode(payload)?),
            (2, _) => Self::Bytes(decode(payload)?),
            (WORDS, _) => Self::Words(decode(payload)?),
            (4, _) => Self::Shape(decode(payload)?),
            (6, _) => match decode(payload)? {
                OnWire::Bytes(bytes) if bytes.len() % 2 == 0 => Self::Frame(halves(&bytes)),
                _ => return None,
            },
            _ => return None,
        })
    }

    pub(super) fn sample(method: u16, input: &mut Input<'_>) -> Self {
        match method {
            1 => Self::Text(text(input)),
            2 => Self::Bytes(vec![9; size(input)]),
            WORDS => Self::Words((0..input.below(9)).map(|at| (at as u32, text(input))).collect()),
            4 if input.flag() => Self::Refused(Refused { why: text(input) }),
            4 => Self::Shape(shape(input)),
            6 => Self::Frame(vec![5; size(input)]),
            _ => Self::Number(input.word()),
        }
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => encode(number),
            Self::Text(text) => encode(text),
            Self::Bytes(bytes) => encode(bytes),
            Self::Words(words) => encode(words),
            Self::Shape(shape) => encode(shape),
            Self::Refused(refused) => encode(refused),
            Self::Frame(frame) => encode(&on_wire(frame)),
            Self::None => vec![],
        }
    }
}

fn on_wire(frame: &[u16]) -> OnWire {
    OnWire::Bytes(frame.iter().flat_map(|at| at.to_ne_bytes()).collect())
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|half| u16::from_ne_bytes(*half)).collect()
}

/// Answers as [`Call::answer`] does.
pub(super) struct Here;

impl Mix for Here {
    fn add(&self, a: u32, b: u32) -> u64 {
        answered!(Call::Add(a, b).answer(), Number)
    }

    fn text(&self, text: &str) -> String {
        answered!(Call::Text(text.to_owned()).answer(), Text)
    }

    fn bytes(&self, bytes: &[u8], wanted: u32) -> Vec<u8> {
        answered!(Call::Bytes(bytes.to_vec(), wanted).answer(), Bytes)
    }

    fn words(&self, words: HashMap<String, u32>) -> BTreeMap<u32, String> {
        answered!(Call::Words(words.into_iter().collect()).answer(), Words)
    }

    fn shape(&self, shape: Shape) -> Result<Shape, Refused> {
        match Call::Shape(shape).answer() {
            Answer::Refused(refused) => Err(refused),
            Answer::Shape(shape) => Ok(shape),
            other => unreachable!("{other:?}"),
        }
    }

    fn measure(&self, frame: Blob<u16>) -> u64 {
        answered!(Call::Measure(frame.to_vec()).answer(), Number)
    }

    fn render(&self, ctx: &Context, length: u32) -> Blob<u16> {
        let answer = answered!(Call::Render(length).answer(), Frame);
        let mut frame = ctx.blob::<u16>(answer.len());
        frame.copy_from_slice(&answer);
        frame.into()
    }

    fn note(&self, text: &str) {
        let _ = text.len();
    }
}

/// The hello's question about all methods.
pub(super) static QUESTION: LazyLock<Vec<u8>> = LazyLock::new(|| question::<MixClient>(METHODS.into()));

/// The answer to it.
pub(super) static IDS: LazyLock<Vec<u8>> = LazyLock::new(|| ids(METHODS.into()));

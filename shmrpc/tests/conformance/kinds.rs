//! All that a method can take and return: values, archives, texts, slices and blobs of every number, and all of them at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::service::{Entry, Missing, Nest};
use crate::support::Place;

/// What a slot holds, what is copied whoever sent it, and what is read in place where trust lets it.
const TEXTS: [usize; 3] = [3, 3_000, 300_000];

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) enum Shape {
    Nothing,
    Circle(f64),
    Box { width: u32, label: String },
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) struct Page<T> {
    items: Vec<T>,
    next: Option<Box<T>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[shmrpc::message]
#[rkyv(derive(PartialEq, Eq, Hash, PartialOrd, Ord))]
pub(crate) struct Key {
    name: String,
    number: u16,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) struct Everything {
    small: (u8, i8, u16, i16),
    large: (u32, i32, u64, i64, u128, i128),
    other: (f32, f64, bool, char),
    text: String,
    array: [u16; 3],
    either: Vec<Result<Shape, String>>,
    hashed: (HashMap<Key, Shape>, HashSet<Key>),
    sorted: (BTreeMap<Key, Vec<u8>>, BTreeSet<i64>),
    time: Duration,
    addresses: (IpAddr, SocketAddr),
    page: Page<Shape>,
    nest: Nest,
}

impl Everything {
    fn with(text: usize) -> Self {
        let key = |number| Key { name: "k".repeat(usize::from(number)), number };
        let shape = Shape::Box { width: 7, label: "x".repeat(text / 3) };
        Self {
            small: (u8::MAX, i8::MIN, u16::MAX, i16::MIN),
            large: (u32::MAX, i32::MIN, u64::MAX, i64::MIN, u128::MAX, i128::MIN),
            other: (-0.5, f64::MIN_POSITIVE, true, '\u{10ffff}'),
            text: "ß".repeat(text),
            array: [1, 2, 3],
            either: vec![Ok(shape.clone()), Err("no shape".into()), Ok(Shape::Nothing)],
            hashed: (
                (0..20).map(|at| (key(at), Shape::Circle(at.into()))).collect(),
                (0..9).map(key).collect(),
            ),
            sorted: ((0..20).map(|at| (key(at), vec![7; text / 20])).collect(), (-9..9).collect()),
            time: Duration::new(7, 999_999_999),
            addresses: ([127, 0, 0, 1].into(), "[2001:db8::1]:80".parse().unwrap()),
            page: Page { items: vec![Shape::Nothing, shape.clone()], next: Some(Box::new(shape)) },
            nest: Nest::of(20),
        }
    }
}

/// What a call of all kinds of arguments came with, as its handler tells it.
type Told = (u8, String, Option<Duration>, u64, i32, f64, (bool, u8));

#[shmrpc::service]
pub(crate) trait Kinds {
    fn owned(&self, all: Everything) -> Everything;
    fn archived(&self, all: &Archived<Everything>) -> Vec<String>;
    fn list(&self, all: &Archived<Vec<Shape>>) -> u64;
    fn maybe(&self, all: Option<Everything>) -> Option<Everything>;
    fn check(&self, all: Everything) -> Result<(), Box<Everything>>;
    fn find(&self, key: &str) -> Result<Option<Entry>, Missing>;
    /// As many as a method may take, and the context between them.
    #[allow(clippy::too_many_arguments, reason = "it is what is tested")]
    fn tell(
        &self,
        a: u8,
        b: &str,
        c: &Archived<Entry>,
        d: &[u64],
        ctx: &Context,
        e: Blob<i16>,
        f: &[f64],
        g: Entry,
        h: &[u8],
        i: bool,
        j: Blob,
        k: &[i32],
        l: u8,
    ) -> Told;
    /// The same with nobody to tell it to.
    #[oneway]
    fn keep(&self, a: &str, b: &Archived<Entry>, ctx: &Context, c: &[f32], d: Blob<u32>, e: Entry);
    fn kept(&self) -> Vec<Told>;
}

#[derive(Default)]
struct Here(Mutex<Vec<Told>>);

impl Kinds for Here {
    fn owned(&self, all: Everything) -> Everything {
        all
    }
    fn archived(&self, all: &Archived<Everything>) -> Vec<String> {
        let mut found = vec![
            format!("{} {}", all.small.1, all.large.5),
            format!("{} {} {}", all.other.0, all.other.3, all.array[2]),
            all.text.as_str().to_owned(),
        ];
        found.extend(all.sorted.0.iter().map(|(key, bytes)| format!("{} {}", key.number, bytes.len())));
        found.push(format!("{} {}", all.hashed.0.len(), all.addresses.1.port()));
        found
    }
    fn list(&self, all: &Archived<Vec<Shape>>) -> u64 {
        let width = |shape: &ArchivedShape| match shape {
            ArchivedShape::Box { width, .. } => u64::from(width.to_native()),
            _ => 0,
        };
        all.iter().map(width).sum()
    }
    fn maybe(&self, all: Option<Everything>) -> Option<Everything> {
        all
    }
    fn check(&self, all: Everything) -> Result<(), Box<Everything>> {
        if all.text.is_empty() { Ok(()) } else { Err(Box::new(all)) }
    }
    fn find(&self, key: &str) -> Result<Option<Entry>, Missing> {
        match key {
            "" => Ok(None),
            "none" => Err(Missing::Key(key.into())),
            _ => Ok(Some(Entry { key: key.into(), value: vec![] })),
        }
    }
    fn tell(
        &self,
        a: u8,
        b: &str,
        c: &Archived<Entry>,
        d: &[u64],
        ctx: &Context,
        e: Blob<i16>,
        f: &[f64],
        g: Entry,
        h: &[u8],
        i: bool,
        j: Blob,
        k: &[i32],
        l: u8,
    ) -> Told {
        let text = format!("{b} {} {} {} {}", c.key, c.value.len(), g.key, g.value.len());
        let unsigned = d.iter().sum::<u64>() + h.iter().chain(&*j).map(|byte| u64::from(*byte)).sum::<u64>();
        let signed = e.iter().map(|number| i32::from(*number)).chain(k.iter().copied()).sum::<i32>();
        (a, text, ctx.timeout(), unsigned, signed, f.iter().sum(), (i, l))
    }
    fn keep(&self, a: &str, b: &Archived<Entry>, ctx: &Context, c: &[f32], d: Blob<u32>, e: Entry) {
        let text = format!("{a} {} {} {} {}", b.key, b.value.len(), e.key, e.value.len());
        let (blob, slice) = (d.iter().map(|number| u64::from(*number)).sum(), c.iter().sum::<f32>());
        self.0.lock().unwrap().push((0, text, ctx.timeout(), blob, 0, slice.into(), (false, 0)));
    }
    fn kept(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }
}

fn start(ground: Ground) -> (ServerHandle, KindsClient, Place) {
    let place = Place::new();
    let server = ground.server().service(KindsServer::new(Here::default())).listen(ground.endpoint(&place));
    let server = server.start().unwrap();
    let client = ground.client().connect(server.endpoints()[0].to_string()).unwrap();
    (server, client, place)
}

pub(crate) fn values_of_every_type(ground: Ground) {
    let (_server, client, _place) = start(ground);
    for text in TEXTS {
        let all = Everything::with(text);
        assert!(client.owned(all.clone()).unwrap() == all, "{text}");
        let view = client.view().owned(all.clone()).unwrap();
        assert!(view.text == all.text && view.to_owned().unwrap() == all, "{text}");
        assert!(client.maybe(Some(all.clone())).unwrap().as_ref() == Some(&all), "{text}");
        assert!(client.view().maybe(Some(all.clone())).unwrap().as_ref().unwrap().text == all.text, "{text}");
        // What is refused comes back whole.
        let refused = CallError::Service(Box::new(all.clone()));
        assert!(client.check(all.clone()).unwrap_err() == refused, "{text}");
        assert!(client.view().check(all.clone()).err() == Some(refused), "{text}");
        // The caller keeps what is sent by reference.
        let seen = client.archived(&all).unwrap();
        assert_eq!(seen[..2], [format!("-128 {}", i128::MIN), "-0.5 \u{10ffff} 3".to_owned()]);
        assert!(seen[2] == all.text && seen.len() == 24, "{text}");
        let sorted: Vec<_> = (0..20).map(|at| format!("{at} {}", text / 20)).collect();
        assert_eq!((&seen[3..23], &*seen[23]), (&*sorted, "20 80"));
        let shapes = vec![Shape::Box { width: 3, label: "x".into() }; text];
        assert_eq!(client.list(&shapes), Ok(3 * text as u64));
    }
    assert_eq!(client.list(&vec![]), Ok(0));
    let empty = Everything { text: String::new(), ..Everything::with(0) };
    assert!(client.view().check(empty.clone()).is_ok());
    assert_eq!(client.check(empty), Ok(()));
    assert_eq!(client.maybe(None), Ok(None));
    assert!(client.view().maybe(None).unwrap().is_none());
    assert_eq!(client.find("").unwrap(), None);
    assert_eq!(client.find("a").unwrap(), Some(Entry { key: "a".into(), value: vec![] }));
    assert_eq!(client.view().find("b").unwrap().as_ref().unwrap().key, "b");
    assert_eq!(client.view().find("none").err(), Some(CallError::Service(Missing::Key("none".into()))));
}

pub(crate) fn arguments_of_every_kind_at_once(ground: Ground) {
    const TIME: Duration = Duration::from_secs(25);
    let (_server, client, _place) = start(ground);
    let (client, patient) = (client.with_timeout(TIME), client.with_timeout(Duration::MAX));
    let entry = |key: &str, length| Entry { key: key.into(), value: vec![1; length] };
    // Nothing is large at first. Then each of them is, between others that are small.
    for large in 0..9 {
        let length = |at| if at == large { 150_000 } else { at };
        let mut blob = client.blob::<i16>(length(3)).unwrap();
        blob.fill(-1);
        let told = client.tell(
            200,
            &"b".repeat(length(1)),
            &entry("c", length(2)),
            &vec![1 << 40; length(4)],
            blob,
            &vec![0.5; length(5)],
            entry("g", length(6)),
            &vec![1; length(7)],
            true,
            vec![2; length(8)],
            &[-3],
            100,
        );
        let text = format!("{} c {} g {}", "b".repeat(length(1)), length(2), length(6));
        let unsigned = ((length(4) as u64) << 40) + length(7) as u64 + 2 * length(8) as u64;
        let signed = -3 - length(3) as i32;
        let mut told = told.unwrap();
        // The first call waits for its lane.
        let left = told.2.take();
        assert!(left.is_some_and(|left| left <= TIME), "{left:?}");
        let expected = (200, text, None, unsigned, signed, length(5) as f64 / 2.0, (true, 100));
        assert!(told == expected, "{large}");
    }
    let mut expected = Vec::new();
    for large in 0..6 {
        let length = |at| if at == large { 150_000 } else { at };
        let (text, b, e) = ("a".repeat(length(1)), entry("b", length(2)), entry("e", length(5)));
        patient.keep(&text, &b, &vec![0.5; length(3)], vec![2; length(4)], e).unwrap();
        let text = format!("{text} b {} e {}", length(2), length(5));
        let (blob, slice) = (2 * length(4) as u64, length(3) as f64 / 2.0);
        expected.push((0, text, None, blob, 0, slice, (false, 0)));
    }
    assert!(patient.kept() == Ok(expected));
}

struct Numbers;

/// A service for each number, with slices and blobs of it, there and back: ten services whose methods have the same names.
macro_rules! numbers {
    ($($number:ident $service:ident $client:ident $server:ident)*) => {
        $(
            #[shmrpc::service]
            pub(crate) trait $service {
                /// The first one comes last.
                fn turn(&self, numbers: &[$number]) -> Vec<$number>;
                fn forward(&self, numbers: Blob<$number>) -> Blob<$number>;
                /// All but the last one, which is the error if it is the only one.
                fn fewer(&self, ctx: &Context, numbers: &[$number]) -> Result<Blob<$number>, Option<$number>>;
            }

            impl $service for Numbers {
                fn turn(&self, numbers: &[$number]) -> Vec<$number> {
                    [&numbers[1.min(numbers.len())..], &numbers[..1.min(numbers.len())]].concat()
                }
                fn forward(&self, numbers: Blob<$number>) -> Blob<$number> {
                    numbers
                }
                fn fewer(&self, ctx: &Context, numbers: &[$number]) -> Result<Blob<$number>, Option<$number>> {
                    let (last, others) = numbers.split_last().ok_or(None)?;
                    if others.is_empty() {
                        return Err(Some(*last));
                    }
                    let mut fewer = ctx.blob(others.len());
                    fewer.copy_from_slice(others);
                    Ok(fewer.into())
                }
            }
        )*

        pub(crate) fn slices_and_blobs_of_every_number(ground: Ground) {
            let place = Place::new();
            let server = ground.server() $(.service($server::new(Numbers)))*;
            let server = server.listen(ground.endpoint(&place)).start().unwrap();
            let at = server.endpoints()[0].to_string();
            // All are connected when the first one calls.
            let clients = ($(ground.client::<$client>().connect(&at).unwrap(),)*);
            let ($($number,)*) = &clients;
            $(
                let mut cycle: Vec<_> = (1..=120_u8).map(|number| number as $number).collect();
                cycle.extend([<$number>::MIN, <$number>::MAX]);
                let all = cycle.repeat((1 << 20) / size_of::<$number>() / cycle.len() + 1);
                for length in [0, 1, 3, 122, 5_000, (1 << 20) / size_of::<$number>()] {
                    let (numbers, what) = (&all[..length], format!("{length} {}", stringify!($number)));
                    let mut turned = numbers.to_vec();
                    turned.rotate_left(1.min(length));
                    assert!($number.turn(numbers).unwrap() == turned, "slice: {what}");
                    let view = $number.view().turn(numbers).unwrap();
                    assert!(view.len() == length && view.last().is_none_or(|last| *last == 1 as $number), "view: {what}");
                    let mut blob = $number.blob(length).unwrap();
                    blob.copy_from_slice(numbers);
                    let there = $number.forward(blob).unwrap();
                    assert!(*there == *numbers, "blob: {what}");
                    // What was received is sent on as it is.
                    assert!(*$number.view().forward(there).unwrap() == *numbers, "passed on: {what}");
                    match ($number.fewer(numbers), numbers.split_last()) {
                        (fewer, Some((_, others @ [_, ..]))) => assert!(*fewer.unwrap() == *others, "result: {what}"),
                        (fewer, only) => {
                            let refused = CallError::Service(only.map(|(only, _)| *only));
                            assert_eq!(fewer.err(), Some(refused), "{what}");
                        }
                    }
                }
            )*
        }
    };
}

numbers! {
    u8 U8 U8Client U8Server
    i8 I8 I8Client I8Server
    u16 U16 U16Client U16Server
    i16 I16 I16Client I16Server
    u32 U32 U32Client U32Server
    i32 I32 I32Client I32Server
    u64 U64 U64Client U64Server
    i64 I64 I64Client I64Server
    f32 F32 F32Client F32Server
    f64 F64 F64Client F64Server
}

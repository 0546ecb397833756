//! Any value of a rich set of types survives both ways: by value, as `&Archived<T>`, as a View; trusted or not; over
//! every kind of memory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroI128, NonZeroU8};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, hash_map, hash_set, vec};
use proptest::prelude::*;
use shmrpc::prelude::*;

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Numbers {
    pub small: (u8, i8, u16, i16),
    pub middle: (u32, i32, u64, i64),
    pub large: (u128, i128),
    pub truth: bool,
    pub letter: char,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Box<T>>,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct Tree {
    pub value: u32,
    pub children: Vec<Tree>,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub enum Shape {
    Nothing,
    Circle(u64),
    Box { width: u32, height: u32, label: String },
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Everything {
    pub numbers: Numbers,
    pub text: String,
    pub maybe: Option<String>,
    pub either: Result<u32, String>,
    pub nested: Vec<Vec<u16>>,
    pub array: [u32; 3],
    pub shapes: Vec<Shape>,
    pub page: Page<Shape>,
    pub tree: Tree,
    pub hash: HashMap<String, u32>,
    pub tree_map: BTreeMap<u16, Vec<u8>>,
    pub hash_set: HashSet<u64>,
    pub tree_set: BTreeSet<String>,
    pub queue: VecDeque<i32>,
    pub time: Duration,
    pub addresses: Vec<IpAddr>,
    pub rest: Rest,
}

/// What the standard library has besides, and messages that contain each other.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub struct Rest {
    pub not_zero: (NonZeroU8, Option<NonZeroI128>),
    pub boxed: (Box<str>, Box<[u16]>, Box<[String]>),
    pub c: CString,
    pub socket: SocketAddr,
    pub ranges: (Range<u32>, RangeInclusive<i64>, Bound<u8>),
    pub open: (RangeFrom<i16>, RangeTo<char>, RangeToInclusive<String>),
    pub floats: Vec<(f32, f64)>,
    pub even: Even,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub struct Even {
    pub odds: Vec<Odd>,
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub enum Odd {
    Even(Page<Even>),
    End { value: u8 },
}

#[shmrpc::service]
pub trait Echo {
    fn everything(&self, value: Everything) -> Everything;
    fn archived(&self, value: &Archived<Everything>) -> String;
    fn refused(&self, value: Everything) -> Result<(), Box<Everything>>;
    fn float_bits(&self, value: f64, other: f32) -> (u64, u32);
    fn text(&self, value: &str) -> String;
    fn bytes(&self, value: &[u8]) -> Vec<u8>;
    fn sums(&self, a: &[u16], b: &[i64], c: &[f32], d: &[f64]) -> (u64, i64, f64);
    fn tree(&self, value: Tree) -> u32;
    fn sees(&self, value: &Archived<Tree>) -> u32;
    fn wide(&self, value: u128) -> u128;
    fn nothing(&self);
    fn context(&self, ctx: &Context) -> (i32, u64);
    fn default_body(&self, value: u32) -> u32 {
        value + 1
    }
}

struct Mirror;

impl Echo for Mirror {
    fn everything(&self, value: Everything) -> Everything {
        value
    }
    fn archived(&self, value: &Archived<Everything>) -> String {
        format!("{} {} {}", value.text, value.shapes.len(), value.numbers.middle.2)
    }
    fn refused(&self, value: Everything) -> Result<(), Box<Everything>> {
        Err(Box::new(value))
    }
    fn float_bits(&self, value: f64, other: f32) -> (u64, u32) {
        (value.to_bits(), other.to_bits())
    }
    fn text(&self, value: &str) -> String {
        value.to_owned()
    }
    fn bytes(&self, value: &[u8]) -> Vec<u8> {
        value.to_vec()
    }
    fn sums(&self, a: &[u16], b: &[i64], c: &[f32], d: &[f64]) -> (u64, i64, f64) {
        let floats: f64 = c.iter().copied().map(f64::from).sum::<f64>() + d.iter().sum::<f64>();
        (a.iter().copied().map(u64::from).sum(), b.iter().sum(), floats)
    }
    fn tree(&self, value: Tree) -> u32 {
        depth(&value)
    }
    fn sees(&self, value: &Archived<Tree>) -> u32 {
        value.value.to_native()
    }
    fn wide(&self, value: u128) -> u128 {
        value
    }
    fn nothing(&self) {}
    fn context(&self, ctx: &Context) -> (i32, u64) {
        (
            ctx.peer().credentials().unwrap().pid.unwrap(),
            ctx.timeout().map_or(0, |timeout| timeout.as_millis() as u64),
        )
    }
}

fn depth(tree: &Tree) -> u32 {
    1 + tree.children.iter().map(depth).max().unwrap_or(0)
}

/// Servers and their clients, shared by all tests of this process. One pair does not trust, and one shares memory that
/// is not sealed.
struct Pair {
    clients: [EchoClient; 3],
}

/// Numbers that are more than 4 KiB.
const LARGE: usize = 1025;

/// Whether the clients trust their servers.
const TRUSTED: [bool; 3] = [true, false, true];

static PAIR: LazyLock<Pair> = LazyLock::new(|| {
    let pairs = [
        (Peers::SameUser, Memory::Memfd),
        (Peers::Nobody, Memory::Memfd),
        (Peers::SameUser, Memory::PosixShm),
    ];
    let clients = pairs.map(|(trust, memory)| {
        let place = Place::new();
        let server = Server::builder()
            .service(EchoServer::new(Mirror))
            .listen(place.endpoint())
            .trust(trust.clone())
            .memory(memory)
            .start()
            .unwrap();
        let client = EchoClient::builder().trust(trust).memory(memory).timeout(Duration::from_secs(60));
        let client = client.connect(place.endpoint()).unwrap();
        // The connection stands without the socket's name, so that nothing is left behind when the process ends.
        drop(place);
        std::mem::forget(server);
        client
    });
    Pair { clients }
});

struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("shmrpc-roundtrip-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn endpoint(&self) -> String {
        format!("shm:{}/s", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Nothing),
        any::<u64>().prop_map(Shape::Circle),
        (any::<u32>(), any::<u32>(), ".{0,20}").prop_map(|(width, height, label)| Shape::Box {
            width,
            height,
            label
        }),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = any::<u32>().prop_map(|value| Tree { value, children: vec![] });
    leaf.prop_recursive(6, 24, 4, |inner| {
        (any::<u32>(), vec(inner, 0..4)).prop_map(|(value, children)| Tree { value, children })
    })
}

fn numbers() -> impl Strategy<Value = Numbers> {
    (any::<(u8, i8, u16, i16)>(), any::<(u32, i32, u64, i64)>(), any::<(u128, i128)>(), any::<(bool, char)>())
        .prop_map(|(small, middle, large, (truth, letter))| Numbers { small, middle, large, truth, letter })
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn even() -> impl Strategy<Value = Even> {
    Just(Even { odds: vec![] }).prop_recursive(4, 16, 4, |inner| {
        let end = any::<u8>().prop_map(|value| Odd::End { value });
        let page = (vec(inner.clone(), 0..3), proptest::option::of(inner.prop_map(Box::new)));
        let odd = prop_oneof![end, page.prop_map(|(items, next)| Odd::Even(Page { items, next }))];
        vec(odd, 0..4).prop_map(|odds| Even { odds })
    })
}

prop_compose! {
    fn rest()(
        not_zero in (1..=u8::MAX, any::<i128>()),
        boxed in (".{0,9}", vec(any::<u16>(), 0..9), vec(".{0,9}", 0..4)),
        c in "[^\0]{0,9}",
        socket in (address(), any::<u16>()),
        (range, inclusive) in any::<((u32, u32), (i64, i64))>(),
        bound in prop_oneof![
            Just(Bound::Unbounded), any::<u8>().prop_map(Bound::Included), any::<u8>().prop_map(Bound::Excluded),
        ],
        open in (any::<i16>(), any::<char>(), ".{0,9}"),
        floats in vec((proptest::num::f32::NORMAL, proptest::num::f64::NORMAL), 0..9),
        even in even(),
    ) -> Rest {
        Rest {
            not_zero: (NonZeroU8::new(not_zero.0).unwrap(), NonZeroI128::new(not_zero.1)),
            boxed: (boxed.0.into(), boxed.1.into(), boxed.2.into()),
            c: CString::new(c).unwrap(),
            socket: socket.into(),
            ranges: (range.0..range.1, inclusive.0..=inclusive.1, bound),
            open: (open.0.., ..open.1, ..=open.2),
            floats,
            even,
        }
    }
}

prop_compose! {
    fn everything()(
        numbers in numbers(),
        text in ".{0,60}",
        maybe in proptest::option::of(".{0,9}"),
        either in prop_oneof![any::<u32>().prop_map(Ok), ".{0,9}".prop_map(Err)],
        nested in vec(vec(any::<u16>(), 0..5), 0..5),
        array in any::<[u32; 3]>(),
        (shapes, page, tree) in (
            vec(shape(), 0..6),
            (vec(shape(), 0..3), proptest::option::of(shape().prop_map(Box::new)))
                .prop_map(|(items, next)| Page { items, next }),
            tree(),
        ),
        hash in hash_map(".{0,9}", any::<u32>(), 0..20),
        (tree_map, hash_set, tree_set) in (
            btree_map(any::<u16>(), vec(any::<u8>(), 0..9), 0..9),
            hash_set(any::<u64>(), 0..40),
            btree_set(".{0,9}", 0..9),
        ),
        (queue, time, addresses, rest) in (
            // Now and then more than is ever copied for a trusted peer.
            prop_oneof![3 => vec(any::<i32>(), 0..9), 1 => vec(any::<i32>(), LARGE..LARGE + 100)]
                .prop_map(VecDeque::from),
            (any::<u64>(), 0..1_000_000_000u32).prop_map(|(s, n)| Duration::new(s, n)),
            vec(address(), 0..4),
            rest(),
        ),
    ) -> Everything {
        Everything {
            numbers, text, maybe, either, nested, array, shapes, page, tree, hash, tree_map, hash_set, tree_set,
            queue, time, addresses, rest,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_survives(value in everything()) {
        for (client, trusted) in PAIR.clients.iter().zip(TRUSTED) {
            prop_assert_eq!(&client.everything(value.clone()).unwrap(), &value);
            let view = client.view().everything(value.clone()).unwrap();
            prop_assert_eq!(&view.to_owned().unwrap(), &value);
            prop_assert!(value.queue.len() < LARGE || view.is_in_place() == trusted);
            let told = format!("{} {} {}", value.text, value.shapes.len(), value.numbers.middle.2);
            prop_assert_eq!(client.archived(&value).unwrap(), told);
            prop_assert_eq!(client.refused(value.clone()), Err(CallError::Service(Box::new(value.clone()))));
        }
    }

    #[test]
    fn floats_keep_their_bits(a in any::<u64>(), b in any::<u32>()) {
        for client in &PAIR.clients {
            prop_assert_eq!(client.float_bits(f64::from_bits(a), f32::from_bits(b)).unwrap(), (a, b));
        }
    }

    #[test]
    fn text_survives(value in ".{0,200}") {
        for client in &PAIR.clients {
            prop_assert_eq!(&client.text(&value).unwrap(), &value);
        }
    }

    #[test]
    fn slices_of_numbers_survive(
        a in vec(any::<u16>(), 0..300), b in vec(-1000..1000i64, 0..300), c in vec(0..100u8, 0..300),
    ) {
        let floats: Vec<f32> = c.iter().copied().map(f32::from).collect();
        let doubles: Vec<f64> = c.iter().copied().map(f64::from).collect();
        let total: f64 = doubles.iter().sum::<f64>() * 2.0;
        let expected = (a.iter().copied().map(u64::from).sum(), b.iter().sum(), total);
        for client in &PAIR.clients {
            prop_assert_eq!(client.sums(&a, &b, &floats, &doubles).unwrap(), expected);
        }
    }
}

/// Around every border: what fits a slot, what is copied, what grows the arena.
#[test]
fn bytes_of_every_length_survive() {
    let borders = [0usize, 32, 40, 4096, 65_536, 1 << 20, 5 << 20];
    let around = |border: &usize| {
        let by = if *border < 10_000 { 9 } else { 1 };
        border.saturating_sub(by)..=border + by
    };
    let lengths = borders.iter().flat_map(around);
    let all: Vec<u8> = (0..(5u32 << 20) + 9).map(|at| (at % 251) as u8).collect();
    for length in lengths {
        for (client, trusted) in PAIR.clients.iter().zip(TRUSTED) {
            let part = &all[..length];
            assert!(client.bytes(part).unwrap() == part, "{length} bytes");
            let view = client.view().bytes(part).unwrap();
            assert!(view.as_slice() == part, "{length} bytes");
            assert_eq!(view.is_in_place(), trusted && length + 8 > 4096, "{length} bytes");
        }
    }
}

#[test]
fn plain_calls() {
    for client in &PAIR.clients {
        client.nothing().unwrap();
        assert_eq!(client.wide(u128::MAX - 1).unwrap(), u128::MAX - 1);
        assert_eq!(client.default_body(1).unwrap(), 2);
        let (pid, timeout) = client.with_timeout(Duration::from_secs(3)).context().unwrap();
        assert_eq!(pid, std::process::id() as i32);
        // What the call waited for a lane, which others may use, is not in it.
        assert!((1..=3000).contains(&timeout), "{timeout}");
    }
}

/// A vector of trees is one level, and each tree's own vector is another.
fn chain(levels: u32) -> Tree {
    let mut tree = Tree { value: 0, children: vec![] };
    for value in 1..levels {
        tree = Tree { value, children: vec![tree] };
    }
    tree
}

/// Takes a tree apart without recursion, so that dropping a deep one does not overflow the stack.
fn dismantle(tree: Tree) {
    let mut rest = vec![tree];
    while let Some(mut tree) = rest.pop() {
        rest.append(&mut tree.children);
    }
}

#[test]
fn nesting_ends_in_an_error_before_it_ends_in_a_crash() {
    let client = &PAIR.clients[0];
    let mut deepest = 0;
    for levels in 1..140 {
        match client.tree(chain(levels)) {
            Ok(found) => {
                assert_eq!(
                    (found, levels),
                    (levels, deepest + 1),
                    "a deeper value passed after a refused one"
                );
                deepest = levels;
            }
            // What the encoder lets through, the server takes: nothing is refused there.
            Err(error) => assert!(matches!(error, CallError::NotEncoded(_)), "{levels}: {error}"),
        }
    }
    assert!((100..=128).contains(&deepest), "{deepest}");
}

/// Compiles for what threads may share for as long as they like.
fn shared<T: Send + Sync + 'static>(_: &T) {}

#[test]
fn a_view_outlives_its_client_and_moves_between_threads() {
    let place = Place::new();
    let server = Server::builder().service(EchoServer::new(Mirror)).listen(place.endpoint()).start().unwrap();
    let client = EchoClient::connect(place.endpoint()).unwrap();
    let view = client.view().bytes(&vec![7; 1 << 20]).unwrap();
    assert!(view.is_in_place());
    shared(&view);
    drop(client);
    drop(server);
    let sum =
        std::thread::spawn(move || view.iter().map(|byte| u64::from(*byte)).sum::<u64>()).join().unwrap();
    assert_eq!(sum, 7 << 20);
    dismantle(chain(10));
}

#[test]
fn views_are_given_back() {
    let bytes = vec![1; 1 << 20];
    for (client, rounds) in [(&PAIR.clients[0], 400), (&PAIR.clients[2], 60)] {
        // Far more than the arena holds, were it not given back; in another order than it came.
        let mut held = std::collections::VecDeque::new();
        for round in 0..rounds {
            held.push_back(client.view().bytes(&bytes).unwrap());
            if round % 3 != 0 {
                held.swap(0, round % held.len());
                held.pop_front();
            }
            if held.len() > 8 {
                held.pop_back();
            }
        }
        assert!(held.iter().all(|view| view.len() == bytes.len()));
    }
}

/// A hundred thousand levels: the error comes from the encoder, on a thread with an ordinary stack.
#[test]
fn a_very_deep_value_is_refused() {
    let client = PAIR.clients[0].clone();
    let deep = chain(100_000);
    let archived = client.sees(&deep);
    assert!(matches!(archived, Err(CallError::NotEncoded(_))), "{archived:?}");
    dismantle(deep);
}

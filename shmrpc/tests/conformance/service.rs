//! What is served on every ground, and what clients of another version take it for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use shmrpc::prelude::*;

use crate::support::Gate;
use crate::support::process::say;

/// The bytes of every large payload: made and compared in one go, since tests are compiled without optimisation.
pub(crate) static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..=250).collect::<Vec<u8>>().repeat((16 << 20) / 251 + 1));

/// The first ones.
pub(crate) fn pattern(length: u32) -> &'static [u8] {
    &PATTERN[..length as usize]
}

#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[shmrpc::message]
pub(crate) enum Missing {
    #[error("no such key: {0}")]
    Key(String),
}

/// As deep as one likes.
#[derive(Debug, Clone, PartialEq)]
#[shmrpc::message(recursive)]
pub(crate) struct Nest {
    pub(crate) inner: Option<Box<Nest>>,
}

impl Nest {
    pub(crate) fn of(depth: u32) -> Self {
        (0..depth).fold(Self { inner: None }, |nest, _| Self { inner: Some(Box::new(nest)) })
    }

    fn depth(&self) -> u32 {
        std::iter::successors(self.inner.as_ref(), |nest| nest.inner.as_ref()).count() as u32
    }
}

#[shmrpc::service]
pub(crate) trait Work {
    fn add(&self, a: u32, b: u32) -> u32;
    fn get(&self, key: &str) -> Result<Entry, Missing>;
    fn echo(&self, text: &str) -> String;
    fn flip(&self, on: bool) -> bool;
    fn depth(&self, nest: Nest) -> u32;
    /// Whether they are the first bytes of the pattern.
    fn is_pattern(&self, bytes: &[u8]) -> bool;
    /// The first bytes of the pattern.
    fn pattern(&self, length: u32) -> Vec<u8>;
    /// The first bytes of the pattern, once somebody opens the gate.
    fn pattern_later(&self, length: u32) -> Vec<u8>;
    fn nothing(&self);
    #[oneway]
    fn note(&self, thread: u32, number: u32);
    fn noted(&self, thread: u32) -> Vec<u32>;
    /// Waits at the gate, with its argument.
    fn hold(&self, bytes: &[u8]) -> u32;
    /// The same, with an argument that is its own.
    fn hold_own(&self, bytes: Vec<u8>) -> u32;
    fn wait(&self) -> u32;
    #[oneway]
    fn linger(&self, bytes: &[u8]);
    /// Process, user and group of the caller, and what it is called in a log.
    fn caller(&self, ctx: &Context) -> (Option<(Option<i32>, u32, u32)>, String);
    fn panic(&self, text: &str);
    /// Panics with an argument that is its own.
    fn spend(&self, bytes: Vec<u8>);
    #[oneway]
    fn panic_alone(&self);
    fn mean(&self, frame: Blob<f32>) -> f32;
    fn render(&self, ctx: &Context, length: u32) -> Blob<u16>;
    fn find(&self, key: &str) -> Result<Blob, Missing>;
    fn keep(&self, frame: Blob) -> u64;
    /// What it was given.
    fn back(&self, frame: Blob) -> Blob;
    fn kept(&self) -> u64;
    fn forget(&self);
    /// Handlers that have begun, but for this one.
    fn ran(&self) -> u64;
}

pub(crate) struct Worker {
    notes: Mutex<HashMap<u32, Vec<u32>>>,
    kept: Mutex<Vec<Blob>>,
    gate: Gate,
    /// Whether the parent is told who comes to the gate.
    pub(crate) aloud: bool,
    ran: AtomicU64,
    inside: AtomicU32,
    pub(crate) most_inside: AtomicU32,
}

impl Worker {
    pub(crate) fn new(gate: Gate) -> Self {
        Self {
            notes: Mutex::default(),
            kept: Mutex::default(),
            gate,
            aloud: false,
            ran: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            most_inside: AtomicU32::new(0),
        }
    }

    /// Handlers that have begun.
    pub(crate) fn ran(&self) -> u64 {
        self.ran.load(Ordering::SeqCst)
    }

    /// What a thread noted.
    pub(crate) fn noted_of(&self, thread: u32) -> Vec<u32> {
        self.notes.lock().unwrap().get(&thread).cloned().unwrap_or_default()
    }

    fn count(&self) {
        self.ran.fetch_add(1, Ordering::SeqCst);
    }

    fn pass(&self) {
        self.count();
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_inside.fetch_max(inside, Ordering::SeqCst);
        if self.aloud {
            say("in");
        }
        self.gate.pass();
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Work for Arc<Worker> {
    fn add(&self, a: u32, b: u32) -> u32 {
        self.count();
        a.wrapping_add(b)
    }
    fn get(&self, key: &str) -> Result<Entry, Missing> {
        self.count();
        match key {
            "none" | "" => Err(Missing::Key(key.into())),
            _ => Ok(Entry { key: key.into(), value: key.repeat(100).into() }),
        }
    }
    fn echo(&self, text: &str) -> String {
        self.count();
        text.into()
    }
    fn flip(&self, on: bool) -> bool {
        self.count();
        !on
    }
    fn depth(&self, nest: Nest) -> u32 {
        self.count();
        nest.depth()
    }
    fn is_pattern(&self, bytes: &[u8]) -> bool {
        self.count();
        bytes == pattern(bytes.len() as u32)
    }
    fn pattern(&self, length: u32) -> Vec<u8> {
        self.count();
        pattern(length).to_vec()
    }
    fn pattern_later(&self, length: u32) -> Vec<u8> {
        self.pass();
        pattern(length).to_vec()
    }
    fn nothing(&self) {
        self.count();
    }
    fn note(&self, thread: u32, number: u32) {
        self.count();
        self.notes.lock().unwrap().entry(thread).or_default().push(number);
    }
    fn noted(&self, thread: u32) -> Vec<u32> {
        self.count();
        self.noted_of(thread)
    }
    fn hold(&self, bytes: &[u8]) -> u32 {
        self.pass();
        bytes.len() as u32
    }
    fn hold_own(&self, bytes: Vec<u8>) -> u32 {
        self.hold(&bytes)
    }
    fn wait(&self) -> u32 {
        self.pass();
        42
    }
    fn linger(&self, _: &[u8]) {
        self.pass();
    }
    fn caller(&self, ctx: &Context) -> (Option<(Option<i32>, u32, u32)>, String) {
        let credentials = ctx.peer().credentials().map(|who| (who.pid, who.uid, who.gid));
        (credentials, ctx.peer().to_string())
    }
    fn spend(&self, bytes: Vec<u8>) {
        panic!("{} bytes", bytes.len());
    }
    fn panic(&self, text: &str) {
        self.count();
        panic!("told to: {text}");
    }
    fn panic_alone(&self) {
        self.count();
        panic!("nobody hears this");
    }
    fn mean(&self, frame: Blob<f32>) -> f32 {
        self.count();
        frame.iter().sum::<f32>() / frame.len() as f32
    }
    fn render(&self, ctx: &Context, length: u32) -> Blob<u16> {
        self.count();
        let mut frame = ctx.blob::<u16>(length as usize + 10);
        frame.fill(7);
        frame.truncate(length as usize);
        frame.into()
    }
    fn find(&self, key: &str) -> Result<Blob, Missing> {
        self.count();
        match key {
            "none" => Err(Missing::Key(key.into())),
            _ => Ok(key.as_bytes().to_vec().into()),
        }
    }
    fn keep(&self, frame: Blob) -> u64 {
        self.count();
        let mut kept = self.kept.lock().unwrap();
        kept.push(frame);
        kept.len() as u64
    }
    fn back(&self, frame: Blob) -> Blob {
        self.count();
        frame
    }
    fn kept(&self) -> u64 {
        self.count();
        self.kept.lock().unwrap().iter().filter(|frame| frame.iter().all(|byte| *byte == 1)).count() as u64
    }
    fn forget(&self) {
        self.count();
        self.kept.lock().unwrap().clear();
    }
    fn ran(&self) -> u64 {
        Worker::ran(self)
    }
}

/// The same service as a later client knows it.
pub(crate) mod newer {
    #[shmrpc::service]
    pub(crate) trait Work {
        fn brand_new(&self, value: u32) -> u32;
        #[oneway]
        fn brand_new_oneway(&self);
        fn ran(&self) -> u64;
    }
}

/// The same service with another parameter.
pub(crate) mod other {
    #[shmrpc::service]
    pub(crate) trait Work {
        fn add(&self, a: u64, b: u32) -> u32;
    }
}

/// A service that nobody serves.
#[shmrpc::service]
pub(crate) trait Play {
    fn ball(&self) -> u32;
}

/// The same service, by somebody whose booleans are bytes.
pub(crate) mod liar {
    pub(crate) use crate::support::liar::Bool;

    #[shmrpc::service]
    pub(crate) trait Work {
        fn flip(&self, on: Bool) -> Bool;
    }

    /// Answers with what is neither true nor false.
    pub(crate) struct Neither;

    impl Work for Neither {
        fn flip(&self, on: Bool) -> Bool {
            Bool(on.0 + 2)
        }
    }
}

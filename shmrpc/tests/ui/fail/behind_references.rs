use shmrpc::prelude::*;
use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

pub struct NoMessage(u64);

#[shmrpc::message]
pub struct Entry {
    size: &'static usize,
    shared: Vec<&'static Rc<u8>>,
    dynamic: &'static dyn Send,
    texts: &'static [&'static str],
}

#[shmrpc::service]
pub trait Parameters {
    fn words(&self, a: &usize, b: &isize, c: &NonZeroUsize, d: &Vec<usize>, e: &Option<usize>) -> u64;
    fn shared(&self, a: &Rc<u8>, b: &Arc<Entry>, c: &Arc<str>, d: &Cow<str>, e: &Cow<[u8]>) -> u64;
    fn own(&self, a: &Self, b: &Option<Self>) -> u64;
    fn empty(&self, a: &Vec<()>, b: &[()]) -> u64;
    fn never(&self, a: &Box<dyn Send>, b: &dyn Send, c: &fn(), d: &*const u8) -> u64;
    fn slices(&self, a: &[Rc<usize>], b: &[NonZeroUsize], c: &[(usize, &str)], d: &[Self]) -> u64;
    fn inside(&self, a: Vec<&usize>, b: Option<&Vec<Rc<u8>>>, c: (&Self, u8)) -> u64;
    fn archives(&self, a: Vec<&Archived<usize>>, b: &&Archived<Rc<str>>, c: (Self, &Archived<u8>)) -> u64;
    fn twice(&self, a: &&usize, b: &&&[usize]) -> u64;
    fn blobs(&self, a: &Blob<usize>, b: &Blob<String>, c: &BlobMut, d: &Option<Blob>) -> u64;
    fn mutable(&self, a: &mut Vec<usize>, b: &mut Entry, c: &'static Entry) -> u64;
    fn wrapped(&self, a: Rc<usize>, b: Arc<[isize]>, c: Cow<'static, [usize]>) -> u64;
    fn unsized_parts(&self, a: [usize], b: Vec<[Rc<str>]>, c: &Vec<[&str]>, d: [Self]) -> u64;
    fn no_message(&self, a: &Option<NoMessage>, b: &[NoMessage]) -> u64;
}

#[shmrpc::service]
pub trait Results {
    fn words(&self) -> &[usize];
    fn shared(&self) -> &Rc<u8>;
    fn maybe(&self) -> Option<&usize>;
    fn own(&self) -> Result<&Self, &String>;
    fn never(&self) -> &dyn Send;
    fn texts(&self) -> &[&str];
    fn archive(&self) -> Archived<usize>;
    fn view(&self) -> View<Rc<u8>>;
    fn blob(&self) -> &Blob;
    fn blobs(&self) -> Result<&Blob<f32>, &OwnedFd>;
}

fn main() {}

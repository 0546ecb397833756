//! What is read of a message that is refused is refused no second time.

use shmrpc::prelude::*;

#[shmrpc::message]
#[derive(Debug, rkyv::Archive)]
#[rkyv(derive(Debug), archived = Other)]
pub struct Entry {
    key: String,
    pub size: usize,
    text: &'static str,
    sizes: Vec<(u8, isize)>,
    file: Option<OwnedFd>,
}

#[shmrpc::message]
#[derive(Debug, Clone)]
#[rkyv(compare(PartialEq))]
#[repr(u16)]
pub enum Change<T> {
    Put { key: String, value: T, at: usize },
    Removed(String, #[rkyv(niche)] Vec<(T, usize)>),
    Cleared = 300,
}

#[shmrpc::message]
#[repr(packed)]
pub struct Meters(pub u64, std::rc::Rc<u8>);

#[shmrpc::message]
pub struct Node<'a> {
    name: &'a str,
    next: Option<&'a Self>,
    also: Vec<Self>,
}

#[shmrpc::message]
pub struct Bounded<'a, T: Clone + 'a, const N: usize>
where
    &'a T: Copy,
{
    items: std::borrow::Cow<'a, [T]>,
    array: [T; N],
}

#[shmrpc::message]
pub union Bits {
    int: u32,
    float: f32,
}

#[shmrpc::service]
pub trait Kv {
    fn get(&self, key: &str) -> Entry;
    fn put(&self, entry: &Archived<Entry>, change: &Archived<Change<u32>>) -> Result<Meters, Change<Entry>>;
    fn bits(&self, bits: Bits) -> Bits;
}

struct MyKv;

impl Kv for MyKv {
    fn get(&self, key: &str) -> Entry {
        Entry { key: key.to_owned(), size: 1, text: "", sizes: vec![], file: None }
    }
    fn put(&self, entry: &Archived<Entry>, change: &Archived<Change<u32>>) -> Result<Meters, Change<Entry>> {
        let (length, text): (usize, &str) = (entry.key.len(), entry.text.as_str());
        let size: u64 = entry.size.to_native();
        println!("{entry:?} {text} {}", entry.sizes[0].1);
        match change {
            ArchivedChange::Put { key, value, at } => println!("{key} {value} {at}"),
            ArchivedChange::Removed(key, values) => println!("{key} {}", values[0].0),
            ArchivedChange::Cleared => {}
        }
        Ok(Meters(size + length as u64, 1.into()))
    }
    fn bits(&self, bits: Bits) -> Bits {
        bits
    }
}

pub fn name<'a>(node: &'a ArchivedNode<'a>) -> &'a str {
    node.next.as_ref().map_or(&node.name, |next| &next.name)
}

pub fn first<'a>(bounded: &'a ArchivedBounded<'static, String, 2>) -> &'a str {
    bounded.array.first().unwrap_or(&bounded.items[0])
}

fn main() {
    let _ = Server::builder().service(KvServer::new(MyKv));
    let kv = KvClient::connect("shm:kv").unwrap();
    println!("{}", kv.view().get("a").unwrap().key);
    let entry = kv.get("a").unwrap();
    let ArchivedMeters(meters, _) = &*kv.view().put(&entry, &Change::Cleared).unwrap();
    println!("{meters}");
    let _: Bits = kv.bits(Bits { int: 1 }).unwrap();
    let _ = Node { name: "", next: None, also: Vec::new() };
}

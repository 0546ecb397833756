//! Types that rkyv archives, and that are no messages.

use std::marker::PhantomPinned;
use std::mem::ManuallyDrop;
use std::ops::RangeFull;
use std::rc::Rc;

use shmrpc::private::rkyv;

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[rkyv(crate = shmrpc::private::rkyv)]
pub struct Point(u64);

#[derive(rkyv::Archive, rkyv::Serialize)]
#[rkyv(crate = shmrpc::private::rkyv)]
pub struct Written(u64);

pub type Shared = Rc<u8>;

#[shmrpc::message]
pub struct Held {
    point: Point,
    written: Vec<Written>,
    full: RangeFull,
    dropped: Option<ManuallyDrop<u8>>,
    shared: Shared,
}

#[shmrpc::message]
pub struct Plain {
    point: Point,
    full: RangeFull,
    pinned: PhantomPinned,
}

#[shmrpc::service]
pub trait Points {
    fn point(&self, point: Point, written: Written) -> Shared;
    fn full(&self, full: RangeFull, dropped: ManuallyDrop<u8>) -> Result<PhantomPinned, Point>;
}

fn main() {}

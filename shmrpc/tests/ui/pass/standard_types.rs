//! Every type of the standard library that is a message, as a field and as a parameter.

#![deny(missing_docs, warnings)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::*;
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::time::Duration;

use shmrpc::prelude::*;

macro_rules! all {
    ($($name:ident: $type:ty,)*) => {
        /// As fields.
        #[shmrpc::message]
        pub struct Fields {
            $(
                /// One.
                pub $name: $type,
            )*
        }

        /// As parameters and results.
        #[shmrpc::service]
        pub trait Methods {
            $(
                /// One.
                fn $name(&self, value: $type, archive: &Archived<$type>) -> Result<$type, $type>;
            )*
        }
    };
}

all! {
    numbers: (u8, u16, u32, u64, u128, f32),
    signed: (i8, i16, i32, i64, i128, f64),
    other: (bool, char, (), String, CString, Duration),
    non_zero: (NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128),
    non_zero_signed: (NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128),
    addresses: (Ipv4Addr, Ipv6Addr, IpAddr, SocketAddrV4, SocketAddrV6, SocketAddr),
    boxes: (Box<u8>, Box<[String]>, Box<str>),
    lists: (Vec<String>, VecDeque<u8>, [String; 3], [u8; 0]),
    options: (Option<String>, Result<u8, String>, Bound<u32>),
    maps: (HashMap<String, u8>, HashSet<char>, BTreeMap<String, Vec<u8>>, BTreeSet<(u8, i8)>),
    ranges: (Range<u32>, RangeInclusive<u32>, RangeFrom<u32>, RangeTo<u32>, RangeToInclusive<u32>),
    single: (u8,),
    longest: (u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8),
}

fn main() {
    assert_eq!(MethodsClient::schema().methods.len(), 13);
}

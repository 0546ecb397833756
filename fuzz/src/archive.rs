//! Values as they travel, by rkyv's own way to write and to read.

use shmrpc_transport::rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use shmrpc_transport::rkyv::bytecheck::CheckBytes;
use shmrpc_transport::rkyv::rancor::Failure;
use shmrpc_transport::rkyv::ser::allocator::ArenaHandle;
use shmrpc_transport::rkyv::util::AlignedVec;
use shmrpc_transport::rkyv::{self, Archive, Deserialize, Serialize};

pub(crate) fn encode<T>(value: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Failure>>,
{
    rkyv::to_bytes::<Failure>(value).expect("a value that can be archived").to_vec()
}

/// What rkyv's own way to read makes of a copy.
pub(crate) fn decode<T>(payload: &[u8]) -> Option<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>> + Deserialize<T, HighDeserializer<Failure>>,
{
    let mut aligned = AlignedVec::<64>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    rkyv::from_bytes::<T, Failure>(&aligned).ok()
}

//! Descriptors as arguments and results: what stands for them inside a message.

use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;

use shmrpc_transport::descriptors::{ArchivedNth, Descriptors, Nth};
use shmrpc_transport::message::{Decoder, Encoder, Refusal};
use shmrpc_transport::rkyv::{Archive, Deserialize, Place, Resolver, Serialize};

use crate::arg::Arg;
use crate::schema::Declared;
use crate::{Describe, Message, Schema};

/// A descriptor inside a message, as its receiver validates it.
#[derive(Debug)]
pub struct DescriptorWire(Nth);

/// A descriptor inside a message, as its sender writes it.
pub struct Handed {
    fd: Cell<Option<OwnedFd>>,
    at: Nth,
}

impl DescriptorWire {
    /// The only one of a result.
    pub(crate) const RESULT: Self = Self(Nth(0));
}

impl Handed {
    /// The descriptor that is sent `at` this place among those of its call.
    pub fn new(fd: impl Into<OwnedFd>, at: u32) -> Self {
        Self { fd: Cell::new(Some(fd.into())), at: Nth(at) }
    }
}

impl fmt::Debug for Handed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Handed").field("at", &self.at).finish_non_exhaustive()
    }
}

/// What is wrong with a message that names a descriptor which it does not have.
#[cold]
pub(crate) fn not_among(at: &ArchivedNth, came: &Descriptors) -> String {
    format!("it names the descriptor at {}, again or none, and {} came with it", at.0, came.len())
}

impl Schema for DescriptorWire {
    fn describe(to: &mut Describe) {
        to.descriptor();
    }
}

impl Message for DescriptorWire {}
impl Declared for DescriptorWire {}

impl Arg for Handed {
    const DESCRIPTOR: bool = true;

    fn hand_over(&self) -> Option<OwnedFd> {
        self.fd.take()
    }
}

impl Archive for DescriptorWire {
    type Archived = ArchivedNth;
    type Resolver = Resolver<Nth>;

    fn resolve(&self, resolver: Self::Resolver, out: Place<ArchivedNth>) {
        self.0.resolve(resolver, out);
    }
}

impl<'s> Serialize<Encoder<'s>> for DescriptorWire {
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<Self::Resolver, Refusal> {
        self.0.serialize(encoder)
    }
}

impl Deserialize<DescriptorWire, Decoder> for ArchivedNth {
    fn deserialize(&self, decoder: &mut Decoder) -> Result<DescriptorWire, Refusal> {
        Ok(DescriptorWire(self.deserialize(decoder)?))
    }
}

impl Archive for Handed {
    type Archived = ArchivedNth;
    type Resolver = Resolver<Nth>;

    fn resolve(&self, resolver: Self::Resolver, out: Place<ArchivedNth>) {
        self.at.resolve(resolver, out);
    }
}

impl<'s> Serialize<Encoder<'s>> for Handed {
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<Self::Resolver, Refusal> {
        self.at.serialize(encoder)
    }
}

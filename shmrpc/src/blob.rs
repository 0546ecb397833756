//! Blobs as arguments and results: what they look like inside a message.

use std::marker::PhantomData;
use std::sync::Arc;

use shmrpc_transport::connection::{ArchivedOnWire, Connection, Loaned, OnWire};
use shmrpc_transport::message::{Decoder, EncodeError, Encoder, Number, Refusal};
use shmrpc_transport::rkyv::{Archive, Deserialize, Place, Resolver, Serialize};

use crate::arg::Arg;
use crate::schema::Declared;
use crate::{Describe, Message, Schema};

/// A blob inside a message, as its receiver validates it.
#[derive(Debug)]
pub struct BlobWire<T>(OnWire, PhantomData<T>);

/// A blob inside a message, as its sender writes it.
#[derive(Debug)]
pub struct Loan<T>(pub(crate) Loaned<T>);

impl<T: 'static + Schema> Schema for BlobWire<T> {
    fn describe(to: &mut Describe) {
        to.primitive("Blob<");
        T::describe(to);
        to.primitive(">");
    }
}

impl<T: 'static + Schema + Number> Message for BlobWire<T> {}
impl<T> Declared for BlobWire<T> {}

impl<T: Number> Arg for Loan<T> {
    const BLOB: bool = true;

    fn prepare(&self, connection: &Arc<Connection>) -> Result<(), EncodeError> {
        self.0.prepare(connection)
    }

    fn settle(&self, published: bool) {
        self.0.settle(published);
    }
}

impl<T> Archive for BlobWire<T> {
    type Archived = ArchivedOnWire;
    type Resolver = Resolver<OnWire>;

    fn resolve(&self, resolver: Self::Resolver, out: Place<ArchivedOnWire>) {
        self.0.resolve(resolver, out);
    }
}

impl<'s, T> Serialize<Encoder<'s>> for BlobWire<T> {
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<Self::Resolver, Refusal> {
        self.0.serialize(encoder)
    }
}

impl<T> Deserialize<BlobWire<T>, Decoder> for ArchivedOnWire {
    fn deserialize(&self, decoder: &mut Decoder) -> Result<BlobWire<T>, Refusal> {
        Ok(BlobWire(self.deserialize(decoder)?, PhantomData))
    }
}

impl<T: Number> Archive for Loan<T> {
    type Archived = ArchivedOnWire;
    type Resolver = Resolver<OnWire>;

    fn resolve(&self, resolver: Self::Resolver, out: Place<ArchivedOnWire>) {
        self.0.wire().resolve(resolver, out);
    }
}

impl<'s, T: Number> Serialize<Encoder<'s>> for Loan<T> {
    fn serialize(&self, encoder: &mut Encoder<'s>) -> Result<Self::Resolver, Refusal> {
        self.0.wire().serialize(encoder)
    }
}

//! Blobs inside messages: what the product must find there, and what it sends itself.

use shmrpc_transport::connection::OnWire;
use shmrpc_transport::message::SMALL;
use shmrpc_transport::slot::Kind;

use super::{Due, End, Script};
use crate::lane::service::{Answer, Call};
use crate::service::is_block;

/// A blob inside a message.
#[derive(Debug)]
pub(super) enum Borne {
    /// What it holds, and its block, if it is in one.
    Bytes(Vec<u8>, Option<Block>),
    /// So many bytes that are to be copied.
    ToCopy(usize, Block),
    /// In memory that there is not.
    Bad,
}

/// A blob that the product sends.
#[derive(Debug, PartialEq)]
pub(super) enum Lent {
    Nothing,
    Bytes(Vec<u8>),
    /// In memory that is not mapped here.
    Elsewhere,
}

impl Lent {
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// An id and a generation.
pub(super) type Block = (u32, u32);

pub(super) fn block_of(wire: &OnWire) -> Option<Block> {
    match wire {
        OnWire::Bytes(_) => None,
        OnWire::Block { id, generation, .. } => Some((*id, *generation)),
    }
}

impl Due {
    /// What its blob holds.
    pub(in crate::lane) fn blob(&self) -> Option<&[u8]> {
        match &self.blob {
            Some(Borne::Bytes(bytes, _)) => Some(bytes),
            _ => None,
        }
    }

    /// Blocks that are given back after it.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + Clone {
        let own = self.generation.map(|generation| (self.header.block, generation));
        let blob = match &self.blob {
            Some(Borne::Bytes(_, block)) => *block,
            _ => None,
        };
        own.into_iter().chain(blob)
    }
}

impl Script {
    /// Finds the blob in a payload, as soon as that is there.
    pub(super) fn looked_into(&mut self, mut due: Due) -> Due {
        let payload = due.payload.as_deref();
        let wire = payload.and_then(|payload| match due.header.kind {
            _ if self.serves => Call::blob(due.header.method, payload),
            Kind::Reply => Answer::blob(self.asked, payload),
            _ => None,
        });
        due.blob = wire.map(|wire| match wire {
            OnWire::Bytes(bytes) => Borne::Bytes(bytes, None),
            OnWire::Block { id, segment, length, offset, .. } if !is_block(id, segment, length, offset) => {
                self.end = Some(End::Poisoned);
                Borne::Bad
            }
            OnWire::Block { id, generation, length, offset, .. } => {
                let (at, length, block) = (offset as usize, length as usize, (id, generation));
                match self.own.read(at, length) {
                    Some(bytes) if self.trusted && length > SMALL => Borne::Bytes(bytes, Some(block)),
                    _ => Borne::ToCopy(length, block),
                }
            }
        });
        due
    }

    /// Whether memory of the message is not given back. Of two blocks with one id only the last says so.
    pub(in crate::lane) fn is_held(&self, due: &Due) -> bool {
        if matches!(due.blob, Some(Borne::ToCopy(..))) {
            // A block that there is, and nobody has looked at it.
            return true;
        }
        let blocks = due.blocks();
        let is_alone = |id| blocks.clone().filter(|(other, _)| *other == id).count() == 1;
        blocks.clone().any(|(id, generation)| is_alone(id) && self.product.released(id) != generation)
    }

    /// The peer has said that it did not run the call: the product takes back what it lent with it.
    pub(in crate::lane) fn refused(&mut self) {
        if let Some((id, generation)) = self.borne.take()
            && self.lent.get(&id) == Some(&generation)
        {
            self.lent.remove(&id);
        }
    }

    /// The product sends a blob.
    pub(super) fn lent(&mut self, wire: Option<OnWire>) -> Lent {
        match wire {
            None => Lent::Nothing,
            Some(OnWire::Bytes(bytes)) => Lent::Bytes(bytes),
            Some(OnWire::Block { id, segment, generation, length, offset }) => {
                if self.lent.insert(id, generation).is_some() {
                    self.blame(format!("block {id} was lent twice"));
                }
                // Further segments are not mapped here.
                let found = self.product.read(offset as usize, length as usize).filter(|_| segment == 0);
                found.map_or(Lent::Elsewhere, Lent::Bytes)
            }
        }
    }
}

//! Loaned memory: filled in place by its sender, read in place by its receiver.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::cell::{Ref, RefCell};
use std::sync::Arc;
use std::time::Duration;

use rkyv::{Archive, Deserialize, Serialize};

use super::Connection;
use super::blocks::{BadBlock, OwnedBlock};
use crate::message::{EncodeError, Filling, Message, Number, Part, Recheck, SMALL};
use crate::slot::BlockRef;
use crate::sys::futex::Until;

/// Bytes that a message may have besides the blob in it, by what a caller can know of it beforehand.
const BESIDE: u64 = 64;

/// Numbers in memory that is sent as it is: filled in place, and not copied on its way where memory is shared.
///
/// A client's `blob(..)` or a handler's `Context::blob` makes one; so does `From<Vec<T>>`, which is copied when it is
/// sent. What it holds at first is unspecified: zeros, or what an earlier message to the same peer held.
pub struct BlobMut<T = u8> {
    store: Store<T>,
    /// Elements.
    length: usize,
}

enum Store<T> {
    Block { block: OwnedBlock, start: NonNull<u8> },
    Heap(Vec<T>),
}

// SAFETY: the pointer leads into a block that only this value knows of, in a mapping that it keeps.
unsafe impl<T: Send> Send for BlobMut<T> {}
// SAFETY: the same; it is written through `&mut` only.
unsafe impl<T: Sync> Sync for BlobMut<T> {}

/// Numbers in memory that is read as it is: where it arrived, if its sender is trusted and memory is shared; else copied
/// once. It may be kept; until it is dropped its memory counts as its sender's, or as a copy of his.
pub struct Blob<T = u8> {
    from: Origin<T>,
}

enum Origin<T> {
    /// One that this process made.
    Own(BlobMut<T>),
    Received(Message, PhantomData<T>),
}

/// How a blob travels inside a message.
#[derive(Debug, Archive, Serialize, Deserialize)]
pub enum OnWire {
    /// In a block of the sender's arena.
    Block {
        /// Names the release word.
        id: u32,
        /// The segment.
        segment: u32,
        /// What is written to the release word.
        generation: u32,
        /// Bytes.
        length: u32,
        /// Bytes from the start of the segment.
        offset: u64,
    },
    /// Inside the message.
    Bytes(Vec<u8>),
}

/// A blob on its way. What it lies in is the receiver's once [`Loaned::settle`] says so, and comes back else.
pub struct Loaned<T> {
    /// `None` once it is the receiver's.
    blob: RefCell<Option<Blob<T>>>,
    wire: RefCell<OnWire>,
}

/// Its numbers are any bits.
impl Recheck for ArchivedOnWire {}

impl<T: Number> Loaned<T> {
    /// One that goes nowhere yet.
    pub fn new(blob: Blob<T>) -> Self {
        Self { blob: RefCell::new(Some(blob)), wire: RefCell::new(OnWire::Bytes(Vec::new())) }
    }

    /// Gets it ready to travel over `connection`. One of another connection or of the heap is copied into a block of this
    /// one; if it is small, or there is no block now, into its message.
    ///
    /// # Errors
    /// [`EncodeError::System`] if the heap has no room for that copy, [`EncodeError::TooLarge`] if the peer takes no such message.
    pub fn prepare(&self, connection: &Arc<Connection>) -> Result<(), EncodeError> {
        let mut blob = self.blob.borrow_mut();
        let Some(present) = &mut *blob else { return Ok(()) };
        if let Some(copy) = connection.own_copy(present) {
            *present = copy.into();
        }
        *self.wire.borrow_mut() = match connection.on_wire(present) {
            Some(block) => block,
            None => OnWire::Bytes(connection.copied(bytes_of(present))?),
        };
        Ok(())
    }

    /// How it travels.
    pub fn wire(&self) -> Ref<'_, OnWire> {
        self.wire.borrow()
    }

    /// Whether the message was published, and not refused by who got it.
    pub fn settle(&self, published: bool) {
        if published
            && let Some(Blob { from: Origin::Own(BlobMut { store: Store::Block { block, .. }, .. }) }) =
                self.blob.take()
            && matches!(&*self.wire(), OnWire::Block { .. })
        {
            block.lend();
        }
    }
}

impl<T> fmt::Debug for Loaned<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Loaned").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// A blob that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BadBlob {
    /// It names memory that the peer does not have.
    #[error(transparent)]
    Block(#[from] Box<BadBlock>),
    /// It is no whole number of elements.
    #[error("a blob of {length} bytes has no whole number of elements of {size} bytes")]
    Length {
        /// Bytes.
        length: usize,
        /// Bytes of one.
        size: usize,
    },
    /// It was to be copied, and there was no room.
    #[error(transparent)]
    NoRoom(crate::message::Invalid),
}

impl Connection {
    /// Memory for `length` elements to send to the peer.
    ///
    /// # Errors
    /// [`EncodeError`] if it is more than the peer takes, or if none was to be had until the time was over.
    pub fn blob<T: Number + Default>(
        self: &Arc<Self>,
        length: usize,
        until: &mut Until,
    ) -> Result<BlobMut<T>, EncodeError> {
        let (needed, max) = (length.saturating_mul(size_of::<T>()), self.limits.send_max);
        // Where no memory is shared it travels inside its message.
        let beside = if self.shared.is_some() { 0 } else { BESIDE };
        if (needed as u64).saturating_add(beside) > max {
            return Err(EncodeError::TooLarge { needed: needed as u64, max });
        }
        let store = match self.block_for(needed, until)? {
            Some((block, start)) => Store::Block { block, start },
            None => return BlobMut::on_the_heap(length),
        };
        Ok(BlobMut { store, length })
    }

    /// A blob that does not lie in memory of this connection, in a block of it; `None` if that is not needed or cannot be.
    fn own_copy<T: Number>(self: &Arc<Self>, blob: &Blob<T>) -> Option<BlobMut<T>> {
        let is_own = matches!(
            &blob.from,
            Origin::Own(BlobMut { store: Store::Block { block, .. }, .. }) if block.is_of(self)
        );
        let bytes = size_of_val(&**blob);
        if is_own || bytes <= SMALL {
            return None;
        }
        let now = &mut Until::after(Duration::ZERO);
        let (block, start) = self.block_for(bytes, now).ok().flatten()?;
        let mut copy = BlobMut { store: Store::Block { block, start }, length: blob.len() };
        copy.copy_from_slice(blob);
        Some(copy)
    }

    /// A copy to travel inside a message.
    fn copied(&self, bytes: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let (needed, max) = (bytes.len() as u64, self.limits.send_max);
        if needed > max {
            return Err(EncodeError::TooLarge { needed, max });
        }
        let mut copy = room_on_the_heap(bytes.len())?;
        copy.extend_from_slice(bytes);
        Ok(copy)
    }

    /// Where it lies, if that is memory of this connection.
    fn on_wire<T: Number>(self: &Arc<Self>, blob: &mut Blob<T>) -> Option<OnWire> {
        let Origin::Own(BlobMut { store: Store::Block { block, .. }, length }) = &mut blob.from else {
            return None;
        };
        let length = u32::try_from(*length * size_of::<T>()).unwrap_or(u32::MAX);
        if !block.is_of(self) {
            return None;
        }
        block.shrink(length);
        let (id, BlockRef { segment, generation, offset }) = block.place()?;
        Some(OnWire::Block { id, segment, generation, length, offset })
    }

    /// Gives back what a blob lies in that has arrived and that nobody wants.
    ///
    /// # Errors
    /// [`BadBlock`]: memory that the peer does not have, which ends the connection.
    pub fn return_blob(self: &Arc<Self>, wire: &ArchivedOnWire) -> Result<(), Box<BadBlock>> {
        let ArchivedOnWire::Block { id, segment, generation, length, offset } = wire else { return Ok(()) };
        let (segment, generation) = (segment.to_native(), generation.to_native());
        let at = BlockRef { segment, generation, offset: offset.to_native() };
        self.loan(id.to_native(), length.to_native(), at).map(drop).inspect_err(|bad| drop(self.poison(bad)))
    }

    /// A blob that has arrived.
    ///
    /// # Errors
    /// [`BadBlob`]. Memory that the peer does not have ends the connection.
    pub fn receive_blob<T: Number>(self: &Arc<Self>, wire: &ArchivedOnWire) -> Result<Blob<T>, BadBlob> {
        let mut message = Message::empty();
        match wire {
            ArchivedOnWire::Block { id, segment, generation, length, offset } => {
                let (segment, generation) = (segment.to_native(), generation.to_native());
                let at = BlockRef { segment, generation, offset: offset.to_native() };
                let received =
                    self.receive_block(id.to_native(), length.to_native(), at, Part::Blob, &mut message);
                if let Err(bad) = received {
                    self.poison(&bad);
                    return Err(bad.into());
                }
            }
            ArchivedOnWire::Bytes(bytes) => {
                let mut filling = Filling::begin(bytes.len(), Part::Blob, &self.pool);
                let mut rest = bytes.as_slice();
                while !filling.is_full() && !rest.is_empty() {
                    let room = filling.room();
                    let (now, later) = rest.split_at(room.len().min(rest.len()));
                    room.get_mut(..now.len()).unwrap_or_default().copy_from_slice(now);
                    filling.advance(now.len());
                    rest = later;
                }
                filling.finish(&mut message);
            }
        }
        message.check_lost().map_err(BadBlob::NoRoom)?;
        match message.len() % size_of::<T>() {
            0 => Ok(Blob { from: Origin::Received(message, PhantomData) }),
            _ => Err(BadBlob::Length { length: message.len(), size: size_of::<T>() }),
        }
    }
}

/// An empty vector for so many elements.
fn room_on_the_heap<T>(length: usize) -> Result<Vec<T>, EncodeError> {
    let mut room = Vec::new();
    let lacking = |error| EncodeError::System(format!("a blob on the heap: {error}").into());
    room.try_reserve_exact(length).map_err(lacking)?;
    Ok(room)
}

fn bytes_of<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any byte is a `u8`.
    unsafe { core::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

impl<T> BlobMut<T> {
    /// Keeps the first `length` elements. Nothing happens if there are no more than that.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl<T: Number + Default> BlobMut<T> {
    /// Memory of the heap, which is copied when it is sent.
    ///
    /// # Errors
    /// [`EncodeError::System`] if the heap has no room.
    pub fn on_the_heap(length: usize) -> Result<Self, EncodeError> {
        let mut numbers = room_on_the_heap(length)?;
        numbers.resize(length, T::default());
        Ok(numbers.into())
    }
}

impl<T: Number> Deref for BlobMut<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.store {
            // SAFETY: the block has room for `length` numbers, is aligned to 64, was written to or is zero, and any bits
            // are numbers; it stays mapped and nobody else writes to it as long as we own it.
            Store::Block { start, .. } => unsafe {
                core::slice::from_raw_parts(start.as_ptr().cast(), self.length)
            },
            Store::Heap(numbers) => numbers.get(..self.length).unwrap_or_default(),
        }
    }
}

impl<T: Number> DerefMut for BlobMut<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.store {
            // SAFETY: as above; the receiver looks at it after it was sent, which takes it from us.
            Store::Block { start, .. } => unsafe {
                core::slice::from_raw_parts_mut(start.as_ptr().cast(), self.length)
            },
            Store::Heap(numbers) => numbers.get_mut(..self.length).unwrap_or_default(),
        }
    }
}

impl<T: Number> Deref for Blob<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.from {
            Origin::Own(own) => own,
            Origin::Received(message, _) => message.numbers(),
        }
    }
}

impl<T> Blob<T> {
    /// Whether it lies in the memory of its sender.
    pub fn is_in_place(&self) -> bool {
        matches!(&self.from, Origin::Received(message, _) if message.is_in_place())
    }
}

impl<T> From<BlobMut<T>> for Blob<T> {
    fn from(own: BlobMut<T>) -> Self {
        Self { from: Origin::Own(own) }
    }
}

impl<T> From<Vec<T>> for BlobMut<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self { length: numbers.len(), store: Store::Heap(numbers) }
    }
}

impl<T> From<Vec<T>> for Blob<T> {
    fn from(numbers: Vec<T>) -> Self {
        BlobMut::from(numbers).into()
    }
}

impl<T: Number> fmt::Debug for Blob<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Blob").field("len", &self.len()).field("in_place", &self.is_in_place()).finish()
    }
}

impl<T: Number> fmt::Debug for BlobMut<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BlobMut").field("len", &self.len()).finish_non_exhaustive()
    }
}

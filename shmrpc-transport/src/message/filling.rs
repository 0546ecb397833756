//! Payloads that come in pieces, over a stream.

use std::sync::Arc;

use super::pool::{Copied, Lost};
use super::{Elsewhere, Message, Part, Pool};

/// Bytes that are asked for at once. Memory is written to no faster than bytes arrive.
const PIECE: usize = 256 << 10;

/// A payload that comes in pieces.
#[derive(Debug)]
pub struct Filling {
    target: Target,
    filled: usize,
    length: usize,
}

#[derive(Debug)]
enum Target {
    Buffer(Box<Copied>),
    /// There is no room for it, so its bytes go nowhere.
    Nowhere(Box<Lost>, Box<[u8; 4096]>),
}

impl Filling {
    /// Room for `length` bytes. If there is none, they are dropped as they come, and the message says so.
    pub fn begin(length: usize, part: Part, pool: &Arc<Pool>) -> Self {
        let target = match part.room(length, pool) {
            Ok(copied) => Target::Buffer(Box::new(copied)),
            Err(lost) => Target::Nowhere(Box::new(lost), Box::new([0; 4096])),
        };
        Self { target, filled: 0, length }
    }

    /// Where the next bytes go. Empty when all are there.
    pub fn room(&mut self) -> &mut [u8] {
        let left = self.length - self.filled;
        match &mut self.target {
            Target::Buffer(copied) => {
                let end = self.filled + left.min(PIECE);
                copied.first(end).get_mut(self.filled..).unwrap_or_default()
            }
            Target::Nowhere(_, scratch) => {
                let piece = left.min(scratch.len());
                scratch.get_mut(..piece).unwrap_or_default()
            }
        }
    }

    /// Says that the first `bytes` of the room are filled.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = self.filled.saturating_add(bytes).min(self.length);
    }

    /// Whether all bytes are there.
    pub fn is_full(&self) -> bool {
        self.filled == self.length
    }

    /// The payload becomes that of `message`.
    pub fn finish(self, message: &mut Message) {
        message.clear();
        match self.target {
            Target::Buffer(copied) if self.filled == self.length => {
                message.length = self.length;
                message.elsewhere = Elsewhere::Copied(copied);
            }
            // Not all of it came: then it is as good as empty, and no type that has bytes is valid.
            Target::Buffer(_) => {}
            Target::Nowhere(lost, _) => message.elsewhere = Elsewhere::Lost(lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Invalid;
    use super::*;

    fn fill(mut filling: Filling, from: &[u8], step: usize) -> Message {
        let mut rest = from;
        while !filling.is_full() {
            let room = filling.room();
            let count = room.len().min(step).min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            filling.advance(count);
        }
        let mut message = Message::empty();
        filling.finish(&mut message);
        message
    }

    #[test]
    fn pieces_of_any_size_make_the_payload() {
        let pool = Pool::new(1 << 20);
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&(0..10_000_u32).collect::<Vec<_>>()).unwrap();
        for step in [1, 63, 4096, usize::MAX] {
            let message = fill(Filling::begin(bytes.len(), Part::Message, &pool), &bytes, step);
            assert_eq!(message.decode::<Vec<u32>>().unwrap().len(), 10_000);
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_says_so() {
        let pool = Pool::new(1000);
        let message = fill(Filling::begin(10_000, Part::Message, &pool), &[7; 10_000], 100);
        assert!(matches!(
            message.access::<Vec<u8>>(),
            Err(Invalid::NoRoomHere { length: 10_000, cap: 1000 })
        ));
    }
}

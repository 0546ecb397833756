//! Frames, cut out of a stream of bytes. Keeps its place between calls, so a wait that ended can go on.

use super::{Pause, Stream};
use crate::message::{Filling, Message, Part, Pool};
use crate::slot::{BLOCK_REF, BadHeader, FLAG_BLOCK, HEADER, Header, INLINE};
use crate::sys::futex::Until;
use std::sync::Arc;

/// Bytes that are read at once, unless they are known to belong to a large payload.
const ROOM: usize = 8192;

/// Puts frames together from whatever pieces a stream delivers.
#[derive(Debug)]
pub struct Reader {
    bytes: Box<[u8; ROOM]>,
    /// Bytes that were cut out already.
    start: usize,
    /// Bytes that have arrived.
    end: usize,
    /// The frame whose payload is not whole yet.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    header: Header,
    /// Where a large payload goes.
    filling: Option<Filling>,
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// Not now, or not any more.
    #[error(transparent)]
    Pause(#[from] Pause),
    /// A header that no peer of this version writes.
    #[error("bad frame: {0}")]
    Header(#[from] BadHeader),
    /// More than we take.
    #[error("a frame of {length} bytes is above the limit of {max}")]
    TooLarge {
        /// Payload bytes that the header names.
        length: u32,
        /// What we take.
        max: u64,
    },
}

impl Default for Reader {
    fn default() -> Self {
        Self { bytes: Box::new([0; ROOM]), start: 0, end: 0, partial: None }
    }
}

impl Reader {
    /// The next whole frame: its header; its payload becomes that of `message`. Of a payload in a block of the peer's, that
    /// is the reference. A wait that ends loses nothing.
    ///
    /// # Errors
    /// [`Cut`].
    pub fn next(
        &mut self,
        message: &mut Message,
        max: u64,
        pool: &Arc<Pool>,
        mut more: impl FnMut(&mut [u8]) -> Result<usize, Pause>,
    ) -> Result<Header, Cut> {
        loop {
            if let Some(header) = self.cut(message, max, pool)? {
                return Ok(header);
            }
            if let Some(Partial { filling: Some(filling), .. }) = &mut self.partial
                && self.start == self.end
            {
                let count = more(filling.room())?;
                filling.advance(count);
            } else {
                self.make_room();
                let room = self.bytes.get_mut(self.end..).unwrap_or_default();
                self.end = self.end.saturating_add(more(room)?).min(ROOM);
            }
        }
    }

    /// The same from `stream`, until the time is over, even if some bytes come all the time.
    ///
    /// # Errors
    /// [`Cut`].
    pub fn next_from(
        &mut self,
        stream: &Stream,
        message: &mut Message,
        max: u64,
        pool: &Arc<Pool>,
        until: &mut Until,
    ) -> Result<Header, Cut> {
        let mut pieces = 0_u32;
        self.next(message, max, pool, |room| {
            if pieces > 0 && until.is_over() {
                return Err(Pause::TimedOut);
            }
            pieces = pieces.saturating_add(1);
            stream.receive(room, until)
        })
    }

    /// Cuts a frame out of what has arrived.
    fn cut(&mut self, message: &mut Message, max: u64, pool: &Arc<Pool>) -> Result<Option<Header>, Cut> {
        if self.partial.is_none() {
            let Some((head, _)) = self.arrived().split_first_chunk::<HEADER>() else { return Ok(None) };
            let header = Header::from_frame(head)?;
            if u64::from(header.length) > max {
                return Err(Cut::TooLarge { length: header.length, max });
            }
            self.start += HEADER;
            let large = body(header) > INLINE;
            let filling = large.then(|| Filling::begin(body(header), Part::Message, pool));
            self.partial = Some(Partial { header, filling });
        }
        let arrived = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let header = partial.header;
        match &mut partial.filling {
            None => {
                let Some(payload) = arrived.get(..body(header)) else { return Ok(None) };
                message.set_short(payload);
                self.start += payload.len();
            }
            Some(filling) => {
                let mut rest = arrived;
                while !filling.is_full() && !rest.is_empty() {
                    let room = filling.room();
                    let count = room.len().min(rest.len());
                    let (now, later) = rest.split_at(count);
                    room.get_mut(..count).unwrap_or_default().copy_from_slice(now);
                    filling.advance(count);
                    rest = later;
                }
                self.start = self.end - rest.len();
                if !filling.is_full() {
                    return Ok(None);
                }
            }
        }
        let filling = self.partial.take().and_then(|partial| partial.filling);
        if let Some(filling) = filling {
            filling.finish(message);
        }
        Ok(Some(header))
    }

    /// Whether nothing has arrived beyond the last frame.
    pub fn is_empty(&self) -> bool {
        self.arrived().is_empty() && self.partial.is_none()
    }

    /// What has arrived beyond the last frame.
    pub fn into_rest(self) -> Vec<u8> {
        self.arrived().to_vec()
    }

    fn arrived(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// What has arrived moves to the front. It is less than a header and a short payload, so there is room behind it.
    fn make_room(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}

/// Bytes that follow a header on a stream.
fn body(header: Header) -> usize {
    if header.flags & FLAG_BLOCK != 0 { BLOCK_REF } else { header.length as usize }
}

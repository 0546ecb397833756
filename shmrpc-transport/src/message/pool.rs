//! Where payloads are copied to: room for so many bytes a connection, and buffers that stay warm while they are used.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::sys::fork::Generation;

/// Room for payloads that are copied, and warm buffers for them. One per connection: never shared between peers.
pub struct Pool {
    /// Bytes of copies that there may be at once; no more are kept warm.
    cap: u64,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// Buffers that nobody uses, the warmest last.
    buffers: Vec<Vec<Line>>,
    /// Bytes of the copies that there are.
    copied: u64,
    /// The fewest unused buffers that there were since the last [`Pool::trim`].
    idle: usize,
}

/// Buffers that a pool keeps.
const KEPT: usize = 4;

/// A payload in a buffer of our own; the buffer goes back to its pool.
pub(super) struct Copied {
    buffer: Vec<Line>,
    bytes: u64,
    pool: Arc<Pool>,
    process: Generation,
}

/// What buffers are made of, so that they have the alignment of a block.
#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A payload that could not be copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    pub(super) length: usize,
    /// The room that there is, if it is taken; else it was the system that had none.
    pub(super) cap: Option<u64>,
}

impl Copied {
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.buffer.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.as_mut_ptr().cast()
    }

    /// The first `bytes` of those that were asked for. What nobody has written yet is zero.
    pub(super) fn first(&mut self, bytes: usize) -> &mut [u8] {
        let lines = bytes.div_ceil(size_of::<Line>()).min(self.buffer.capacity());
        if self.buffer.len() < lines {
            self.buffer.resize(lines, Line([0; 64]));
        }
        let length = bytes.min(self.buffer.len() * size_of::<Line>());
        // SAFETY: so many bytes of the buffer's lines have been written, and the buffer is borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(self.as_mut_ptr(), length) }
    }
}

impl Pool {
    /// Room for copies of `cap` bytes in all.
    pub fn new(cap: u64) -> Arc<Self> {
        Arc::new(Self { cap, stock: Mutex::default() })
    }

    /// A buffer for `length` bytes: the warmest that is large enough, else the warmest, grown. A peer says how much is
    /// needed, so that there is no memory may not end the process.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Result<Copied, Lost> {
        let units = length.div_ceil(size_of::<Line>());
        let bytes = length as u64;
        let mut stock = self.stock.lock();
        let copied = stock.copied.saturating_add(bytes);
        if copied > self.cap {
            return Err(Lost { length, cap: Some(self.cap) });
        }
        let fits = stock.buffers.iter().rposition(|buffer| buffer.capacity() >= units);
        let mut buffer = match fits {
            Some(at) => stock.buffers.remove(at),
            None => stock.buffers.pop().unwrap_or_default(),
        };
        stock.idle = stock.idle.min(stock.buffers.len());
        stock.copied = copied;
        drop(stock);
        if buffer.capacity() < units {
            buffer = Vec::new();
            if buffer.try_reserve_exact(units).is_err() {
                self.stock.lock().copied -= bytes;
                return Err(Lost { length, cap: None });
            }
        }
        Ok(Copied { buffer, bytes, pool: Arc::clone(self), process: Generation::current() })
    }

    /// Whether buffers are kept.
    pub(crate) fn is_warm(&self) -> bool {
        !self.stock.lock().buffers.is_empty()
    }

    /// Gives up the buffers that nobody has needed since the last time.
    pub(crate) fn trim(&self) {
        let mut stock = self.stock.lock();
        let idle = stock.idle.min(stock.buffers.len());
        let cold: Vec<_> = stock.buffers.drain(..idle).collect();
        stock.idle = stock.buffers.len();
        drop(stock);
        drop(cold);
    }
}

impl core::fmt::Debug for Pool {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Pool").field("cap", &self.cap).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Copied {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Copied").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // In a forked child nobody is left to unlock what another thread of the parent had locked.
        if !self.process.is_current() {
            return;
        }
        let mut stock = self.pool.stock.lock();
        stock.copied -= self.bytes;
        let capacity: usize = stock.buffers.iter().map(Vec::capacity).sum();
        let bytes = (capacity + self.buffer.capacity()) * size_of::<Line>();
        if stock.buffers.len() < KEPT && bytes as u64 <= self.pool.cap {
            stock.buffers.push(core::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Invalid;
    use super::*;

    #[test]
    fn copies_have_no_more_room_than_they_may() {
        let pool = Pool::new(1000);
        let first = pool.take(600).unwrap();
        assert!(matches!(
            pool.take(401).map_err(Invalid::from),
            Err(Invalid::NoRoom { length: 401, cap: 1000 })
        ));
        let second = pool.take(400).unwrap();
        drop(first);
        assert!(pool.take(600).is_ok());
        drop(second);
        assert_eq!(pool.stock.lock().copied, 0);
        // 600 and 400 bytes in lines of 64.
        let kept: usize = pool.stock.lock().buffers.iter().map(Vec::capacity).sum();
        assert!(kept * 64 <= 1000, "{kept}");
    }

    #[test]
    fn what_is_not_used_does_not_stay_warm() {
        let pool = Pool::new(1 << 20);
        drop((pool.take(1000).unwrap(), pool.take(2000).unwrap()));
        pool.trim();
        drop(pool.take(1000).unwrap());
        assert_eq!(pool.stock.lock().buffers.len(), 2);
        pool.trim();
        assert_eq!(pool.stock.lock().buffers.len(), 1, "one of two was used");
        pool.trim();
        assert!(!pool.is_warm());
    }

    #[test]
    fn memory_that_there_is_not_is_an_error() {
        let lost = Pool::new(u64::MAX).take(isize::MAX as usize).map_err(Invalid::from);
        assert!(matches!(lost, Err(Invalid::NoMemory { .. })));
    }
}

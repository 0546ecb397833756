//! Where payloads are copied to: room for so many bytes a peer process, and buffers that stay warm while they are used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::lines::{Lines, whole};
use super::budget::Budget;
use crate::sys::fork::Generation;

// unsafe: buffers that are not initialised as a whole.
mod lines;

/// Bytes of all buffers that there are for copies of one process's messages, in use or warm, over all of its connections.
#[derive(Debug, Default)]
pub struct Room {
    taken: AtomicU64,
    /// Bytes that the process may have on their way beside what its ledger counts: those of its connections' base segments.
    bases: AtomicU64,
    /// What those of all peers of the server have together.
    budget: Option<Budget>,
}

/// Whose bytes are all taken.
enum Full {
    Own,
    OfAll(u64),
}

impl Room {
    /// Room that is a part of a budget.
    pub(crate) fn within(budget: Option<Budget>) -> Self {
        Self { budget, ..Self::default() }
    }

    /// An error if there would be more than `cap` bytes then, or more than the budget has. What has no cap has room in any case.
    fn take(&self, bytes: u64, cap: u64) -> Result<(), Full> {
        let taken = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= cap);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).map_err(|_| Full::Own)?;
        match &self.budget {
            Some(budget) if cap == u64::MAX => budget.take_anyway(bytes),
            Some(budget) if !budget.take(bytes) => {
                self.taken.fetch_sub(bytes, Ordering::Relaxed);
                return Err(Full::OfAll(budget.cap()));
            }
            _ => {}
        }
        Ok(())
    }

    fn give(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(budget) = &self.budget {
            budget.give(bytes);
        }
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether a buffer that nobody uses may stay warm: others need room too.
    fn keep_warm(&self, bytes: u64, cap: u64) -> bool {
        self.taken() <= cap / 2 && self.budget.as_ref().is_none_or(|budget| budget.keep_warm(bytes))
    }

    /// It is used again, or given up.
    fn cool(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.cool(bytes);
        }
    }
}

/// Warm buffers for payloads that are copied. One per connection: never shared between peers.
pub struct Pool {
    /// Bytes that all buffers of the peer's process may have, beside those for base segments; the warm ones that nobody uses have
    /// half of it at most.
    cap: u64,
    /// Bytes of this connection's base segment, if other connections of the process have a part in the room.
    base: Option<u64>,
    room: Arc<Room>,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// Buffers that nobody uses, the warmest last.
    buffers: Vec<Lines>,
    /// The fewest unused buffers that there were since the last [`Pool::trim`].
    idle: usize,
}

/// Buffers that a pool keeps.
const KEPT: usize = 4;

/// A payload in a buffer of our own; the buffer goes back to its pool.
pub(super) struct Copied {
    buffer: Lines,
    pool: Arc<Pool>,
    process: Generation,
}

fn bytes(buffer: &Lines) -> u64 {
    buffer.capacity() as u64
}

/// Room that values on the heap have which are made of a message, until it is dropped.
#[derive(Debug)]
pub struct Held {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.give(self.bytes);
    }
}

/// A payload that could not be copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    pub(super) length: usize,
    pub(super) lack: Lack,
}

/// What there was too little of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lack {
    /// The system's memory.
    Memory,
    /// So many bytes, for all connections of the peer's process.
    OfProcess(u64),
    /// So many bytes, for this connection.
    OfConnection(u64),
    /// So many bytes, for all peers of the server.
    OfAll(u64),
}

impl Copied {
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.buffer.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.as_mut_ptr()
    }

    /// The first `bytes` of those that were asked for. What nobody has written yet is zero.
    pub(super) fn first(&mut self, bytes: usize) -> &mut [u8] {
        self.buffer.first(bytes)
    }
}

impl Pool {
    /// Room for copies of `cap` bytes in all, of one connection alone.
    pub fn new(cap: u64) -> Arc<Self> {
        Self::within(cap, None)
    }

    /// The same, as a part of a budget.
    pub(crate) fn within(cap: u64, budget: Option<Budget>) -> Arc<Self> {
        let room = Arc::new(Room::within(budget));
        Arc::new(Self { cap, base: None, room, stock: Mutex::default() })
    }

    /// The same, where other connections of the peer's process have their copies too. There are `base` bytes more of it for as long
    /// as the connection.
    pub(crate) fn sharing(room: &Arc<Room>, cap: u64, base: u64) -> Arc<Self> {
        room.bases.fetch_add(base, Ordering::Relaxed);
        Arc::new(Self { cap, base: Some(base), room: Arc::clone(room), stock: Mutex::default() })
    }

    /// Bytes that all may have now.
    fn cap(&self) -> u64 {
        self.cap.saturating_add(self.room.bases.load(Ordering::Relaxed))
    }

    /// A buffer for `length` bytes: the warmest that is large enough and not much larger, since all of it counts; else a
    /// new one. A peer says how much is needed, so that there is no memory may not end the process.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Result<Copied, Lost> {
        self.take_within(self.cap(), length)
    }

    /// The same for what has room in any case. It counts all the same.
    pub(super) fn take_anyway(self: &Arc<Self>, length: usize) -> Result<Copied, Lost> {
        self.take_within(u64::MAX, length)
    }

    fn take_within(self: &Arc<Self>, cap: u64, length: usize) -> Result<Copied, Lost> {
        let needed = whole(length);
        let mut stock = self.stock.lock();
        let right = needed..=needed.saturating_mul(2);
        let fits = stock.buffers.iter().rposition(|buffer| right.contains(&bytes(buffer)));
        let warm = fits.map(|at| stock.buffers.remove(at));
        self.room.cool(warm.as_ref().map_or(0, bytes));
        if warm.is_none() {
            self.make_room(&mut stock, needed, cap).map_err(|lack| Lost { length, lack })?;
        }
        stock.idle = stock.idle.min(stock.buffers.len());
        drop(stock);
        let buffer = match warm {
            Some(buffer) => buffer,
            None => self.fresh(length).ok_or(Lost { length, lack: Lack::Memory })?,
        };
        Ok(Copied { buffer, pool: Arc::clone(self), process: Generation::current() })
    }

    /// Room for values that are made of `length` bytes which lie elsewhere.
    pub(super) fn hold(&self, length: usize) -> Result<Held, Lost> {
        let bytes = length as u64;
        self.make_room(&mut self.stock.lock(), bytes, self.cap()).map_err(|lack| Lost { length, lack })?;
        Ok(Held { room: Arc::clone(&self.room), bytes })
    }

    /// Takes `needed` bytes of the room. What nobody uses makes room, the coldest first.
    fn make_room(&self, stock: &mut Stock, needed: u64, cap: u64) -> Result<(), Lack> {
        while let Err(full) = self.room.take(needed, cap) {
            if stock.buffers.is_empty() {
                return Err(match full {
                    Full::OfAll(cap) => Lack::OfAll(cap),
                    Full::Own if self.base.is_some() => Lack::OfProcess(cap),
                    Full::Own => Lack::OfConnection(cap),
                });
            }
            self.chill(&stock.buffers.remove(0));
        }
        Ok(())
    }

    /// A buffer whose room is taken. `None` if the system has no memory; then the room is given back.
    fn fresh(&self, length: usize) -> Option<Lines> {
        let Some(buffer) = Lines::new(length) else {
            self.room.give(whole(length));
            return None;
        };
        // What the allocator adds of itself counts too, and comes to nothing in practice.
        drop(self.room.take(bytes(&buffer) - whole(length), u64::MAX));
        Some(buffer)
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
        cold.iter().for_each(|buffer| self.chill(buffer));
    }

    /// A buffer is given up that was warm.
    fn chill(&self, buffer: &Lines) {
        self.room.cool(bytes(buffer));
        self.room.give(bytes(buffer));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let warm = std::mem::take(&mut self.stock.get_mut().buffers);
        warm.iter().for_each(|buffer| self.chill(buffer));
        self.room.bases.fetch_sub(self.base.unwrap_or(0), Ordering::Relaxed);
    }
}

impl core::fmt::Debug for Pool {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Pool").field("cap", &self.cap).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Copied {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("Copied").field("bytes", &bytes(&self.buffer)).finish_non_exhaustive()
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // In a forked child nobody is left to unlock what another thread of the parent had locked.
        if !self.process.is_current() {
            return;
        }
        let Self { buffer, pool, .. } = self;
        let mut stock = pool.stock.lock();
        let buffer = core::mem::replace(buffer, Lines::none());
        if !pool.room.keep_warm(bytes(&buffer), pool.cap) {
            drop(stock);
            return pool.room.give(bytes(&buffer));
        }
        stock.buffers.push(buffer);
        let coldest = (stock.buffers.len() > KEPT).then(|| stock.buffers.remove(0));
        drop(stock);
        coldest.iter().for_each(|buffer| pool.chill(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Invalid;
    use super::*;

    fn kept(pool: &Pool) -> u64 {
        pool.stock.lock().buffers.iter().map(bytes).sum()
    }

    #[test]
    fn copies_have_no_more_room_than_they_may() {
        let pool = Pool::new(1024);
        let first = pool.take(600).unwrap();
        // In lines of 64, that is 640 and 448.
        let full = pool.take(401).map_err(Invalid::from).unwrap_err();
        assert!(matches!(full, Invalid::NoRoomHere { length: 401, cap: 1024 }));
        let text = full.to_string();
        assert!(
            text.contains("one connection") && text.contains("max_message") && !text.contains("trust"),
            "{text}"
        );
        let second = pool.take(384).unwrap();
        assert_eq!(pool.room.taken(), 1024);
        drop(first);
        assert_eq!((pool.room.taken(), kept(&pool)), (384, 0), "half of it may stay warm");
        drop(second);
        assert_eq!((pool.room.taken(), kept(&pool)), (384, 384));
        // What is warm makes room.
        drop(pool.take(1000).unwrap());
        assert_eq!((pool.room.taken(), kept(&pool)), (0, 0));
    }

    #[test]
    fn what_has_room_in_any_case_counts_and_goes_back() {
        let pool = Pool::new(1024);
        let full = pool.take(1024).unwrap();
        let more = [pool.take_anyway(64).unwrap(), pool.take_anyway(4096).unwrap()];
        assert_eq!(pool.room.taken(), 1024 + 64 + 4096);
        assert!(pool.take(1).is_err());
        drop((full, more));
        pool.trim();
        pool.trim();
        assert_eq!(pool.room.taken(), 0);
    }

    /// Large buffers become warm, and then small messages come and stay.
    #[test]
    fn what_is_held_is_what_counts() {
        let cap = 4 << 20;
        let pool = Pool::new(cap);
        let mut held = Vec::new();
        for _ in 0..64 {
            drop((pool.take(1 << 20), pool.take(1 << 20)));
            held.extend(pool.take(100));
        }
        let really = held.iter().map(|copied| bytes(&copied.buffer)).sum::<u64>() + kept(&pool);
        assert_eq!(held.len(), 64);
        assert_eq!(really, pool.room.taken());
        assert!(really <= cap, "{really} of {cap}");
    }

    #[test]
    fn all_connections_of_a_process_have_one_room() {
        let room = Arc::default();
        let pools: Vec<_> = (0..4).map(|_| Pool::sharing(&room, 3072, 256)).collect();
        let first: Vec<_> = pools.iter().map(|pool| pool.take(1024).unwrap()).collect();
        for pool in &pools {
            let full = pool.take(1).map_err(Invalid::from).unwrap_err();
            assert!(matches!(full, Invalid::NoRoom { length: 1, cap: 4096 }));
            let text = full.to_string();
            assert!(text.contains("one process") && text.contains("trust"), "{text}");
        }
        drop(first);
        // What one of them keeps warm leaves room for the others.
        assert!(pools[0].take(1536).is_ok());
        assert_eq!(room.taken(), pools.iter().map(|pool| kept(pool)).sum::<u64>());
        // What a connection adds goes with it.
        let [one, ..] = <[_; 4]>::try_from(pools).unwrap();
        assert_eq!(one.cap(), 3072 + 256);
        drop(one);
        assert_eq!((room.taken(), room.bases.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn all_peers_of_a_server_have_one_budget() {
        let budget = Budget::new(4096);
        let pools = [0; 2].map(|_| Pool::within(1 << 20, Some(budget.clone())));
        let first = pools[0].take(3072).unwrap();
        let full = pools[1].take(2048).map_err(Invalid::from).unwrap_err();
        assert!(matches!(full, Invalid::NoRoomForAll { length: 2048, cap: 4096 }));
        assert_eq!((pools[1].room.taken(), budget.left()), (0, 1024));
        let small = pools[1].take_anyway(2048).unwrap();
        assert_eq!((pools[1].room.taken(), budget.left()), (2048, 0));
        drop((first, small));
        assert_eq!((kept(&pools[0]), kept(&pools[1]), budget.left()), (0, 0, 4096), "they are large");
        // What nobody uses leaves seven eighths of it to others, whosever it is.
        drop(pools[0].take(512).unwrap());
        drop(pools[1].take(64).unwrap());
        assert_eq!((kept(&pools[0]), kept(&pools[1]), budget.left()), (512, 0, 3584));
        // It is used again, and gone, and makes room for the same peer.
        drop(pools[0].take(512).unwrap());
        assert_eq!((kept(&pools[0]), budget.left()), (512, 3584));
        drop(pools[0].take(4096).unwrap());
        drop(pools[1].take(512).unwrap());
        assert_eq!((kept(&pools[0]), kept(&pools[1]), budget.left()), (0, 512, 3584));
        drop(pools);
        assert!(budget.keep_warm(512));
        assert_eq!(budget.left(), 4096);
    }

    #[test]
    fn values_have_the_room_of_copies() {
        let room = Arc::default();
        let pools = [0; 2].map(|_| Pool::sharing(&room, 4096, 0));
        let copy = pools[0].take(1024).unwrap();
        let values = pools[1].hold(2000).unwrap();
        let full = pools[1].hold(1073).unwrap_err();
        assert!(matches!(full, Lost { length: 1073, lack: Lack::OfProcess(4096) }), "{full:?}");
        assert!(pools[0].take(1073).is_err(), "1072 are left");
        let more = pools[1].hold(1072).unwrap();
        assert_eq!(room.taken(), 4096);
        drop((more, values));
        assert_eq!(room.taken(), 1024);
        drop(copy);
        assert_eq!((kept(&pools[0]), room.taken()), (1024, 1024), "it is warm");
        // What is warm makes room, if it is the same connection's.
        drop(pools[0].hold(4096).unwrap());
        assert_eq!((kept(&pools[0]), room.taken()), (0, 0));
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

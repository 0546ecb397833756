//! Who owns which bytes of the sender's arena. Pure bookkeeping: it never touches the memory itself.
//!
//! A block is a run of 64-byte units in one segment. The lowest free run that is long enough is taken, so the same
//! warm bytes serve one message after the other. A sent block comes back when its release word, in the receiver's
//! memory, holds its generation; in any order.

/// Blocks that may be lent to the peer at once; also the number of release words.
pub const BLOCKS: u32 = 4096;
/// Blocks are multiples of this, in bytes, and aligned to it.
pub const UNIT: u64 = 64;
/// Lent blocks that one allocation looks at while memory is plentiful.
const GLANCE: usize = 8;

/// The allocator of one direction of one connection.
#[derive(Debug, Default)]
pub struct Arena {
    segments: Vec<Segment>,
    /// Ids that were used before and are free now.
    spare_ids: Vec<u32>,
    /// Generation of each id's latest use.
    generations: Vec<u32>,
    lent: Vec<Block>,
    /// Where the next glance at `lent` begins.
    glance: usize,
}

/// Free runs of one segment, sorted, never adjacent.
#[derive(Debug)]
struct Segment {
    id: u32,
    whole: Run,
    free: Vec<Run>,
    /// Whether a block was taken since [`Arena::retire`] last looked.
    used: bool,
}

/// `[start, end)` in bytes from the start of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
}

/// A run of bytes that belongs to one message. Not `Clone`: whoever holds it owns the bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Names the release word.
    pub id: u32,
    /// What the release word will hold when the receiver is done.
    pub generation: u32,
    /// Segment of the arena.
    pub segment: u32,
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// Bytes. A multiple of [`UNIT`].
    pub capacity: u64,
}

impl Arena {
    /// Adds the bytes `[start, end)` of segment `id`.
    pub fn add_segment(&mut self, id: u32, start: u64, end: u64) {
        debug_assert!(start.is_multiple_of(UNIT) && end.is_multiple_of(UNIT) && start < end);
        let whole = Run { start, end };
        self.segments.push(Segment { id, whole, free: vec![whole], used: true });
    }

    /// Gives up the segments, other than the first, in which no block lies and none was taken since the last time.
    /// Returns their ids.
    pub fn retire(&mut self) -> Vec<u32> {
        let mut retired = Vec::new();
        let mut first = true;
        self.segments.retain_mut(|segment| {
            let keep = core::mem::take(&mut first)
                || core::mem::take(&mut segment.used)
                || segment.free != [segment.whole];
            if !keep {
                retired.push(segment.id);
            }
            keep
        });
        retired
    }

    /// Segments, the first included.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Takes `bytes`, or `None` if no segment has as much in one run or all ids are in use.
    ///
    /// `released` reads the release word of an id.
    pub fn allocate(&mut self, bytes: u64, released: impl Fn(u32) -> u32) -> Option<Block> {
        let size = bytes.max(1).checked_next_multiple_of(UNIT)?;
        self.reclaim(GLANCE, &released);
        if let Some(block) = self.take(size) {
            return Some(block);
        }
        self.reclaim(usize::MAX, &released);
        self.take(size)
    }

    /// Gives back the bytes of `block` beyond the first `bytes`.
    pub fn shrink(&mut self, block: &mut Block, bytes: u64) {
        let Some(size) = bytes.max(1).checked_next_multiple_of(UNIT) else { return };
        if size < block.capacity {
            let tail = Run { start: block.offset + size, end: block.offset + block.capacity };
            block.capacity = size;
            self.put_back(block.segment, tail);
        }
    }

    /// Gives back a block that nobody has: it was never sent, or its receiver has said that he is done with it. A word that he wrote for it
    /// before is of a generation that nobody waits for.
    pub fn free(&mut self, block: Block) {
        self.put_back(block.segment, Run { start: block.offset, end: block.offset + block.capacity });
        self.spare_ids.push(block.id);
    }

    /// Hands a block to the peer; it comes back through its release word.
    pub fn lend(&mut self, block: Block) {
        self.lent.push(block);
    }

    /// Whether one more block may be taken, if there is room for it.
    pub fn has_ids(&self) -> bool {
        !self.spare_ids.is_empty() || self.generations.len() < BLOCKS as usize
    }

    /// Blocks that the peer still holds, as far as known.
    pub fn lent(&self) -> usize {
        self.lent.len()
    }

    /// Looks at up to `most` lent blocks and takes those back that the peer has released.
    pub fn reclaim(&mut self, most: usize, released: impl Fn(u32) -> u32) {
        if most >= self.lent.len() {
            // All of them, each once: a block that fills a gap comes from behind.
            self.glance = 0;
        }
        for _ in 0..most.min(self.lent.len()) {
            if self.glance >= self.lent.len() {
                self.glance = 0;
            }
            let Some(block) = self.lent.get(self.glance) else { return };
            if released(block.id) == block.generation {
                let block = self.lent.swap_remove(self.glance);
                self.free(block);
            } else {
                self.glance += 1;
            }
        }
    }

    fn take(&mut self, size: u64) -> Option<Block> {
        let id = self.next_id()?;
        for segment in &mut self.segments {
            let fits = |run: &Run| run.end - run.start >= size;
            let Some(at) = segment.free.iter().position(fits) else { continue };
            segment.used = true;
            let run = segment.free.get_mut(at)?;
            let offset = run.start;
            run.start += size;
            if run.start == run.end {
                segment.free.remove(at);
            }
            let generation = self.generations.get_mut(id as usize)?;
            *generation = generation.wrapping_add(1);
            let generation = *generation;
            return Some(Block { id, generation, segment: segment.id, offset, capacity: size });
        }
        self.spare_ids.push(id);
        None
    }

    fn next_id(&mut self) -> Option<u32> {
        if let Some(id) = self.spare_ids.pop() {
            return Some(id);
        }
        let id = u32::try_from(self.generations.len()).ok().filter(|id| *id < BLOCKS)?;
        self.generations.push(0);
        Some(id)
    }

    fn put_back(&mut self, segment: u32, run: Run) {
        let Some(segment) = self.segments.iter_mut().find(|known| known.id == segment) else { return };
        let at = segment.free.partition_point(|free| free.start < run.start);
        segment.free.insert(at, run);
        segment.join(at);
        if let Some(before) = at.checked_sub(1) {
            segment.join(before);
        }
    }
}

impl Segment {
    /// Makes one run of the runs at `at` and `at + 1` if they touch.
    fn join(&mut self, at: usize) {
        if let Some([first, second]) = self.free.get_mut(at..at + 2)
            && first.end == second.start
        {
            first.end = second.end;
            self.free.remove(at + 1);
        }
    }
}

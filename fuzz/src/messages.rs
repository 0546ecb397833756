//! Validation: whatever bytes a payload has, they are refused, or every part of the value can be read, copied out and
//! sent on.

use std::alloc::{Layout, alloc, dealloc};
use std::fmt::Debug;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shmrpc::{Archived, Message as IsMessage};
use shmrpc_transport::message::{
    Buffer, EncodeError, Grow, Loan, MAX_DEPTH, Message, Part, Pool, SMALL, encode,
};

use self::types::{Json, List, Make, Maps, Numbers, Shapes, Standard, Texts, Tree};
use crate::input::Input;

mod blobs;
mod types;

/// A type, and a payload for it: bytes as they are, or the archive of a value with some bytes changed.
pub fn messages(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 11 {
        0 => probe::<Numbers>(input),
        1 => probe::<Texts>(input),
        2 => probe::<Shapes>(input),
        3 => probe::<Vec<Vec<Vec<u16>>>>(input),
        4 => probe::<Maps>(input),
        5 => probe::<Standard>(input),
        6 => probe::<Tree>(input),
        7 => probe::<List>(input),
        8 => probe::<Json>(input),
        9 => chain(input),
        _ => blobs::blobs(input),
    }
    crate::memory::assert_bounded();
}

/// What a target needs to know of a type.
trait Sample: IsMessage + Make + Debug {
    /// Whether two values are the same.
    fn same(&self, other: &Self) -> bool;
    /// Reads what a handler reads of an `&Archived<Self>`.
    fn read(archived: &Archived<Self>) {
        let _ = archived;
    }
}

fn probe<T: Sample>(mut input: Input<'_>) {
    let mode = input.byte();
    if mode.is_multiple_of(4) {
        check::<T>(input.0);
        return;
    }
    // Above 4 KiB a payload is read in place, if its sender is trusted.
    let filler = if mode % 4 == 1 { SMALL } else { 0 };
    let changes = Changes::new(&mut input);
    let mut room = Room::default();
    let value = T::make(&mut input, 4);
    let Ok(length) = room.encode(&value) else { return };
    if changes.0.is_empty() {
        let back = check::<T>(room.bytes(length)).expect("what was encoded is valid");
        assert!(value.same(&back), "{value:?} came back as {back:?}");
    }
    let mut payload = vec![0; filler];
    payload.extend_from_slice(room.bytes(length));
    changes.make(&mut payload);
    check::<T>(&payload);
}

/// Bytes of a payload that are to be others: which, how, and with what.
struct Changes(Vec<(u16, u8, u8)>);

impl Changes {
    fn new(input: &mut Input<'_>) -> Self {
        Self((0..input.below(16)).map(|_| (input.short(), input.byte(), input.byte())).collect())
    }

    fn make(self, payload: &mut [u8]) {
        for (at, how, with) in self.0 {
            // Counted from the end, where the root is.
            let at = payload.len().checked_sub(1 + usize::from(at));
            let Some(byte) = at.and_then(|at| payload.get_mut(at)) else { continue };
            *byte = match how % 4 {
                0 => with,
                1 => *byte ^ 1 << (with % 8),
                2 => byte.wrapping_add(with),
                _ => byte.wrapping_sub(with),
            };
        }
    }
}

/// A chain of boxes, or of vectors, as long as the fuzzer likes: far deeper than any sender of ours lets pass.
fn chain(mut input: Input<'_>) {
    let length = match input.byte() {
        255 => usize::from(input.short()),
        byte => usize::from(byte),
    };
    let length = length.max(1);
    let mut bytes = Vec::new();
    if input.flag() {
        for link in 0..length {
            // ArchivedList: value, tag and pointer of `next`; the pointer counts from itself to the link before.
            let tag = u32::from(link != 0);
            bytes.extend_from_slice(
                &[7, tag, if link == 0 { 0 } else { -20_i32 as u32 }].map(u32::to_le_bytes).concat(),
            );
        }
        let found = check::<List>(&bytes).map(|list| list.length());
        expect_depth(found, length, length - 1);
    } else {
        for link in 0..length {
            // ArchivedTree: value; pointer and length of `children`. A vector of nothing points to where it could lie.
            let some = u32::from(link != 0);
            let pointer = if link == 0 { -4_i32 as u32 } else { -16_i32 as u32 };
            bytes.extend_from_slice(&[7, pointer, some].map(u32::to_le_bytes).concat());
        }
        let found = check::<Tree>(&bytes).map(|tree| tree.depth());
        expect_depth(found, length, length);
    }
}

/// `levels`: boxes or vectors inside each other. The root of an archive is a level, too.
fn expect_depth(found: Option<usize>, length: usize, levels: usize) {
    let expected = (levels + 1 < MAX_DEPTH.get()).then_some(length);
    assert_eq!(found, expected, "{levels} levels");
}

/// Whether the bytes are a `T`, the same from peers that are trusted and that are not.
fn check<T: Sample>(payload: &[u8]) -> Option<T> {
    let pool = Pool::new(1 << 30);
    let [untrusted, trusted] = [false, true].map(|trusted| {
        let mut message = Message::empty();
        let (loan, is_back) = Lent::new(payload);
        message.admit(loan, trusted, Part::Message, &pool);
        let in_place = trusted && payload.len() > SMALL;
        assert_eq!((message.is_in_place(), is_back.load(Ordering::Relaxed)), (in_place, !in_place));
        let value = message.access::<T>().map(|archived| {
            T::read(archived);
            message.decode::<T>().expect("what is valid can be copied out")
        });
        let value = match value {
            Ok(value) => Some(value),
            Err(invalid) => {
                let text = invalid.to_string();
                assert!(text.starts_with(&format!("{} bytes cannot be read as", payload.len())), "{text}");
                assert!(!text.contains("no reason was given") && !text.contains("0x0"), "{text}");
                None
            }
        };
        match (message.into_view::<T>(), &value) {
            (Ok(view), Some(value)) => assert!(view.to_owned().unwrap().same(value)),
            (Err(_), None) => {}
            (view, _) => panic!("another answer for a view: {}", view.is_ok()),
        }
        assert!(is_back.load(Ordering::Relaxed));
        value
    });
    match (&untrusted, &trusted) {
        (Some(a), Some(b)) => assert!(a.same(b)),
        (None, None) => {}
        _ => panic!("trusted: {}, not trusted: {}", trusted.is_some(), untrusted.is_some()),
    }
    if let Some(value) = &trusted {
        let mut room = Room::default();
        match room.encode(value) {
            Ok(length) => {
                let mut message = Message::empty();
                message.admit(Lent::new(room.bytes(length)).0, true, Part::Message, &pool);
                let again = message.decode::<T>().expect("what was encoded is valid");
                assert!(value.same(&again), "{value:?} was sent on as {again:?}");
            }
            // The sender counts every struct as a level, the receiver every pointer.
            Err(EncodeError::Refused(why)) if T::RECURSIVE && why.contains("deeper") => {}
            Err(error) => panic!("{value:?} cannot be sent on: {error}"),
        }
    }
    trusted
}

/// A payload in memory that ends where the payload ends, so that the sanitizer sees every read behind it.
struct Lent {
    start: NonNull<u8>,
    layout: Layout,
    length: usize,
    is_back: Arc<AtomicBool>,
}

impl Lent {
    fn new(payload: &[u8]) -> (Self, Arc<AtomicBool>) {
        let layout = Layout::from_size_align(payload.len().max(1), 64).unwrap();
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) }).expect("memory");
        // SAFETY: just allocated for as many bytes.
        unsafe { start.as_ptr().copy_from_nonoverlapping(payload.as_ptr(), payload.len()) };
        let is_back = Arc::new(AtomicBool::new(false));
        (Self { start, layout, length: payload.len(), is_back: Arc::clone(&is_back) }, is_back)
    }
}

// SAFETY: it owns its memory.
unsafe impl Send for Lent {}
// SAFETY: nobody writes to it.
unsafe impl Sync for Lent {}

// SAFETY: the memory lives as long as the loan, is aligned to 64, and nobody writes to it.
unsafe impl Loan for Lent {
    fn bytes(&self) -> (*const u8, usize) {
        (self.start.as_ptr(), self.length)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.is_back.store(true, Ordering::Relaxed);
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Where values are encoded: grows as an arena does.
#[derive(Default)]
struct Room(Vec<Line>);

#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Room {
    fn encode<T: Sample>(&mut self, value: &T) -> Result<usize, EncodeError> {
        self.0 = vec![Line([0; 64])];
        let buffer = self.buffer();
        // SAFETY: the buffer is this function's alone.
        unsafe { encode(value, T::RECURSIVE, buffer, self) }
    }

    fn buffer(&mut self) -> Buffer {
        let capacity = size_of_val(self.0.as_slice());
        Buffer { start: NonNull::new(self.0.as_mut_ptr().cast()).expect("a vector's memory"), capacity }
    }

    fn bytes(&self, length: usize) -> &[u8] {
        assert!(length <= size_of_val(self.0.as_slice()));
        // SAFETY: inside the vector, and initialised.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), length) }
    }
}

// SAFETY: the vector is resized in `grow` only, keeps what it has, and has room for `needed` afterwards.
unsafe impl Grow for Room {
    fn grow(&mut self, _: Buffer, _: usize, needed: usize) -> Result<Buffer, EncodeError> {
        let max = 1 << 20;
        if needed > max {
            return Err(EncodeError::TooLarge { needed: needed as u64, max: max as u64 });
        }
        self.0.resize(needed.next_power_of_two().div_ceil(64), Line([0; 64]));
        Ok(self.buffer())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// rkyv 0.8.18 leaves most of the control bytes behind a table unchecked, and a lookup believes them: it compares
    /// its key with a bucket that nobody validated. Without a check of ours this test ends by SIGSEGV.
    #[test]
    fn a_lookup_in_a_forged_table_reads_what_was_validated() {
        type Table = HashMap<String, u32>;
        const BUCKET: usize = 12;
        let mut room = Room(vec![Line([0; 64])]);
        let (buffer, value) = (room.buffer(), Table::from([("abcdefgh".to_owned(), 6)]));
        // SAFETY: the buffer is this function's alone.
        let length = unsafe { encode(&value, false, buffer, &mut room) }.unwrap();
        let good = room.bytes(length);
        // Two buckets, 31 control bytes, and the root, which begins with its pointer to the control bytes.
        let controls = length - 12 - 32;
        let unused = usize::from(good[controls] & 0x80 == 0);
        let mut accepted = 0;
        for hash in 0..128 {
            let mut forged = good.to_vec();
            forged[controls + 4..controls + 31].fill(hash);
            // A string of 8 bytes, a GiB away.
            let bucket = controls - (unused + 1) * BUCKET;
            forged[bucket..bucket + 8].copy_from_slice(&[0x88, 0, 0, 0, 0, 0, 0, 0x40]);
            let mut message = Message::empty();
            message.admit(Lent::new(&forged).0, false, Part::Message, &Pool::new(1 << 30));
            if let Ok(table) = message.access::<Table>() {
                assert!(table.get("12345678").is_none());
                accepted += 1;
            }
        }
        // One of the two buckets is empty, and some of the forged bytes are its.
        assert_eq!(accepted, 0);
    }
}

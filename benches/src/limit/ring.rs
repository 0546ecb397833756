//! Rings of 64-byte slots, one each way, with 64 messages in flight: how many echoes a second two processes reach.
//!
//! A slot is full when its stamp is the number of the message that belongs there, so a message moves in one cache
//! line. A slot is free again once its message's echo has arrived: no other word is needed.
//!
//! ```text
//! 0        8                                  64
//! +--------+----------------------------------+
//! | stamp  | 56 bytes of payload              |
//! +--------+----------------------------------+
//! ```

use std::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use crate::{
    error::{Error, Result},
    shared::Shared,
};

/// Messages in flight.
const IN_FLIGHT: u64 = 64;

/// Messages that a receiver waits for at a time: it polls for the last of them, so that it does not take the lines of
/// the others away while they are written. The best of 1, 2, 4, 8, 16, 32 here, by little.
const BATCH: u64 = 8;

/// Slots of one ring.
const SLOTS: u64 = 64;

/// One message.
#[repr(C, align(64))]
struct Slot {
    /// Written by the ring's sender, read by its receiver: the number of the message, counted from 1.
    stamp: AtomicU64,
    /// Written by the sender before the stamp, read by the receiver after it. Plain memory, so that it moves in as
    /// few instructions as the compiler likes.
    payload: UnsafeCell<[u64; 7]>,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    #[inline(always)]
    fn put(&self, number: u64, payload: [u64; 7]) {
        // SAFETY: the stamp says that the receiver is done with this slot, and the sender has one thread.
        unsafe { self.payload.get().write(payload) };
        self.stamp.store(number, Release);
    }

    #[inline(always)]
    fn payload(&self) -> [u64; 7] {
        // SAFETY: the stamp was seen, and the sender does not write again before this message is answered.
        unsafe { self.payload.get().read() }
    }
}

/// The caller: sends `count` messages, as many as fit in flight at a time, and checks each echo.
pub(crate) fn call(shared: &Shared, count: u64) -> Result<()> {
    let (requests, echoes) = (Ring::at(shared, 0), Ring::at(shared, 1));
    let (mut sent, mut back) = (0, 0);
    while back < count {
        let until = count.min(back + IN_FLIGHT);
        while sent < until {
            sent += 1;
            requests.slot(sent).put(sent, [sent; 7]);
        }
        let last = count.min(back + BATCH);
        echoes.wait(last);
        while back < last {
            back += 1;
            let echo = echoes.slot(back).payload();
            if echo.iter().fold(0, |wrong, word| wrong | (word ^ back)) != 0 {
                return Err(Error::Peer(format!("echoed {echo:?} to message {back}")));
            }
        }
    }
    Ok(())
}

/// The peer: echoes `count` messages.
pub(crate) fn serve(shared: &Shared, count: u64) {
    let (requests, echoes) = (Ring::at(shared, 0), Ring::at(shared, 1));
    let mut done = 0;
    while done < count {
        let last = count.min(done + BATCH);
        requests.wait(last);
        while done < last {
            done += 1;
            echoes.slot(done).put(done, requests.slot(done).payload());
        }
    }
}

/// Forgets what earlier batches left. Only while the peer waits for a command.
pub(crate) fn clear(shared: &Shared) {
    for ring in [Ring::at(shared, 0), Ring::at(shared, 1)] {
        ring.slots.iter().for_each(|slot| slot.put(0, [0; 7]));
    }
}

/// One ring in the shared memory's payload.
struct Ring<'a> {
    slots: &'a [Slot; 64],
}

impl Ring<'_> {
    fn at(shared: &Shared, number: usize) -> Ring<'_> {
        const { assert!(SLOTS == 64) };
        let offset = number * size_of::<[Slot; 64]>();
        let start = shared.payload(offset + size_of::<[Slot; 64]>()).wrapping_add(offset);
        // SAFETY: `payload` checked that the slots lie in the map, which is aligned to pages; they are atomics and
        // cells, of any bits, and both processes use them as slots while rings are measured.
        Ring { slots: unsafe { &*start.cast() } }
    }

    /// Polls until message `number`, and with it every earlier one, is there.
    #[inline(always)]
    fn wait(&self, number: u64) {
        while self.slot(number).stamp.load(Acquire) != number {}
    }

    #[inline(always)]
    fn slot(&self, number: u64) -> &Slot {
        let place = usize::from((number % SLOTS).to_le_bytes()[0]);
        match self.slots.get(place) {
            Some(slot) => slot,
            None => unreachable!("a remainder of 64 is below 64"),
        }
    }
}

//! The receiving end of a ring: ready, take, finish, sleep.

use core::ops::Deref;

use crate::ladder::{Climb, Ladder};
use crate::slot::{ASLEEP, BadHeader, Header, INLINE_WORDS, LaneSide, SLOTS, Slot};
use crate::sync::{Ordering, fence_release, fence_seq_cst, relax};
use crate::sys::futex::{self, Stop, Until};

/// Receives from the ring in `peer`, which it maps read-only.
#[derive(Debug)]
pub struct Consumer<S> {
    own: S,
    peer: S,
    /// Position of the next message. Private.
    next: u32,
    /// Whether a peer that sleeps for want of credits may not know of all that were given back.
    untold: bool,
    ladder: Ladder,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A message is there.
    Ready,
    /// Somebody set the stop word, and no message is there.
    Stopped,
    /// The time is over, and no message is there.
    TimedOut,
    /// Others want the core, and no message is there; `Consumer::wait` never says so.
    Crowded,
}

impl<S: Deref<Target = LaneSide>> Consumer<S> {
    /// A consumer at position zero of a fresh ring.
    pub fn new(own: S, peer: S) -> Self {
        Self { own, peer, next: 0, untold: false, ladder: Ladder::default() }
    }

    /// A consumer of a ring through which so many messages have gone.
    #[cfg(test)]
    pub(crate) fn at(position: u32, own: S, peer: S) -> Self {
        own.taken.store(position, Ordering::Relaxed);
        own.done.store(position, Ordering::Relaxed);
        Self { next: position, ..Self::new(own, peer) }
    }

    /// Whether the next message has been published.
    #[inline(always)]
    pub fn ready(&self) -> bool {
        is_published(self.peer.slot(self.next), self.next.wrapping_add(1))
    }

    /// Copies the next message's payload into private memory; [`Consumer::ready`] has said yes.
    ///
    /// From here on the peer cannot prove that the message was not taken.
    ///
    /// # Errors
    /// [`BadHeader`]: the peer wrote what no correct peer writes; the lane is of no more use.
    #[inline(always)]
    pub fn take(&mut self, payload: &mut [u64; INLINE_WORDS]) -> Result<Header, BadHeader> {
        let header = self.peer.slot(self.next).read(payload)?;
        self.next = self.next.wrapping_add(1);
        // The handler's effects come after this store, in the eyes of whoever looks after our death.
        self.own.taken.store(self.next, Ordering::Relaxed);
        fence_release();
        Ok(header)
    }

    /// The next wait is for what follows a message of `bytes` bytes, sent or received.
    #[inline(always)]
    pub(crate) fn follows(&mut self, bytes: u32) {
        self.ladder.follows(bytes);
    }

    /// Gives the credits of all messages taken so far back to the peer.
    #[inline(always)]
    pub fn finish(&mut self) {
        // Release: pairs with the Acquire load in `Producer::refresh_credits`.
        self.own.done.store(self.next, Ordering::Release);
        self.untold = true;
    }

    /// Wakes the peer if it sleeps for want of credits, and some were given back since it was woken last. Whoever sleeps on the
    /// word that it was woken for has seen it, and waits for the next one.
    ///
    /// Needs [`fence_seq_cst`] between the last [`Consumer::finish`] and this call, between our `done` and the
    /// peer's `credit_wanted`; partner: the fence in `Producer::sleep_for_credit`.
    #[inline(always)]
    pub(crate) fn wake_creditor(&mut self) {
        if self.peer.credit_wanted.load(Ordering::Relaxed) != 0 && self.untold {
            self.untold = false;
            futex::wake(&self.own.done);
        }
    }

    /// Waits for the next message: a short spin, a few yields, then the futex.
    ///
    /// # Errors
    /// [`BadHeader::Stamp`] if the slot holds a stamp that no correct peer writes there.
    #[inline(always)]
    pub fn wait(&mut self, stop: &Stop, until: &mut Until) -> Result<Wait, BadHeader> {
        if self.comes_at_once() { Ok(Wait::Ready) } else { self.wait_slowly(stop, until, false) }
    }

    /// The same, until it would take turns in a crowd: then it says so instead.
    ///
    /// # Errors
    /// As [`Consumer::wait`].
    #[inline(always)]
    pub(crate) fn wait_until_crowded(&mut self, stop: &Stop) -> Result<Wait, BadHeader> {
        if self.comes_at_once() { Ok(Wait::Ready) } else { self.wait_slowly(stop, &mut Until::never(), true) }
    }

    /// The short spin.
    #[inline(always)]
    fn comes_at_once(&self) -> bool {
        let slot = self.peer.slot(self.next);
        let expected = self.next.wrapping_add(1);
        for _ in 0..self.ladder.spins(expected) {
            if is_published(slot, expected) {
                return true;
            }
            relax();
        }
        false
    }

    #[cold]
    #[inline(never)]
    fn wait_slowly(
        &mut self,
        stop: &Stop,
        until: &mut Until,
        takes_no_turns: bool,
    ) -> Result<Wait, BadHeader> {
        let slot = self.peer.slot(self.next);
        let expected = self.next.wrapping_add(1);
        match self.ladder.climb(expected, takes_no_turns, || is_published(slot, expected)) {
            Climb::Found => Ok(Wait::Ready),
            Climb::Missed => self.wait_asleep(stop, until),
            Climb::Crowded => Ok(Wait::Crowded),
        }
    }

    /// Goes on where [`Consumer::wait_until_crowded`] ended.
    ///
    /// # Errors
    /// As [`Consumer::wait`].
    #[cold]
    pub(crate) fn wait_in_turns(&mut self, stop: &Stop) -> Result<Wait, BadHeader> {
        let slot = self.peer.slot(self.next);
        let expected = self.next.wrapping_add(1);
        match self.ladder.take_turns(expected, || is_published(slot, expected)) {
            true => Ok(Wait::Ready),
            false => self.wait_asleep(stop, &mut Until::never()),
        }
    }

    /// Waits asleep from the start.
    ///
    /// # Errors
    /// As [`Consumer::wait`].
    #[cold]
    pub(crate) fn wait_asleep(&mut self, stop: &Stop, until: &mut Until) -> Result<Wait, BadHeader> {
        loop {
            if self.sleep(stop, until)? {
                self.ladder.slept();
                return Ok(Wait::Ready);
            }
            if stop.is_set() {
                // What was published before the stop is still delivered.
                return Ok(if self.ready() { Wait::Ready } else { Wait::Stopped });
            }
            if until.is_over() {
                return Ok(if self.ready() { Wait::Ready } else { Wait::TimedOut });
            }
        }
    }

    /// The next waits find out anew whether there is a crowd.
    pub(crate) fn forget_crowd(&mut self) {
        self.ladder.forget_crowd();
    }

    /// Sleeps once. True if the next message is there.
    ///
    /// # Errors
    /// [`BadHeader::Stamp`] if the slot holds a stamp that no correct peer writes there.
    pub fn sleep(&mut self, stop: &Stop, until: &mut Until) -> Result<bool, BadHeader> {
        self.own.asleep.store(ASLEEP | u64::from(self.next), Ordering::Relaxed);
        // Between our `asleep` and our last look at the stamp; partner: the fence before `Producer::wake_sleeper`.
        fence_seq_cst();
        let slot = self.peer.slot(self.next);
        // Relaxed: if it is there, `ready` looks once more before anything of it is read.
        let found = slot.stamp.load(Ordering::Relaxed);
        let expected = self.next.wrapping_add(1);
        if found != expected {
            let last_lap = if self.next < SLOTS && found == 0 { 0 } else { expected.wrapping_sub(SLOTS) };
            if found != last_lap {
                self.own.asleep.store(0, Ordering::Relaxed);
                return Err(BadHeader::Stamp { found, expected });
            }
            futex::wait(&slot.stamp, found, stop, until);
        }
        self.own.asleep.store(0, Ordering::Relaxed);
        Ok(self.ready())
    }
}

/// Whether the slot has the message with this stamp. Every look that is believed is this one.
#[inline(always)]
fn is_published(slot: &Slot, stamp: u32) -> bool {
    // Acquire: pairs with the Release store of the stamp in `Slot::write_header`.
    slot.stamp.load(Ordering::Acquire) == stamp
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::peers::Party;
    use crate::shm::memory::Memory;
    use crate::shm::producer::Producer;
    use crate::shm::segment::{BASE_LEN, Handout, Segment, Side};
    use crate::slot::Kind;

    const BOUND: Duration = Duration::from_secs(30);
    /// The last position before they begin anew.
    const LAST: u32 = u32::MAX;

    /// What the two processes see of a lane, each.
    fn sides() -> [(Side, Side); 2] {
        let segments = || {
            let (own, Handout { descriptor, .. }) = Segment::create(BASE_LEN, Memory::Memfd).unwrap();
            let mapped = Segment::accept(descriptor, Party::own(), BASE_LEN as u64, Memory::Memfd).unwrap();
            [Arc::new(own), Arc::new(mapped)].map(|segment| Side::new(&segment, 0).unwrap())
        };
        let ([ours, seen_ours], [theirs, seen_theirs]) = (segments(), segments());
        [(ours, seen_theirs), (theirs, seen_ours)]
    }

    fn lane_at(position: u32) -> (Producer<Side>, Consumer<Side>) {
        let [(ours, theirs), (own, peer)] = sides();
        (Producer::at(position, ours, theirs), Consumer::at(position, own, peer))
    }

    fn send(producer: &mut Producer<Side>, number: u32) {
        assert!(producer.try_claim().unwrap());
        producer.publish(Header { call_id: number, ..Header::new(Kind::Request) }, &[number.into(); 5]);
    }

    fn receive(consumer: &mut Consumer<Side>, number: u32) {
        let mut payload = [0; 5];
        assert_eq!(consumer.take(&mut payload).unwrap().call_id, number);
        assert_eq!(payload, [u64::from(number); 5]);
    }

    /// Wherever the end of the range falls: nothing is there that was not sent, what is full is full, and what was taken
    /// and done is known of both.
    #[test]
    fn positions_begin_anew() {
        for first in (LAST - 2 * SLOTS..LAST).chain(0..2) {
            let (mut producer, mut consumer) = lane_at(first);
            for round in 0..3 {
                let before = producer.position();
                assert!(!consumer.ready(), "{first}: {round}");
                for number in 0..SLOTS {
                    send(&mut producer, number);
                }
                assert_eq!((producer.outstanding(), producer.try_claim()), (SLOTS, Ok(false)), "{first}");
                let last = producer.position().wrapping_sub(1);
                for number in 0..SLOTS {
                    let position = before.wrapping_add(number);
                    assert_eq!(
                        (producer.was_taken(position), producer.is_done(position)),
                        (false, Ok(false))
                    );
                    assert!(consumer.ready(), "{first}");
                    receive(&mut consumer, number);
                    assert_eq!((producer.was_taken(position), producer.is_done(position)), (true, Ok(false)));
                    consumer.finish();
                    assert_eq!(producer.is_done(position), Ok(true), "{first}: {round}");
                    assert_eq!(producer.is_done(last), Ok(position == last), "{first}: {round}");
                }
            }
        }
    }

    /// Both ends sleep: for messages, and for credits.
    #[test]
    fn sleepers_are_woken_where_positions_begin_anew() {
        const MESSAGES: u32 = 8 * SLOTS;
        let (mut producer, mut consumer) = lane_at(LAST - MESSAGES / 2);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (stop, mut until) = (Stop::default(), Until::after(BOUND));
                for number in 0..MESSAGES {
                    while !producer.try_claim().unwrap() {
                        assert!(!until.is_over(), "no credit for message {number}");
                        producer.sleep_for_credit(&stop, &mut until).unwrap();
                    }
                    send(&mut producer, number);
                    producer.notify();
                }
            });
            let (stop, mut until) = (Stop::default(), Until::after(BOUND));
            for number in 0..MESSAGES {
                assert_eq!(consumer.wait_asleep(&stop, &mut until), Ok(Wait::Ready), "message {number}");
                receive(&mut consumer, number);
                consumer.finish();
                fence_seq_cst();
                consumer.wake_creditor();
            }
        });
    }
}

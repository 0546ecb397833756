//! The sending end of a ring: claim, write, publish, notify.

use core::ops::Deref;

use super::consumer::Consumer;
use crate::slot::{ASLEEP, Header, INLINE_WORDS, LaneSide, SLOTS, Slot, halves};
use crate::sync::{Ordering, fence_seq_cst, own_soon};
use crate::sys::futex::{self, Stop, Until};

/// Sends through the ring in `own`, which the peer only reads.
#[derive(Debug)]
pub struct Producer<S> {
    own: S,
    peer: S,
    /// Position of the next message. Private: nobody can change it for us.
    next: u32,
    /// Messages that the peer said it is done with, as last read and checked.
    done: u32,
    /// Messages about which a sleeping peer has been told.
    notified: u32,
}

/// Slots between the next one and the one whose line is asked for, where several messages are in flight: beyond what the peer
/// polls.
const LEAD: u32 = 8;

/// The peer's `done` counter makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer says that it is done with {found} messages; {sent} were sent and {done} were done before")]
pub struct BadCredit {
    /// The counter that was read.
    pub found: u32,
    /// Messages sent so far.
    pub sent: u32,
    /// Messages done when last read.
    pub done: u32,
}

impl<S: Deref<Target = LaneSide>> Producer<S> {
    /// A producer at position zero of a fresh ring.
    pub fn new(own: S, peer: S) -> Self {
        Self { own, peer, next: 0, done: 0, notified: 0 }
    }

    /// A producer of a ring through which so many messages have gone.
    #[cfg(test)]
    pub(crate) fn at(position: u32, own: S, peer: S) -> Self {
        for before in 0..SLOTS {
            let stamp = position.wrapping_sub(before);
            own.slot(stamp.wrapping_sub(1)).stamp.store(stamp, Ordering::Relaxed);
        }
        Self { next: position, done: position, notified: position, ..Self::new(own, peer) }
    }

    /// Position of the next message to be published.
    #[inline(always)]
    pub fn position(&self) -> u32 {
        self.next
    }

    /// Messages published and not yet done.
    #[inline(always)]
    pub fn outstanding(&self) -> u32 {
        self.next.wrapping_sub(self.done)
    }

    /// Whether one more message may be published: takes a credit if there is one.
    ///
    /// # Errors
    /// [`BadCredit`] if the peer's counter runs backwards or ahead of what was sent.
    #[inline(always)]
    pub fn try_claim(&mut self) -> Result<bool, BadCredit> {
        if self.outstanding() < SLOTS {
            return Ok(true);
        }
        self.refresh_credits()?;
        Ok(self.outstanding() < SLOTS)
    }

    /// Reads the peer's `done` counter once and clamps it.
    ///
    /// # Errors
    /// [`BadCredit`] if the counter runs backwards or ahead of what was sent.
    pub fn refresh_credits(&mut self) -> Result<(), BadCredit> {
        // Acquire: pairs with the Release store in `Consumer::finish`; the peer's reads of the slot are over.
        let found = self.peer.done.load(Ordering::Acquire);
        if found.wrapping_sub(self.done) > self.outstanding() {
            return Err(BadCredit { found, sent: self.next, done: self.done });
        }
        self.done = found;
        Ok(())
    }

    /// Whether the peer is done with the message at `position`, which was published.
    ///
    /// # Errors
    /// [`BadCredit`] as [`Producer::try_claim`].
    pub(crate) fn is_done(&mut self, position: u32) -> Result<bool, BadCredit> {
        self.refresh_credits()?;
        Ok(self.outstanding() < self.next.wrapping_sub(position))
    }

    /// Whether the peer has taken the message at `position`. Only a true answer is a promise of the peer; a
    /// nonsensical counter counts as taken, because then nothing is proved.
    pub fn was_taken(&self, position: u32) -> bool {
        // Relaxed: nothing is read by its word. What it must not be older than was seen with Acquire before: the end.
        let taken = self.peer.taken.load(Ordering::Relaxed);
        let ahead = self.next.wrapping_sub(taken);
        !(ahead <= SLOTS && self.next.wrapping_sub(position) <= ahead)
    }

    /// The messages that the peer is done with, by its word: their handlers have returned, and what those did comes before
    /// whatever is published from now on, on any lane.
    pub fn done_of(peer: &LaneSide) -> u32 {
        // Acquire: pairs with the Release store in `Consumer::finish`.
        peer.done.load(Ordering::Acquire)
    }

    /// Prepares for a message that comes soon, so that publishing it is faster.
    #[inline(always)]
    pub(crate) fn expect_to_publish(&self) {
        own_soon(&self.own.slot(self.next).stamp);
    }

    /// Publishes one message of several that are in flight; the caller has seen [`Producer::try_claim`] say yes.
    #[inline(always)]
    pub fn publish(&mut self, header: Header, payload: &[u64; INLINE_WORDS]) {
        debug_assert!(self.outstanding() < SLOTS, "published without a credit");
        let stamp = self.next.wrapping_add(1);
        self.own.slot(self.next).write(stamp, header, payload);
        self.next = stamp;
        own_soon(&self.own.slot(stamp.wrapping_add(LEAD)).stamp);
    }

    /// The slot of the next message; the caller has seen [`Producer::try_claim`] say yes, and publishes with
    /// [`Producer::publish_written`].
    #[inline(always)]
    pub(crate) fn claimed(&self) -> &Slot {
        self.own.slot(self.next)
    }

    /// Publishes the message whose payload lies in [`Producer::claimed`].
    #[inline(always)]
    pub(crate) fn publish_written(&mut self, header: Header) {
        debug_assert!(self.outstanding() < SLOTS, "published without a credit");
        let stamp = self.next.wrapping_add(1);
        self.own.slot(self.next).write_header(stamp, header);
        self.next = stamp;
    }

    /// Wakes the peer if it is seen to sleep on one of the messages published since it was told last. No fence before it,
    /// so a peer that is about to sleep may be missed: [`Producer::notify`] has to follow in any case.
    #[inline(always)]
    pub fn wake_seen_sleeper(&mut self) {
        let asleep = self.peer.asleep.load(Ordering::Relaxed);
        if asleep & ASLEEP != 0 && self.is_untold(asleep) {
            // Not without the fence: whoever is told stands in `notified`, and is not told again.
            self.notify();
        }
    }

    /// Whether the position in `asleep` was published since the last call of [`Producer::wake_sleeper`].
    #[inline(always)]
    fn is_untold(&self, asleep: u64) -> bool {
        let [position, _] = halves(asleep);
        position.wrapping_sub(self.notified) < self.next.wrapping_sub(self.notified)
    }

    /// Wakes the peer if it sleeps on one of the messages published since the last call.
    ///
    /// Needs [`fence_seq_cst`] between the last publish and this call: it stands between our stamp and the peer's
    /// `asleep`; its partner stands in `Consumer::sleep` between the peer's `asleep` and its last look at the stamp.
    /// One of the two sides must see the other's store.
    #[inline(always)]
    pub(crate) fn wake_sleeper(&mut self) {
        let asleep = self.peer.asleep.load(Ordering::Relaxed);
        if asleep & ASLEEP != 0 && self.is_untold(asleep) {
            let [position, _] = halves(asleep);
            futex::wake(&self.own.slot(position).stamp);
        }
        self.notified = self.next;
    }

    /// Publishes nothing, wakes the peer if it sleeps on what was published.
    #[inline(always)]
    pub fn notify(&mut self) {
        fence_seq_cst();
        self.wake_sleeper();
    }

    /// Wakes the peer if it sleeps on what was published, or for want of credits that `consumer` gave back. One fence serves
    /// both looks.
    #[inline(always)]
    pub fn tell_the_sleeping(&mut self, consumer: &mut Consumer<S>) {
        // Partner of the fences in `Consumer::sleep` and `Producer::sleep_for_credit` of the peer.
        fence_seq_cst();
        self.wake_sleeper();
        consumer.wake_creditor();
    }

    /// Sleeps until the peer is done with at least one more message, for one slice at most.
    ///
    /// # Errors
    /// [`BadCredit`] as [`Producer::try_claim`].
    pub fn sleep_for_credit(&mut self, stop: &Stop, until: &mut Until) -> Result<(), BadCredit> {
        self.own.credit_wanted.store(1, Ordering::Relaxed);
        // Between our `credit_wanted` and our last look at the peer's `done`; partner: the fence in
        // `Producer::tell_the_sleeping` of the peer, between the peer's `done` and its look at our `credit_wanted`.
        fence_seq_cst();
        // Relaxed: if it has changed, `refresh_credits` looks once more before anything is overwritten.
        let found = self.peer.done.load(Ordering::Relaxed);
        if found == self.done {
            futex::wait(&self.peer.done, found, stop, until);
        }
        self.own.credit_wanted.store(0, Ordering::Relaxed);
        self.refresh_credits()
    }
}

//! What other processes hold of our memory. It counts against a cap for each process, over all of its connections, until
//! the kernel says that the memory is gone: whoever reconnects again and again, or agrees to give memory back and keeps
//! it, has no more than whoever does not.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::memory::Witness;
use crate::message::{Budget, Room, Taken};
use crate::peers::{PeerCredentials, PeerInfo};
use crate::sys::fork::{Generation, PerProcess};
use crate::sys::lease::Others;
use crate::sys::process;
use crate::sys::shortage::descriptor_limit;
use crate::sys::watcher::Watcher;

#[cfg(test)]
mod tests;

/// How long after the end of a segment it is asked for, at first and at most; twice as long each time.
const ASK: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(2)];

/// Bytes of base segments of ended connections that a process may hold: some 60 of them. Not in the cap of the rest, of which three may be
/// all there is: an honest process holds some for as long as the lanes of its old connections run.
const BASES: u64 = 100 << 20;

/// As many times what one process may hold, dead ones of its user may have left in other hands before newcomers are turned away;
/// as many times as many pieces. Whoever forks and dies has more than whoever lives, and not without end; and one that dies keeps nobody out.
const DEAD_BYTES: u64 = 4;
const DEAD_PIECES: usize = 2;

fn add([a, b]: [u64; 2], [c, d]: [u64; 2]) -> [u64; 2] {
    [a.saturating_add(c), b.saturating_add(d)]
}

/// How a connection came about: at which path, and whether we listen there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) path: PathBuf,
    pub(crate) listening: bool,
}

/// What one process holds over one route.
#[derive(Debug)]
pub(crate) struct Account {
    peer: PeerInfo,
    route: Route,
    process: Generation,
    books: Mutex<Books>,
    /// What copies of its messages have.
    copies: Arc<Room>,
    /// What all peers of the server may have together.
    budget: Option<Budget>,
}

#[derive(Debug, Default)]
struct Books {
    /// Bytes of the segments that we have mapped, other than base segments.
    lent: u64,
    /// How many they are.
    pieces: usize,
    /// What we have given up and others may still have.
    remains: Vec<Remains>,
}

#[derive(Debug)]
struct Remains {
    bytes: u64,
    /// Whether it was a base segment.
    base: bool,
    witness: Witness,
    _taken: Option<Taken>,
}

impl Books {
    /// Bytes that remain, other than those of base segments.
    fn remaining(&self) -> u64 {
        self.bytes(false)
    }

    fn bytes(&self, base: bool) -> u64 {
        self.remains.iter().filter(|remains| remains.base == base).map(|remains| remains.bytes).sum()
    }

    /// Segments, each of which costs a descriptor: that of its witness.
    fn pieces(&self) -> usize {
        self.pieces + self.remains.len()
    }
}

/// The most segments that one process may have of us, less the base segments of its connections: an eighth of our
/// descriptors.
fn pieces_max() -> usize {
    (descriptor_limit() / 8).clamp(8, 256)
}

/// Too much of our memory is with others already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{held} bytes of {cap} are held already")]
    Bytes { held: u64, cap: u64 },
    #[error("{held} pieces of {cap} are held already")]
    Pieces { held: usize, cap: usize },
    #[error("all peers together have {cap} bytes already")]
    All { cap: u64 },
}

/// All accounts of one process of ours.
#[derive(Debug, Default)]
struct Ledger {
    /// Those of dead peers too, while something remains.
    accounts: Mutex<Vec<Arc<Account>>>,
    /// Between the last time that everybody was asked and the next.
    pause: Mutex<Duration>,
}

impl Ledger {
    fn get() -> &'static Self {
        static ONE: PerProcess<Ledger> = PerProcess::new();
        let Ok(ledger) = ONE.get(|| Ok::<_, Infallible>(Self::default()));
        ledger
    }

    /// The accounts, less those that nobody needs any more.
    fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts = self.accounts.lock();
        accounts.retain(|account| Arc::strong_count(account) > 1 || !account.books.lock().remains.is_empty());
        accounts.clone()
    }
}

impl Account {
    /// The account of the process at the other end: the same one for all of its connections over this route.
    pub(crate) fn of(peer: &PeerInfo, route: &Route, budget: Option<&Budget>) -> Arc<Self> {
        let ledger = Ledger::get();
        // Of the server that there is now: one that follows it in the same process has a budget of its own.
        let is_it =
            |account: &Arc<Self>| account.route == *route && account.is_within(budget) && account.is_of(peer);
        if let Some(known) = ledger.accounts().into_iter().find(is_it) {
            return known;
        }
        let (peer, route) = (peer.clone(), route.clone());
        let (process, books, budget) = (Generation::current(), Mutex::default(), budget.cloned());
        let copies = Arc::new(Room::within(budget.clone()));
        let account = Arc::new(Self { peer, route, process, books, copies, budget });
        ledger.accounts.lock().push(Arc::clone(&account));
        account
    }

    fn is_within(&self, budget: Option<&Budget>) -> bool {
        match (&self.budget, budget) {
            (Some(own), Some(budget)) => own.is(budget),
            (own, budget) => own.is_none() && budget.is_none(),
        }
    }

    /// Room for copies of what the process sends.
    pub(crate) fn copies(&self) -> &Arc<Room> {
        &self.copies
    }

    /// Whether it is this very process. An id is nobody else's while the process lives.
    fn is_of(&self, peer: &PeerInfo) -> bool {
        self.peer.party() == peer.party() && !self.has_ended()
    }

    /// Whether the process has ended, as far as can be known.
    fn has_ended(&self) -> bool {
        self.peer.shared_pidfd().is_some_and(|pidfd| process::has_ended(pidfd))
    }

    /// Whether a connection may be made: what is left of ended ones is within `cap`, and their base segments within [`BASES`];
    /// with those of dead processes of the same user, within [`DEAD_BYTES`] times the larger of the two.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn may_connect(&self, cap: u64) -> Result<(), Full> {
        let accounts = Ledger::get().accounts();
        let dead = accounts.iter().filter(|other| {
            other.route == self.route
                && other.peer.party().uid() == self.peer.party().uid()
                && other.has_ended()
        });
        let own = self.asked();
        let all = dead.map(|other| other.asked()).fold(own, add);
        let most = cap.max(BASES).saturating_mul(DEAD_BYTES);
        let bounds = own.into_iter().zip([cap, BASES]).chain(all.into_iter().zip([most; 2]));
        match bounds.into_iter().find(|(held, cap)| held > cap) {
            Some((held, cap)) => Err(Full::Bytes { held, cap }),
            None => self.has_room(),
        }
    }

    /// Whether the process may have one piece more. Dead ones of its user count with it, and have [`DEAD_PIECES`] times as many in
    /// all; of another user than ours all count, and have no more than one.
    fn has_room(&self) -> Result<(), Full> {
        let foreign = self.peer.party().uid() != Some(PeerCredentials::own().uid);
        let counts = |other: &&Arc<Self>| {
            let kin =
                || other.peer.party().uid() == self.peer.party().uid() && (foreign || other.has_ended());
            other.route == self.route && (core::ptr::eq(&***other, self) || kin())
        };
        let accounts = Ledger::get().accounts();
        let cap = pieces_max();
        let most = if foreign { cap } else { cap * DEAD_PIECES };
        let room = || {
            let all = accounts.iter().filter(counts).map(|one| one.books.lock().pieces()).sum();
            let full =
                [(self.books.lock().pieces(), cap), (all, most)].into_iter().find(|(held, cap)| held >= cap);
            full.map_or(Ok(()), |(held, cap)| Err(Full::Pieces { held, cap }))
        };
        room().or_else(|_| {
            for one in accounts.iter().filter(counts) {
                one.ask(&mut one.books.lock());
            }
            room()
        })
    }

    /// The budget that it is a part of, if that leaves less than the process may have.
    pub(crate) fn scarce(&self, cap: u64) -> Option<&Budget> {
        let left = self.left_of_process(cap);
        self.budget.as_ref().filter(|budget| budget.left() < left)
    }

    /// Bytes that the process may still be lent of `cap`.
    pub(crate) fn left(&self, cap: u64) -> u64 {
        let left = self.left_of_process(cap);
        let Some(budget) = &self.budget else { return left };
        if budget.left() < left {
            // Others may have let go of some.
            let accounts = Ledger::get().accounts();
            let of_all = accounts.iter().filter(|account| account.is_within(Some(budget)));
            of_all.for_each(|account| account.ask(&mut account.books.lock()));
        }
        left.min(budget.left())
    }

    fn left_of_process(&self, cap: u64) -> u64 {
        let mut books = self.books.lock();
        if books.lent.saturating_add(books.remaining()) > cap / 2 {
            self.ask(&mut books);
        }
        cap.saturating_sub(books.lent).saturating_sub(books.remaining())
    }

    /// Counts a segment of `bytes` that is about to be lent.
    ///
    /// # Errors
    /// [`Full`] if the process would have more than `cap`, or too many pieces.
    pub(crate) fn lend(
        self: &Arc<Self>,
        bytes: u64,
        cap: u64,
        witness: Option<Witness>,
    ) -> Result<Lent, Full> {
        self.has_room()?;
        let mut books = self.books.lock();
        let held = books.lent.saturating_add(books.remaining());
        if held.saturating_add(bytes) > cap {
            return Err(Full::Bytes { held, cap });
        }
        let part = |budget: &Budget| budget.part(bytes).ok_or(Full::All { cap: budget.cap() });
        let taken = self.budget.as_ref().map(part).transpose()?;
        books.lent += bytes;
        books.pieces += 1;
        Ok(Lent { account: Arc::clone(self), bytes, counted: bytes, witness, taken })
    }

    /// A base segment: it is counted when its connection has ended and our lanes and views have let go of it. Until then
    /// the number of connections bounds it.
    pub(crate) fn lend_base(self: &Arc<Self>, bytes: u64, witness: Option<Witness>) -> Lent {
        Lent { account: Arc::clone(self), bytes, counted: 0, witness, taken: None }
    }

    /// Bytes that remain, after asking; those of base segments apart.
    fn asked(&self) -> [u64; 2] {
        let mut books = self.books.lock();
        self.ask(&mut books);
        [books.remaining(), books.bytes(true)]
    }

    /// Forgets what is gone, and what nobody can know of: else it would count for ever.
    fn ask(&self, books: &mut Books) {
        books.remains.retain(|remains| remains.witness.others() == Others::Somebody);
    }

    /// A segment is over. Without a witness nobody can tell what becomes of it, and it is forgotten.
    fn bury(&self, bytes: u64, counted: u64, witness: Option<Witness>, taken: Option<Taken>) {
        let mut books = self.books.lock();
        books.lent -= counted;
        books.pieces -= usize::from(counted > 0);
        if let Some(witness) = witness {
            books.remains.push(Remains { bytes, base: counted == 0, witness, _taken: taken });
            drop(books);
            Ledger::get().hurry();
        }
    }
}

/// A segment that a process has; to be dropped when we have unmapped it ourselves.
#[derive(Debug)]
pub(crate) struct Lent {
    account: Arc<Account>,
    bytes: u64,
    counted: u64,
    witness: Option<Witness>,
    taken: Option<Taken>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // In a forked child the memory is its parent's.
        if self.account.process.is_current() {
            self.account.bury(self.bytes, self.counted, self.witness.take(), self.taken.take());
        }
    }
}

impl Ledger {
    /// Something new remains: asks soon.
    fn hurry(&self) {
        self.ask_in(ASK[0]);
    }

    fn ask_in(&self, pause: Duration) {
        *self.pause.lock() = pause;
        match Watcher::get() {
            Ok(watcher) => watcher.call_at(Instant::now() + pause, || Ledger::get().ask()),
            // What remains is asked for when the next connection or segment is made.
            Err(error) => tracing::debug!(%error, "nobody asks who still has our memory"),
        }
    }

    /// Asks everybody, and comes again if something remains.
    fn ask(&self) {
        let remaining = self.accounts().iter().map(|account| account.asked()).fold([0; 2], add);
        // Once more, for those that have nothing any more.
        drop(self.accounts());
        if remaining != [0; 2] {
            let pause = *self.pause.lock();
            self.ask_in((pause * 2).min(ASK[1]));
        }
    }
}

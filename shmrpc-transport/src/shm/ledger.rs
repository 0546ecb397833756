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

/// How long after the end of a segment it is asked for, at first and at most; twice as long each time.
const ASK: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(2)];

/// Bytes of base segments of ended connections that a process may hold: some 60 of them. Not in the cap of the rest, of which three may be
/// all there is: an honest process holds some for as long as the lanes of its old connections run.
const BASES: u64 = 100 << 20;

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

    /// Whether a connection may be made: what is left of ended ones, of this process and of dead ones of the same user,
    /// is within `cap`, and their base segments within [`BASES`].
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
        let [held, bases] = dead.map(|other| other.asked()).fold(self.asked(), add);
        match (held > cap, bases > BASES) {
            (true, _) => Err(Full::Bytes { held, cap }),
            (false, true) => Err(Full::Bytes { held: bases, cap: BASES }),
            (false, false) => self.has_room(),
        }
    }

    /// Whether the process may have one piece more. Dead ones of its user count with it; of another user than ours, all.
    fn has_room(&self) -> Result<(), Full> {
        let foreign = self.peer.party().uid() != Some(PeerCredentials::own().uid);
        let counts = |other: &&Arc<Self>| {
            let kin =
                || other.peer.party().uid() == self.peer.party().uid() && (foreign || other.has_ended());
            other.route == self.route && (core::ptr::eq(&***other, self) || kin())
        };
        let accounts = Ledger::get().accounts();
        let count = || accounts.iter().filter(counts).map(|one| one.books.lock().pieces()).sum::<usize>();
        let (cap, held) = (pieces_max(), count());
        if held < cap {
            return Ok(());
        }
        for one in accounts.iter().filter(counts) {
            one.ask(&mut one.books.lock());
        }
        let held = count();
        if held < cap { Ok(()) } else { Err(Full::Pieces { held, cap }) }
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::peers::Party;
    use crate::shm::memory::Memory;
    use crate::shm::segment::{BASE_LEN, Handout, Segment};
    use crate::sys::process;

    const MIB: u64 = 1 << 20;

    fn account(name: &str, pidfd: bool) -> Arc<Account> {
        account_of(name, pidfd, None)
    }

    fn account_of(name: &str, pidfd: bool, budget: Option<&Budget>) -> Arc<Account> {
        let own = PeerCredentials::own();
        let peer = PeerInfo::new(own, pidfd.then(|| process::open(own.pid.unwrap()).unwrap()));
        Account::of(&peer, &Route { path: name.into(), listening: true }, budget)
    }

    /// Ours, on the account, and the peer's.
    fn share(account: &Arc<Account>, memory: Memory) -> (Segment, Segment) {
        let (mut ours, Handout { descriptor, witness }) = Segment::create(1 << 20, memory).unwrap();
        assert!(witness.is_some());
        ours.charge(account.lend(MIB, 2 * MIB, witness).unwrap());
        (ours, Segment::accept(descriptor, Party::own(), MIB, memory).unwrap())
    }

    #[test]
    fn what_a_peer_keeps_counts_until_it_lets_go() {
        for memory in [Memory::Memfd, Memory::PosixShm] {
            let account = account("keeps", true);
            let (ours, theirs) = share(&account, memory);
            assert_eq!(account.left(2 * MIB), MIB);
            drop(ours);
            assert_eq!(account.left(2 * MIB), MIB, "the peer has it still");
            assert!(account.lend(2 * MIB, 2 * MIB, None).is_err());
            assert_eq!(account.may_connect(MIB), Ok(()));
            assert_eq!(account.may_connect(MIB - 1), Err(Full::Bytes { held: MIB, cap: MIB - 1 }));
            // It is the same account for whoever comes back.
            assert!(Arc::ptr_eq(&account, &self::account("keeps", true)));
            drop(theirs);
            assert_eq!(account.may_connect(0), Ok(()));
            assert_eq!(account.left(2 * MIB), 2 * MIB);
        }
    }

    /// What somebody still has of the memory of ended connections counts, too.
    #[test]
    fn all_peers_of_a_server_have_one_budget() {
        let budget = Budget::new(3 * MIB);
        let [one, other] = ["budget one", "budget other"].map(|name| account_of(name, true, Some(&budget)));
        let (ours, theirs) = share(&one, Memory::Memfd);
        let lent = other.lend(MIB, 4 * MIB, None).unwrap();
        assert_eq!((other.left(4 * MIB), other.left(MIB)), (MIB, 0));
        assert!(other.scarce(4 * MIB).is_some() && other.scarce(MIB).is_none());
        let full = other.lend(2 * MIB, 4 * MIB, None).map(drop).unwrap_err();
        assert_eq!(full, Full::All { cap: 3 * MIB });
        drop(ours);
        assert_eq!((one.left(4 * MIB), other.left(4 * MIB)), (MIB, MIB), "the peer has it still");
        drop(theirs);
        assert_eq!(other.left(4 * MIB), 2 * MIB, "others are asked too");
        // Who follows the server in its process has a budget of its own.
        let next = Budget::new(MIB);
        let [unbounded, bounded] = [None, Some(&next)].map(|budget| account_of("budget other", true, budget));
        assert_eq!((unbounded.left(4 * MIB), bounded.left(4 * MIB)), (4 * MIB, MIB));
        drop(lent);
        assert_eq!(other.left(4 * MIB), 3 * MIB);
    }

    /// Their lanes may run on for a while, and hold them.
    #[test]
    fn base_segments_of_ended_connections_have_a_cap_of_their_own() {
        let account = account("bases", true);
        let most = BASES / BASE_LEN as u64;
        let theirs: Vec<_> = (0..=most)
            .map(|_| {
                assert_eq!(account.may_connect(MIB), Ok(()));
                let (mut ours, handout) = Segment::create(BASE_LEN, Memory::Memfd).unwrap();
                ours.charge(account.lend_base(BASE_LEN as u64, handout.witness));
                Segment::accept(handout.descriptor, Party::own(), BASE_LEN as u64, Memory::Memfd).unwrap()
            })
            .collect();
        assert_eq!(account.left(MIB), MIB, "they take nothing from messages");
        let held = (most + 1) * BASE_LEN as u64;
        assert_eq!(account.may_connect(MIB), Err(Full::Bytes { held, cap: BASES }));
        drop(theirs);
        assert_eq!(account.may_connect(0), Ok(()));
    }

    #[test]
    fn nobody_has_to_ask() {
        let account = account("asks", true);
        let (ours, theirs) = share(&account, Memory::Memfd);
        drop(ours);
        drop(theirs);
        // The witness is a descriptor, and goes when the timer has rung.
        while !account.books.lock().remains.is_empty() {
            std::thread::yield_now();
        }
    }

    /// Each piece costs a descriptor.
    #[test]
    fn many_small_pieces_are_too_many() {
        let account = account("pieces", true);
        let cap = pieces_max();
        let lend = || account.lend(1, MIB, None);
        let mut lent: Vec<_> = (0..cap).map(|_| lend().unwrap()).collect();
        let full = Full::Pieces { held: cap, cap };
        assert_eq!(lend().unwrap_err(), full);
        assert_eq!(account.may_connect(MIB), Err(full));
        // Another process has its own.
        let other = PeerInfo::new(PeerCredentials { pid: Some(1), ..PeerCredentials::own() }, None);
        let another = Account::of(&other, &account.route, None);
        drop(another.lend(1, MIB, None).unwrap());
        lent.pop();
        assert_eq!(account.may_connect(MIB), Ok(()));
        assert!(lend().is_ok());
    }

    /// Else nobody could connect any more, where the kernel gives no leases.
    #[test]
    fn a_witness_that_cannot_know_is_none() {
        let account = account("no leases", true);
        let blind = || Witness(std::fs::File::open("/dev/null").unwrap());
        drop(account.lend(MIB, MIB, Some(blind())).unwrap());
        drop(account.lend_base(MIB, Some(blind())));
        assert_eq!(account.may_connect(0), Ok(()));
        assert_eq!(account.left(MIB), MIB);
        assert_eq!(account.books.lock().remains.len(), 0, "its descriptor stays");
    }

    /// What a dead process holds is not on the account of whoever has its number then.
    #[test]
    fn a_number_that_is_used_again_has_another_account() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let credentials = PeerCredentials { pid: Some(pid), ..PeerCredentials::own() };
        let route = Route { path: "numbers".into(), listening: true };
        let of = |pidfd| Account::of(&PeerInfo::new(credentials, Some(pidfd)), &route, None);
        let first = of(process::open(pid).unwrap());
        assert!(Arc::ptr_eq(&first, &of(process::open(pid).unwrap())));
        drop(child.stdin.take());
        child.wait().unwrap();
        // We stand for somebody who has the number now.
        let living = process::open(PeerCredentials::own().pid.unwrap()).unwrap();
        assert!(!Arc::ptr_eq(&first, &of(living)));
    }

    #[test]
    fn without_a_witness_nothing_is_known_of_what_is_over() {
        let account = account("blind", true);
        drop(account.lend(MIB, MIB, None).unwrap());
        assert_eq!(account.left(MIB), MIB);
    }
}

//! Who has how many of what there is little of: connections, threads, places of those who say hello.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::peers::{Party, PeerCredentials, Process};
use crate::sys::fork::Generation;

/// How many of something there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of all peers.
    pub of_all: usize,
    /// Of one process.
    pub of_one: usize,
}

impl Limit {
    /// What one process may have in any case, if that is at most half: all lanes of one connection, say.
    const LEAST: usize = 64;

    /// If nothing is said of one process, it may have a quarter, or 64, but no more than half.
    pub fn new(of_all: usize, of_one: Option<usize>) -> Self {
        let share = || (of_all / 4).max(Self::LEAST).min(of_all.div_ceil(2));
        Self { of_all, of_one: of_one.unwrap_or_else(share).min(of_all) }
    }

    /// What all processes of one user may have that is not ours. Ours can hurt us in any case.
    fn of_user(self) -> usize {
        self.of_all.div_ceil(2)
    }
}

/// Places under a limit.
#[derive(Debug)]
pub struct Places {
    limit: Limit,
    /// Of all peers of networks.
    of_networks: usize,
    taken: Mutex<Taken>,
    /// Notified when one is given back.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    // Those that have none are not in here.
    by_process: HashMap<Process, usize>,
    by_user: HashMap<Option<u32>, usize>,
}

impl Taken {
    /// Those of one process, or of one address.
    fn of(&self, party: Party) -> usize {
        self.by_process.get(&party.process()).copied().unwrap_or(0)
    }
}

/// Which limit is reached. As text it says so to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    count: usize,
    what: &'static str,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Process(Process),
    User(Option<u32>),
    All,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    party: Party,
    /// In a forked child the places are its parent's.
    process: Generation,
}

impl Places {
    /// None of them taken. Peers of networks have half together, as those of another user have.
    pub fn new(limit: Limit) -> Arc<Self> {
        Self::with(limit, limit.of_user())
    }

    /// The same where nobody but peers of networks comes: they have all.
    pub fn of_networks_alone(limit: Limit) -> Arc<Self> {
        Self::with(limit, limit.of_all)
    }

    fn with(limit: Limit, of_networks: usize) -> Arc<Self> {
        Arc::new(Self { limit, of_networks, taken: Mutex::default(), left: Condvar::new() })
    }

    /// Takes one. `what` there is then, for people.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn take(self: &Arc<Self>, party: Party, what: &'static str) -> Result<Place, Full> {
        let mut taken = self.taken.lock();
        let all = taken.all;
        let own = taken.of(party);
        let of_user = taken.by_user.get(&party.uid()).copied().unwrap_or(0);
        // The smallest first: one less there is one less everywhere.
        if own >= self.limit.of_one {
            return Err(Full { count: own, what, whose: Whose::Process(party.process()) });
        }
        let most_of_user = match party.uid() {
            None => self.of_networks,
            Some(uid) if uid == PeerCredentials::own().uid => usize::MAX,
            Some(_) => self.limit.of_user(),
        };
        if of_user >= most_of_user {
            return Err(Full { count: of_user, what, whose: Whose::User(party.uid()) });
        }
        if all >= self.limit.of_all {
            return Err(Full { count: all, what, whose: Whose::All });
        }
        taken.all += 1;
        *taken.by_process.entry(party.process()).or_default() += 1;
        *taken.by_user.entry(party.uid()).or_default() += 1;
        Ok(Place { places: Arc::clone(self), party, process: Generation::current() })
    }

    /// The same for a peer that may just have left as many as it wants: if `leaves` says so of those that it has, waits for one less
    /// until `deadline`.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn take_soon(
        self: &Arc<Self>,
        party: Party,
        what: &'static str,
        deadline: Instant,
        leaves: impl FnOnce(usize) -> bool,
    ) -> Result<Place, Full> {
        let of_one = |full: &Full| full.whose == Whose::Process(party.process());
        let mut full = match self.take(party, what) {
            Err(full) if of_one(&full) && leaves(full.count) => full,
            taken => return taken,
        };
        loop {
            let mut taken = self.taken.lock();
            while taken.of(party) >= full.count {
                if self.left.wait_until(&mut taken, deadline).timed_out() {
                    return Err(full);
                }
            }
            drop(taken);
            full = match self.take(party, what) {
                // Another one was faster.
                Err(full) if of_one(&full) => full,
                taken => return taken,
            };
        }
    }

    /// Waits until none is taken; without a deadline, for ever. Returns how many are.
    pub fn wait_until_empty(&self, deadline: Option<Instant>) -> usize {
        let mut taken = self.taken.lock();
        while taken.all > 0 {
            match deadline {
                None => self.left.wait(&mut taken),
                Some(deadline) if self.left.wait_until(&mut taken, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        taken.all
    }
}

impl Place {
    /// Whose it is.
    pub(crate) fn party(&self) -> Party {
        self.party
    }
}

impl Full {
    /// Whether one less of this party would leave room.
    pub(crate) fn counts(&self, party: Party) -> bool {
        match self.whose {
            Whose::Process(process) => party.process() == process,
            Whose::User(uid) => party.uid() == uid,
            Whose::All => true,
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, what, whose } = self;
        let (whom, of) = match whose {
            Whose::Process(Process::At(IpAddr::V6(_))) => (" for the /64 of this address".into(), " for one"),
            Whose::Process(Process::At(_)) => (" for this address".into(), " for one"),
            Whose::Process(_) => (" for this process".into(), " for one"),
            Whose::User(None) => (" for peers of networks".into(), " for all of them"),
            Whose::User(Some(uid)) => (format!(" for user {uid}"), " for all of them"),
            Whose::All => (String::new(), ""),
        };
        write!(out, "{count} {what}{whom}, which is this server's limit{of}")
    }
}

impl From<Full> for String {
    fn from(full: Full) -> Self {
        full.to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        one_less(&mut taken.by_process, self.party.process());
        one_less(&mut taken.by_user, self.party.uid());
        drop(taken);
        self.places.left.notify_all();
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn party(pid: i32, uid: u32) -> Party {
        Party::new(&PeerCredentials::said(pid, uid, 0), None)
    }

    #[test]
    fn one_process_has_a_share_and_never_more_than_half() {
        let one = |of_all| Limit::new(of_all, None).of_one;
        assert_eq!([0, 1, 2, 3, 40, 64, 128, 200, 1024].map(one), [0, 1, 1, 2, 20, 32, 64, 64, 256]);
        assert_eq!(Limit::new(3, Some(2)), Limit { of_all: 3, of_one: 2 });
        assert_eq!(Limit::new(3, Some(5)), Limit { of_all: 3, of_one: 3 });
    }

    #[test]
    fn the_processes_of_another_user_have_half_of_all_together() {
        let own = PeerCredentials::own().uid;
        let places = Places::new(Limit { of_all: 8, of_one: 3 });
        let take = |pid, uid| places.take(party(pid, uid), "are there");
        let mut theirs: Vec<_> = (0..4).map(|at| take(1 + at / 3, own + 1).unwrap()).collect();
        let refused = take(3, own + 1).unwrap_err().to_string();
        let why = format!("4 are there for user {}, which is this server's limit for all of them", own + 1);
        assert_eq!(refused, why);
        // Ours may have all that is left, and a third user too.
        let ours: Vec<_> = (0..3).map(|_| take(10, own).unwrap()).collect();
        assert_eq!(
            take(10, own).unwrap_err().to_string(),
            "3 are there for this process, which is this server's limit for one"
        );
        let third = take(20, own + 2).unwrap();
        assert_eq!(take(21, own).unwrap_err().to_string(), "8 are there, which is this server's limit");
        theirs.pop();
        assert!(take(3, own + 1).is_ok());
        drop((theirs, ours, third));
        assert_eq!(places.wait_until_empty(None), 0);
        let taken = places.taken.lock();
        assert!(taken.by_process.is_empty() && taken.by_user.is_empty());
    }

    #[test]
    fn peers_of_networks_have_half_unless_nobody_else_comes() {
        let limit = Limit { of_all: 4, of_one: 4 };
        let host = Party::at([192, 0, 2, 1].into());
        for (places, most) in [(Places::new(limit), 2), (Places::of_networks_alone(limit), 4)] {
            let taken: Vec<_> = (0..4).map_while(|_| places.take(host, "are there").ok()).collect();
            assert_eq!(taken.len(), most);
            let own = places.take(party(1, PeerCredentials::own().uid), "are there");
            assert_eq!(own.is_ok(), most == 2);
        }
    }

    #[test]
    fn whoever_leaves_is_waited_for_and_nobody_else() {
        const BOUND: Duration = Duration::from_secs(30);
        let places = Places::new(Limit { of_all: 4, of_one: 1 });
        let host = Party::at([192, 0, 2, 1].into());
        let soon = |time, leaves: &dyn Fn(usize) -> bool| {
            places.take_soon(host, "are there", Instant::now() + time, leaves)
        };
        let first = soon(BOUND, &|_| panic!("there is room")).unwrap();
        assert!(soon(BOUND, &|taken| taken > 1).is_err(), "it stays");
        assert!(
            soon(Duration::from_millis(1), &|taken| taken == 1).is_err(),
            "it leaves, and is not gone in time"
        );
        let asked = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                soon(BOUND, &|taken| {
                    let _ = asked.0.send(());
                    taken == 1
                })
            });
            asked.1.recv().unwrap();
            drop(first);
            assert!(next.join().unwrap().is_ok());
        });
        let others = places.take(Party::at([192, 0, 2, 2].into()), "are there").unwrap();
        let more = places.take(Party::at([192, 0, 2, 3].into()), "are there").unwrap();
        assert!(soon(BOUND, &|_| panic!("it has none of its own")).is_err());
        drop((others, more));
    }
}

//! Peers that are saying hello: so many may, and whoever says nothing makes room for whoever comes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use parking_lot::Mutex;

use crate::peers::Party;
use crate::places::{Full, Limit, Place, Places};
use crate::sys::shortage::descriptor_limit;

/// Peers that have connected and not yet said hello, at most: of all, and of one process.
const MOST: Limit = Limit { of_all: 256, of_one: 32 };
const WHAT: &str = "peers are saying hello";

/// Who makes room has been there so long, or for a fifth of the time for a hello, if that is less. Nobody is faster who has to
/// hear from the other end first.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a peer is told that had to make room.
pub(super) const MADE_ROOM: &str = "it said no hello yet, and its place was wanted; try again";

/// The limit, if so many descriptors are all that there are: each peer takes up to four, and together they may have a
/// quarter.
pub(super) fn limit(descriptors: usize) -> Limit {
    let of_all = (descriptors / 16).clamp(2, MOST.of_all);
    Limit { of_all, of_one: (of_all / 2).min(MOST.of_one) }
}

/// All peers of one listener. `D` is where a peer is heard, and who is told that it has to make room.
pub(super) struct Arrivals<D> {
    places: Arc<Places>,
    patience: Duration,
    seats: Mutex<Seats<D>>,
}

struct Seats<D> {
    /// Oldest first.
    taken: Vec<Taken<D>>,
    last: u64,
}

struct Taken<D> {
    number: u64,
    since: Instant,
    /// Whether we wait for it now. Else it is being heard, or will be, and makes no room.
    is_awaited: bool,
    place: Place,
    socket: Arc<dyn AsFd + Send + Sync>,
    desk: D,
}

/// Where one peer sits until it has said hello. Left when dropped.
pub(super) struct Seat<D> {
    arrivals: Arc<Arrivals<D>>,
    number: u64,
}

impl<D> Arrivals<D> {
    /// Peers that have `hello_timeout` to say hello. `places` says who they are: [`Places::new`] or
    /// [`Places::of_networks_alone`].
    pub(super) fn new(places: fn(Limit) -> Arc<Places>, hello_timeout: Duration) -> Arc<Self> {
        let patience = (hello_timeout / 5).min(PATIENCE);
        Self::within(places(limit(descriptor_limit())), patience)
    }

    pub(super) fn within(places: Arc<Places>, patience: Duration) -> Arc<Self> {
        let seats = Mutex::new(Seats { taken: Vec::new(), last: 0 });
        Arc::new(Self { places, patience, seats })
    }

    /// A place for one more of `party`. If there is none, somebody who is silent for long makes room, and it is said who.
    ///
    /// # Errors
    /// All of them are just being heard, or have just come.
    pub(super) fn room(&self, party: Party) -> Result<(Place, Option<D>), Full> {
        match self.places.take(party, WHAT) {
            Ok(place) => Ok((place, None)),
            Err(full) => match self.displace(&full) {
                Some(desk) => Ok((self.places.take(party, WHAT)?, Some(desk))),
                None => Err(full),
            },
        }
    }

    /// Of those who count for what is full, one that keeps us waiting: of the process that has most of them, its oldest.
    fn displace(&self, full: &Full) -> Option<D> {
        let mut seats = self.seats.lock();
        let now = Instant::now();
        let counts_and_waits =
            |seat: &Taken<D>| full.counts(seat.place.party()) && seat.keeps_us(now, self.patience);
        let mut waiting: Vec<_> =
            seats.taken.iter().enumerate().filter(|(_, seat)| counts_and_waits(seat)).collect();
        // In a flood all have just come.
        if waiting.is_empty() {
            return None;
        }
        let mut counts = HashMap::<_, usize>::new();
        for seat in &seats.taken {
            *counts.entry(seat.place.party().process()).or_default() += 1;
        }
        waiting.sort_by_key(|(_, seat)| Reverse(counts.get(&seat.place.party().process()).copied()));
        let (at, _) = waiting.into_iter().find(|(_, seat)| is_silent(&*seat.socket))?;
        let Taken { socket, desk, place, .. } = seats.taken.remove(at);
        drop(seats);
        drop(place);
        // Whoever waits for it is woken.
        if let Err(error) = shutdown((*socket).as_fd().as_raw_fd(), Shutdown::Read) {
            tracing::trace!(%error, "the socket was down already");
        }
        Some(desk)
    }

    /// Whoever has a place sits down and is heard at `desk`, from `socket`. Makes no room before somebody [waits](Seat::wait)
    /// for it.
    pub(super) fn seat(
        self: &Arc<Self>,
        place: Place,
        socket: Arc<dyn AsFd + Send + Sync>,
        desk: D,
    ) -> Seat<D> {
        let mut seats = self.seats.lock();
        seats.last += 1;
        let number = seats.last;
        let (since, is_awaited) = (Instant::now(), false);
        seats.taken.push(Taken { number, since, is_awaited, place, socket, desk });
        Seat { arrivals: Arc::clone(self), number }
    }
}

impl<D> Taken<D> {
    /// Whether it could have said more by now.
    fn keeps_us(&self, now: Instant, patience: Duration) -> bool {
        self.is_awaited && now.saturating_duration_since(self.since) >= patience
    }
}

impl<D> Seat<D> {
    /// Waits for the peer, who may have to make room meanwhile. What is done besides waiting is no fault of his: bytes that
    /// were taken from the socket are not looked for there.
    pub(super) fn wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.set_awaited(true);
        let waited = wait();
        self.set_awaited(false);
        waited
    }

    /// The peer is heard by the thread that lets others in: whenever it does, it waits for this one.
    pub(super) fn awaited(self) -> Self {
        self.set_awaited(true);
        self
    }

    fn set_awaited(&self, is_awaited: bool) {
        let mut seats = self.arrivals.seats.lock();
        if let Some(own) = seats.taken.iter_mut().find(|seat| seat.number == self.number) {
            own.is_awaited = is_awaited;
        }
    }

    /// It has said hello, or will not: from now on it need not make room. Nothing if it had to.
    pub(super) fn leave(&self) -> Option<Place> {
        let mut seats = self.arrivals.seats.lock();
        let at = seats.taken.iter().position(|seat| seat.number == self.number)?;
        let left = seats.taken.remove(at);
        drop(seats);
        Some(left.place)
    }
}

impl<D> Drop for Seat<D> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether nothing has come that waits to be heard.
fn is_silent(socket: &dyn AsFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(socket.as_fd().as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::peers::PeerCredentials;

    /// A handshake takes a round trip. Who has just come would never get in if others could take his place meanwhile.
    #[test]
    fn whoever_has_just_come_makes_no_room() {
        let arrivals =
            Arrivals::within(Places::new(Limit { of_all: 6, of_one: 2 }), Duration::from_secs(3600));
        let party = Party::new(&PeerCredentials::own(), None);
        let mut inside = Vec::new();
        for _ in 0..2 {
            let (place, gone) = arrivals.room(party).unwrap();
            assert!(gone.is_none());
            let (far, near) = UnixStream::pair().unwrap();
            inside.push((far, arrivals.seat(place, Arc::new(near), ()).awaited()));
        }
        let refused = arrivals.room(party).unwrap_err().to_string();
        assert!(refused.starts_with("2 peers are saying hello for this process"), "{refused}");
        assert!(inside.iter().all(|(_, seat)| seat.leave().is_some()));
        assert!(arrivals.room(party).is_ok());
    }

    /// Its bytes were taken from the socket, or nobody has looked for them yet.
    #[test]
    fn whoever_is_being_heard_makes_no_room() {
        let arrivals = Arrivals::within(Places::new(Limit { of_all: 6, of_one: 1 }), Duration::ZERO);
        let party = Party::new(&PeerCredentials::own(), None);
        let (place, _) = arrivals.room(party).unwrap();
        let (_far, near) = UnixStream::pair().unwrap();
        let seat = arrivals.seat(place, Arc::new(near), "heard");
        assert!(arrivals.room(party).is_err(), "nobody has waited for it yet");
        seat.wait(|| ());
        assert!(arrivals.room(party).is_err(), "nobody waits for it any more");
        let (_place, gone) = seat.wait(|| arrivals.room(party)).unwrap();
        assert_eq!(gone, Some("heard"));
        assert!(seat.leave().is_none(), "it made room");
    }

    #[test]
    fn whoever_has_most_places_and_says_nothing_makes_room() {
        let own = PeerCredentials::own().uid;
        let arrivals = Arrivals::within(Places::new(Limit { of_all: 6, of_one: 3 }), Duration::ZERO);
        let party = |pid| Party::new(&PeerCredentials::said(pid, own, 0), None);
        let mut inside = Vec::new();
        let mut enter = |pid, name: &'static str, says: &[u8]| {
            let (place, gone) = arrivals.room(party(pid))?;
            let (mut far, near) = UnixStream::pair().unwrap();
            far.write_all(says).unwrap();
            inside.push((far, arrivals.seat(place, Arc::new(near), name).awaited()));
            Ok::<_, Full>(gone)
        };
        assert_eq!(enter(1, "one, first", b""), Ok(None));
        assert_eq!(enter(1, "one, talking", b"h"), Ok(None));
        assert_eq!(enter(1, "one, third", b""), Ok(None));
        // Its own places are full: its oldest that is silent.
        assert_eq!(enter(1, "one, fourth", b""), Ok(Some("one, first")));
        assert_eq!(enter(1, "one, fifth", b"h"), Ok(Some("one, third")));
        assert_eq!(enter(2, "two, first", b""), Ok(None));
        assert_eq!(enter(3, "three, first", b""), Ok(None));
        assert_eq!(enter(3, "three, second", b""), Ok(None));
        // All are full: of whoever has most.
        assert_eq!(enter(4, "four, first", b"h"), Ok(Some("one, fourth")));
        // Who is being heard stays; then the next greediest has to go.
        assert_eq!(enter(4, "four, second", b"h"), Ok(Some("three, first")));
        assert_eq!(enter(4, "four, third", b"h"), Ok(Some("two, first")));
        assert_eq!(enter(4, "four, fourth", b"h").unwrap_err().to_string().split(' ').next(), Some("3"));
        let (_, seat) = &inside[0];
        assert!(seat.leave().is_none(), "it made room");
        let (_, seat) = inside.last().unwrap();
        assert!(seat.leave().is_some());
        drop(inside);
        assert!(arrivals.seats.lock().taken.is_empty());
        assert_eq!(arrivals.places.wait_until_empty(None), 0);
    }
}

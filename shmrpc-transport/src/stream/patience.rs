//! How a lane waits for bytes: it looks for a while before the kernel puts it to sleep, if the other end is on this host.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use super::{Pause, Stream};
use crate::ladder::Ladder;
use crate::sys::futex::Until;

/// What one end of a lane has learned of its waits.
#[derive(Debug)]
pub(crate) struct Patience {
    ladder: Ladder,
    waits: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { ladder: Ladder::of_glances(), waits: 0 }
    }
}

impl Patience {
    /// Receives some bytes into `room`, at least one.
    ///
    /// # Errors
    /// [`Pause`].
    pub(crate) fn receive(
        &mut self,
        stream: &Stream,
        room: &mut [u8],
        until: &mut Until,
    ) -> Result<usize, Pause> {
        // Between hosts what is waited for takes longer than a look pays. Where each system call is counted, looks would be
        // most of them.
        if !stream.is_near() || cfg!(feature = "instrument") {
            return stream.receive(room, until);
        }
        if let Some(found) = self.look(|| stream.glance(room)) {
            return found;
        }
        let received = stream.receive(room, until);
        self.ladder.slept();
        received
    }

    /// The next wait is for what follows a message of `bytes` bytes.
    pub(crate) fn follows(&mut self, bytes: u32) {
        self.ladder.follows(bytes);
    }

    #[inline(always)]
    fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        self.waits = self.waits.wrapping_add(1);
        for _ in 0..self.ladder.spins(self.waits) {
            let found = look();
            if found.is_some() {
                return found;
            }
        }
        self.look_on(look)
    }

    /// The same, when the short spin is over.
    fn look_on<T>(&mut self, look: impl FnMut() -> Option<T>) -> Option<T> {
        let (look, found) = (RefCell::new(look), Cell::new(None));
        let ready = || {
            let seen = (look.borrow_mut())();
            let is_there = seen.is_some();
            found.set(seen);
            is_there
        };
        self.ladder.climb(self.waits, false, ready);
        found.take()
    }
}

/// Whether a TCP connection leads to this host: both ends have one address, or some that no other host has.
pub(super) fn leads_back(fd: &impl AsFd) -> bool {
    let address = |found: nix::Result<SockaddrStorage>| {
        let found = found.ok()?;
        let four = found.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        four.or_else(|| found.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip()).to_canonical()))
    };
    let fd = fd.as_fd().as_raw_fd();
    match (address(getsockname(fd)), address(getpeername(fd))) {
        (Some(own), Some(other)) => own == other || other.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::stream::Pipe;

    /// Nothing here waits so long unless something is broken.
    const BOUND: Duration = Duration::from_secs(30);

    fn pair() -> [Stream; 2] {
        let (near, far) = UnixStream::pair().unwrap();
        [near, far].map(|end| Stream::socket(end.into(), true).unwrap())
    }

    #[test]
    fn what_comes_is_received_whether_it_is_seen_or_wakes_us() {
        let [near, far] = pair();
        let mut patience = Patience::default();
        let answering = thread::spawn(move || {
            let mut room = [0; 8];
            // Now and then later than anybody looks.
            while let Ok(length @ 1..) = far.receive(&mut room, &mut Until::never()) {
                if room[0].is_multiple_of(50) {
                    thread::sleep(Duration::from_millis(1));
                }
                far.send(&room[..length], &mut Until::never()).unwrap();
            }
        });
        for number in 0..=255 {
            near.send(&[number], &mut Until::never()).unwrap();
            let mut room = [0; 8];
            assert_eq!(patience.receive(&near, &mut room, &mut Until::after(BOUND)).unwrap(), 1);
            assert_eq!(room[0], number);
        }
        near.end_sending();
        let end = patience.receive(&near, &mut [0; 8], &mut Until::after(BOUND));
        assert!(matches!(end, Err(Pause::Closed)), "{end:?}");
        answering.join().unwrap();
    }

    #[test]
    fn nobody_looks_beyond_the_deadline() {
        let [near, far] = pair();
        let mut patience = Patience::default();
        let (done, waiting) = channel::<()>();
        let keeping = thread::spawn(move || {
            let _ = waiting.recv_timeout(BOUND);
            drop(far);
        });
        for _ in 0..3 {
            let until = &mut Until::after(Duration::from_millis(1));
            let none = patience.receive(&near, &mut [0; 8], until);
            assert!(matches!(none, Err(Pause::TimedOut)), "{none:?}");
        }
        drop(done);
        keeping.join().unwrap();
    }

    #[test]
    fn only_who_waits_for_somebody_of_this_host_looks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let loopback = [near, far].map(|end| Stream::socket(end.into(), true).unwrap());
        let inside = <[_; 2]>::from(Pipe::pair()).map(Stream::pipe);
        let here = !cfg!(feature = "instrument");
        for ([near, far], looks) in [(pair(), here), (loopback, here), (inside, here)] {
            far.send(&[7], &mut Until::never()).unwrap();
            let mut patience = Patience::default();
            assert_eq!(patience.receive(&near, &mut [0; 8], &mut Until::after(BOUND)).unwrap(), 1);
            assert_eq!(patience.waits, u32::from(looks), "{near:?}");
        }
    }

    /// A further look would receive what follows into the same room.
    #[test]
    fn the_first_look_that_finds_something_is_the_last() {
        let spin = Patience::default().ladder.spins(1);
        assert!(spin > 0);
        for finds in [1, spin, spin + 1] {
            let mut looks = 0;
            let found = Patience::default().look(|| {
                looks += 1;
                (looks >= finds).then_some(looks)
            });
            assert_eq!((found, looks), (Some(finds), finds));
        }
    }

    #[test]
    fn whoever_finds_nothing_stops_looking() {
        let mut looks = 0;
        let found = Patience::default().look(|| {
            looks += 1;
            // There is time for some ten thousand.
            assert!(looks < 10_000_000, "it looks for ever");
            None::<()>
        });
        assert_eq!(found, None);
    }
}

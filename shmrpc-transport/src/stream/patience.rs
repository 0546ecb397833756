//! How a lane waits for bytes: it looks for a while before the kernel puts it to sleep, if the other end is on this host.

use std::cell::{Cell, RefCell};

use super::{Pause, Stream};
use crate::ladder::Ladder;
use crate::sys::futex::Until;

/// What one end of a lane has learned of its waits.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    ladder: Ladder,
    waits: u32,
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
        if !stream.carries_descriptors() || cfg!(feature = "instrument") {
            return stream.receive(room, until);
        }
        if let Some(found) = self.look(|| match stream.receive_now(room) {
            Err(Pause::TimedOut) => None,
            found => Some(found),
        }) {
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

    fn look<T>(&mut self, look: impl FnMut() -> Option<T>) -> Option<T> {
        self.waits = self.waits.wrapping_add(1);
        let (look, found) = (RefCell::new(look), Cell::new(None));
        let ready = || {
            let seen = (look.borrow_mut())();
            let is_there = seen.is_some();
            found.set(seen);
            is_there
        };
        let seen =
            (0..self.ladder.spins(self.waits)).any(|_| ready()) || self.ladder.climb(self.waits, ready);
        found.take().filter(|_| seen)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

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
            assert_eq!(patience.receive(&near, &mut room, &mut Until::never()).unwrap(), 1);
            assert_eq!(room[0], number);
        }
        near.end_sending();
        let end = patience.receive(&near, &mut [0; 8], &mut Until::never());
        assert!(matches!(end, Err(Pause::Closed)), "{end:?}");
        answering.join().unwrap();
    }

    #[test]
    fn nobody_looks_beyond_the_deadline() {
        let [near, _far] = pair();
        let mut patience = Patience::default();
        for _ in 0..3 {
            let until = &mut Until::after(Duration::from_millis(1));
            let none = patience.receive(&near, &mut [0; 8], until);
            assert!(matches!(none, Err(Pause::TimedOut)), "{none:?}");
        }
    }
}

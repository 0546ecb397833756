//! Streams inside one process: two queues of bytes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::Shutdown;
use parking_lot::{Condvar, Mutex};

use super::Pause;
use crate::sys::fork::Generation;
use crate::sys::futex::Until;

/// Bytes that one direction holds at most.
const ROOM: usize = 256 << 10;

/// One end of a pipe that goes both ways. The other end sees a close when this one is dropped.
#[derive(Debug)]
pub struct Pipe {
    incoming: Arc<Way>,
    outgoing: Arc<Way>,
    process: Generation,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    state: Mutex<State>,
    changed: Condvar,
    /// Written under the lock: nothing had come when somebody last looked, and nothing has since. Whoever looks often need not
    /// keep the lock from whoever sends.
    is_quiet: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// They belong to frames in `bytes`, or to one that was taken just now.
    descriptors: VecDeque<OwnedFd>,
    /// Nothing more is put in; what is there can be taken.
    closed: bool,
    /// Nobody takes anything any more.
    deaf: bool,
}

impl Pipe {
    /// The two ends.
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Way>::default(), Arc::<Way>::default());
        let process = Generation::current();
        let near = Self { incoming: Arc::clone(&back), outgoing: Arc::clone(&there), process };
        (near, Self { incoming: there, outgoing: back, process })
    }

    /// Sends some of `bytes`, and with the first of them all of `descriptors`.
    pub(super) fn send(
        &self,
        bytes: &[u8],
        descriptors: &mut Vec<OwnedFd>,
        until: &mut Until,
    ) -> Result<usize, Pause> {
        let mut state = self.outgoing.state.lock();
        loop {
            if state.closed || state.deaf {
                return Err(Pause::Closed);
            }
            let room = ROOM.saturating_sub(state.bytes.len());
            if room > 0 {
                let piece = bytes.get(..room).unwrap_or(bytes);
                state.bytes.write_all(piece)?;
                state.descriptors.extend(descriptors.drain(..));
                self.outgoing.stirs();
                return Ok(piece.len());
            }
            self.outgoing.wait(&mut state, until)?;
        }
    }

    pub(super) fn receive(&self, room: &mut [u8], until: &mut Until) -> Result<usize, Pause> {
        let mut state = self.incoming.state.lock();
        loop {
            if !state.bytes.is_empty() {
                let received = state.bytes.read(room)?;
                self.incoming.changed.notify_all();
                return Ok(received);
            }
            if state.closed || state.deaf {
                return Err(Pause::Closed);
            }
            self.incoming.is_quiet.store(true, Ordering::Relaxed);
            self.incoming.wait(&mut state, until)?;
        }
    }

    /// Receives what is there. [`Pause::TimedOut`] if nothing is.
    pub(super) fn receive_now(&self, room: &mut [u8]) -> Result<usize, Pause> {
        if self.incoming.is_quiet.load(Ordering::Relaxed) {
            return Err(Pause::TimedOut);
        }
        self.receive(room, &mut Until::after(Duration::ZERO))
    }

    /// The next descriptors that came, `count` at most.
    pub(super) fn claim(&self, count: usize) -> Vec<OwnedFd> {
        let mut state = self.incoming.state.lock();
        let count = count.min(state.descriptors.len());
        state.descriptors.drain(..count).collect()
    }

    pub(super) fn shut(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.incoming.change(|state| state.deaf = true);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.outgoing.change(|state| state.closed = true);
        }
    }
}

impl Way {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.stirs();
    }

    /// Something has come, or the end. Called under the lock.
    fn stirs(&self) {
        self.is_quiet.store(false, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn wait(&self, state: &mut parking_lot::MutexGuard<'_, State>, until: &mut Until) -> Result<(), Pause> {
        match until.left() {
            Some(Duration::ZERO) => return Err(Pause::TimedOut),
            Some(left) => drop(self.changed.wait_for(state, left)),
            None => self.changed.wait(state),
        }
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A forked child has a copy, whose locks a thread may hold that is not there.
        if self.process.is_current() {
            self.shut(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, alarm, fork};

    use super::*;

    #[test]
    fn a_forked_child_that_drops_it_waits_for_nobody() {
        let (a, _b) = Pipe::pair();
        let locks = [Arc::clone(&a.incoming), Arc::clone(&a.outgoing)];
        let _held = locks.each_ref().map(|way| way.state.lock());
        // SAFETY: the child drops a value, which does nothing there, and ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                alarm::set(30);
                drop(a);
                // SAFETY: ends the child at once.
                unsafe { nix::libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
                drop(_held);
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_then_the_end() {
        let (a, b) = Pipe::pair();
        let sent: Vec<u8> = (0..ROOM * 3).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let expected = sent.clone();
        let sender = std::thread::spawn(move || {
            let mut rest = sent.as_slice();
            while !rest.is_empty() {
                rest = &rest[a.send(rest, &mut Vec::new(), &mut Until::never()).unwrap()..];
            }
        });
        let (mut received, mut room) = (Vec::new(), [0; 1000]);
        while let Ok(count) = b.receive(&mut room, &mut Until::never()) {
            received.extend_from_slice(&room[..count]);
        }
        sender.join().unwrap();
        assert!(received == expected);
    }

    #[test]
    fn a_look_finds_what_came_and_the_end() {
        let (a, b) = Pipe::pair();
        let look = || b.receive_now(&mut [0; 8]);
        for _ in 0..3 {
            // The first look takes the lock, the second does not.
            assert!(matches!(look(), Err(Pause::TimedOut)));
            assert!(matches!(look(), Err(Pause::TimedOut)));
            a.send(&[7; 12], &mut Vec::new(), &mut Until::never()).unwrap();
            assert_eq!([look().unwrap(), look().unwrap()], [8, 4]);
        }
        assert!(matches!(look(), Err(Pause::TimedOut)));
        a.shut(Shutdown::Write);
        assert!(matches!(look(), Err(Pause::Closed)));
    }

    #[test]
    fn waits_end_in_time_and_with_the_stream() {
        let (a, b) = Pipe::pair();
        let none = a.receive(&mut [0], &mut Until::after(Duration::from_millis(1)));
        assert!(matches!(none, Err(Pause::TimedOut)));
        let waiting = std::thread::spawn(move || a.receive(&mut [0], &mut Until::never()));
        b.shut(Shutdown::Write);
        assert!(matches!(waiting.join().unwrap(), Err(Pause::Closed)));
        assert!(matches!(b.send(b"x", &mut Vec::new(), &mut Until::never()), Err(Pause::Closed)));
    }
}

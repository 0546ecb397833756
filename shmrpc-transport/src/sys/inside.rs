//! Two queues of bytes inside this process, which the watcher can watch.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::fork::Generation;

/// One end. The other one sees a close when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    incoming: Arc<Way>,
    outgoing: Arc<Way>,
    /// In a forked child both ends are its parent's.
    process: Generation,
}

/// One direction.
#[derive(Debug)]
struct Way {
    state: Mutex<State>,
    /// Readable while there are bytes, and when there will be no more.
    ready: EventFd,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
}

impl Inside {
    /// The two ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let way = || {
            let ready = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            Ok::<_, io::Error>(Arc::new(Way { state: Mutex::default(), ready }))
        };
        let (there, back) = (way()?, way()?);
        let process = Generation::current();
        let near = Self { incoming: Arc::clone(&back), outgoing: Arc::clone(&there), process };
        Ok((near, Self { incoming: there, outgoing: back, process }))
    }

    /// Takes all of it: the other end is this process, too.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.outgoing.state.lock();
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.bytes.extend(bytes);
        self.outgoing.ready.write(1)?;
        Ok(bytes.len())
    }

    /// What is there; zero at the end, `None` if there is nothing yet.
    pub(super) fn receive(&self, room: &mut [u8]) -> Option<usize> {
        let mut state = self.incoming.state.lock();
        let received = state.bytes.read(room).unwrap_or(0);
        if received > 0 || state.closed {
            return Some(received);
        }
        // Nothing to reset is as good.
        let _ = self.incoming.ready.read();
        None
    }

    pub(super) fn shut(&self) {
        for way in [&self.incoming, &self.outgoing] {
            way.state.lock().closed = true;
            if let Err(error) = way.ready.write(1) {
                tracing::debug!(%error, "the other end was not woken");
            }
        }
    }
}

impl AsFd for Inside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.incoming.ready.as_fd()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // A forked child has a copy, whose locks a thread may hold that is not there.
        if self.process.is_current() {
            self.shut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::tests::ends_well_in_a_child;

    #[test]
    fn a_forked_child_that_drops_one_waits_for_nobody_and_ends_nothing() {
        let (near, far) = Inside::pair().unwrap();
        let (incoming, outgoing) = (Arc::clone(&near.incoming), Arc::clone(&near.outgoing));
        let held = [incoming.state.lock(), outgoing.state.lock()];
        let mut near = Some(near);
        ends_well_in_a_child(|| {
            drop(near.take());
            true
        });
        drop(held);
        assert!(![incoming, outgoing].iter().any(|way| way.state.lock().closed));
        drop(far);
    }
}

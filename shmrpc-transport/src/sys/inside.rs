//! Two queues of bytes inside this process, which the watcher can watch.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

/// One end. The other one sees a close when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    incoming: Arc<Way>,
    outgoing: Arc<Way>,
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
        let near = Self { incoming: Arc::clone(&back), outgoing: Arc::clone(&there) };
        Ok((near, Self { incoming: there, outgoing: back }))
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
        self.shut();
    }
}

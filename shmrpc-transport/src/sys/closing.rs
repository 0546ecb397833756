//! Closes descriptors that came from a peer and that nobody wants. Closing may block for as long as the peer likes: a TCP
//! socket that lingers, a file that a process of the peer's serves. So neither the watcher nor a caller does it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;

use super::fork::PerProcess;
use super::shortage::explain_thread;

/// Threads at once. What they have no time for stays open.
const MOST: usize = 16;

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<OwnedFd>,
    /// Each of them looks at what waits before it ends.
    threads: usize,
}

/// Closes a descriptor on another thread.
pub(crate) fn elsewhere(fd: OwnedFd) {
    static ONE: PerProcess<Mutex<Work>> = PerProcess::new();
    let Ok(work) = ONE.get(|| Ok::<_, Infallible>(Mutex::default()));
    let mut now = work.lock();
    now.waiting.push_back(fd);
    if now.threads == MOST {
        return;
    }
    now.threads += 1;
    drop(now);
    let thread = std::thread::Builder::new().name("shmrpc-closer".into());
    if let Err(error) = thread.spawn(|| close_all(work)) {
        work.lock().threads -= 1;
        tracing::warn!(
            error = explain_thread(&error),
            "a descriptor of a peer stays open until the next one comes"
        );
    }
}

fn close_all(work: &Mutex<Work>) {
    loop {
        let mut now = work.lock();
        let Some(fd) = now.waiting.pop_front() else {
            now.threads -= 1;
            return;
        };
        drop(now);
        // For what lingers. Anything else has no such option, and a peer that is quick may set it again.
        let _ = setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
        drop(fd);
    }
}

/// A descriptor that came from a peer. It is closed elsewhere, unless somebody keeps it.
#[derive(Debug)]
pub(crate) struct Foreign(Option<OwnedFd>);

impl Foreign {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    /// It is of use.
    pub(crate) fn keep(mut self) -> Option<OwnedFd> {
        self.0.take()
    }

    /// To look at it.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            elsewhere(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::shm::memory::Memory;
    use crate::shm::segment::Segment;

    const BOUND: Duration = Duration::from_secs(30);

    /// A socket whose closing takes an hour, and its other end.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        loop {
            match near.write(&[0; 65_536]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).unwrap();
        (near.into(), far)
    }

    /// Runs it on a thread that may be lost.
    fn in_time(work: impl FnOnce() + Send + 'static) {
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            work();
            done.send(()).unwrap();
        });
        is_done.recv_timeout(BOUND).expect("whoever refused a descriptor waits for its end");
    }

    #[test]
    fn nobody_waits_for_a_socket_that_lingers() {
        let (near, mut far) = lingering();
        in_time(move || drop(Foreign::new(near)));
        // It is closed all the same: what is in it has an end.
        far.set_read_timeout(Some(BOUND)).unwrap();
        assert!(far.read_to_end(&mut Vec::new()).is_ok());

        let (near, _far) = lingering();
        in_time(move || assert!(Segment::accept(near, 4096, Memory::Memfd).is_err()));
    }

    #[test]
    fn what_is_kept_is_not_closed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut kept = std::fs::File::from(Foreign::new(writer.into()).keep().unwrap());
        kept.write_all(b"x").unwrap();
        drop(kept);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 1);
    }
}

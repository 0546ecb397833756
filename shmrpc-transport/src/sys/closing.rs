//! Closes descriptors that came from a peer and that nobody wants. Closing may block for as long as the peer likes: a TCP
//! socket that lingers, a file that a process of the peer's serves. So neither the watcher nor a caller does it. Nor do they
//! close a socket in which such descriptors may wait to be read: they are closed with it.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};
use parking_lot::Mutex;

use super::fork::{Generation, PerProcess};
use super::shortage::{descriptor_limit, explain_thread};
use crate::peers::{Party, PeerCredentials, Process};

/// Threads at once.
const MOST: usize = 16;
/// Bytes of each one's stack: little, since address space may be what is lacking.
const STACK: usize = 128 << 10;
/// Threads that one peer may keep busy.
const OF_ONE: usize = 2;

/// Descriptors of one peer that are not closed yet: an eighth of ours. Beyond, it is not listened to.
fn owed_max() -> usize {
    (descriptor_limit() / 8).clamp(8, 1024)
}

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<(Process, OwnedFd)>,
    /// Each of them looks at what waits before it ends.
    threads: usize,
    peers: HashMap<Process, Of>,
}

/// What there is of one peer.
#[derive(Debug, Default)]
struct Of {
    /// Descriptors that wait or are being closed.
    owed: usize,
    /// Threads that close them.
    threads: usize,
}

impl Work {
    fn of_this_process() -> &'static Mutex<Self> {
        static ONE: PerProcess<Mutex<Work>> = PerProcess::new();
        let Ok(work) = ONE.get(|| Ok::<_, Infallible>(Mutex::default()));
        work
    }

    /// The next one of a peer that does not keep its threads busy already.
    fn next(&mut self) -> Option<(Process, OwnedFd)> {
        let peers = &self.peers;
        let free = |(peer, _): &(Process, OwnedFd)| peers.get(peer).is_none_or(|of| of.threads < OF_ONE);
        let at = self.waiting.iter().position(free)?;
        let (peer, fd) = self.waiting.remove(at)?;
        self.peers.entry(peer).or_default().threads += 1;
        Some((peer, fd))
    }

    fn closed(&mut self, peer: Process) {
        if let Some(of) = self.peers.get_mut(&peer) {
            (of.owed, of.threads) = (of.owed - 1, of.threads - 1);
            if of.owed == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

/// Under whose name it counts: all processes of another user are one, since a process may have children.
fn whose(party: Party) -> Process {
    match party.uid() {
        None => Process::Unknown,
        Some(uid) if uid == PeerCredentials::own().uid => party.process(),
        Some(uid) => Process::OfUser(uid),
    }
}

/// How many descriptors of a peer are not closed yet, if they are too many to take more.
pub(crate) fn too_many(peer: impl FnOnce() -> Party) -> Option<usize> {
    let work = Work::of_this_process().lock();
    if work.peers.is_empty() {
        return None;
    }
    work.peers.get(&whose(peer())).map(|of| of.owed).filter(|owed| *owed >= owed_max())
}

/// Closes a descriptor of a peer on another thread.
pub(crate) fn elsewhere(fd: OwnedFd, from: Party) {
    let work = Work::of_this_process();
    let mut now = work.lock();
    let peer = whose(from);
    now.waiting.push_back((peer, fd));
    now.peers.entry(peer).or_default().owed += 1;
    if now.threads == MOST || now.peers.get(&peer).is_some_and(|of| of.threads >= OF_ONE) {
        return;
    }
    now.threads += 1;
    drop(now);
    let thread = std::thread::Builder::new().name("shmrpc-closer".into()).stack_size(STACK);
    if let Err(error) = thread.spawn(|| close_all(work)) {
        work.lock().threads -= 1;
        tracing::warn!(
            error = explain_thread(&error),
            "a descriptor of a peer stays open until the next one comes"
        );
    }
}

fn close_all(work: &Mutex<Work>) {
    let mut last = None;
    loop {
        let mut now = work.lock();
        if let Some(peer) = last {
            now.closed(peer);
        }
        let Some((peer, fd)) = now.next() else {
            now.threads -= 1;
            return;
        };
        drop(now);
        // For what lingers. Anything else has no such option, and a peer that is quick may set it again.
        let _ = setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
        drop(fd);
        last = Some(peer);
    }
}

/// A descriptor that came from a peer. It is closed elsewhere, unless somebody keeps it.
#[derive(Debug)]
pub(crate) struct Foreign {
    fd: Option<OwnedFd>,
    from: Party,
}

impl Foreign {
    pub(crate) fn new(fd: OwnedFd, from: Party) -> Self {
        Self { fd: Some(fd), from }
    }

    /// Whose it was.
    pub(crate) fn from(&self) -> Party {
        self.from
    }

    /// It is of use.
    pub(crate) fn keep(mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    /// To look at it.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            elsewhere(fd, self.from);
        }
    }
}

/// A socket with a peer at its other end. What waits in it unread may have descriptors beside it; then it is closed
/// elsewhere.
#[derive(Debug)]
pub(crate) struct Facing<T: Into<OwnedFd> + AsFd> {
    // Taken when dropped.
    socket: ManuallyDrop<T>,
    /// Whether the first descriptor of the socket lives.
    first: Arc<Mutex<bool>>,
    is_second: bool,
    /// A child has it only as long as its parent.
    process: Generation,
}

impl<T: Into<OwnedFd> + AsFd> AsFd for Facing<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl<T: Into<OwnedFd> + AsFd> Facing<T> {
    pub(crate) fn new(socket: T) -> Self {
        Self {
            socket: ManuallyDrop::new(socket),
            first: Arc::new(Mutex::new(true)),
            is_second: false,
            process: Generation::current(),
        }
    }

    /// A further descriptor of this socket.
    pub(crate) fn second(&self) -> io::Result<Facing<OwnedFd>> {
        let socket = ManuallyDrop::new(self.socket.as_fd().try_clone_to_owned()?);
        Ok(Facing { socket, first: Arc::clone(&self.first), is_second: true, process: self.process })
    }
}

impl<T: Into<OwnedFd> + AsFd> Deref for Facing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.socket
    }
}

impl<T: Into<OwnedFd> + AsFd> Drop for Facing<T> {
    fn drop(&mut self) {
        // SAFETY: nobody uses it after this.
        let fd: OwnedFd = unsafe { ManuallyDrop::take(&mut self.socket) }.into();
        if !self.process.is_current() {
            return;
        }
        let Some(peer) = other_end(&fd) else { return };
        let mut first = self.first.lock();
        if self.is_second && *first {
            // Whoever drops the first one waits for the lock, so this is not the last, and closes nothing else.
            drop(fd);
            return;
        }
        if !self.is_second {
            *first = false;
            // Nothing more comes into it.
            let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
        }
        drop(first);
        if has_unread(&fd) {
            elsewhere(fd, peer);
        }
    }
}

/// Whether bytes wait in a socket. Descriptors come beside some.
fn has_unread(fd: &OwnedFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and there is room for what the kernel writes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    result != 0 || bytes != 0
}

/// The process that connected a Unix socket, or made the pair, which need not be the one that speaks. `None` for others,
/// which carry no descriptors.
pub(crate) fn other_end(socket: &impl AsFd) -> Option<Party> {
    let by = libc::ucred::from(getsockopt(socket, sockopt::PeerCredentials).ok()?);
    // What the kernel says of a network.
    if by.uid == u32::MAX {
        return None;
    }
    Some(Party::new(&PeerCredentials::said(by.pid, by.uid, by.gid), None))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, IoSlice, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;
    use crate::descriptors::BadDescriptors;
    use crate::shm::memory::Memory;
    use crate::shm::segment::Segment;
    use crate::stream::{Pause, Stream};
    use crate::sys::futex::Until;

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
        in_time(move || drop(Foreign::new(near, Party::own())));
        // It is closed all the same: what is in it has an end.
        far.set_read_timeout(Some(BOUND)).unwrap();
        assert!(far.read_to_end(&mut Vec::new()).is_ok());

        let (near, _far) = lingering();
        in_time(move || assert!(Segment::accept(near, Party::own(), 4096, Memory::Memfd).is_err()));
    }

    /// A socket in which one that lingers waits to be read.
    fn around(near: &OwnedFd) -> UnixStream {
        let (sender, socket) = UnixStream::pair().unwrap();
        let fds = [near.as_raw_fd()];
        let beside = [ControlMessage::ScmRights(&fds)];
        let bytes = [IoSlice::new(b"x")];
        sendmsg::<()>(sender.as_raw_fd(), &bytes, &beside, MsgFlags::empty(), None).unwrap();
        socket
    }

    /// What a read has no room for the kernel closes, on the thread that reads.
    #[test]
    fn nobody_waits_for_descriptors_that_are_more_than_a_frame_may_have() {
        let (near, _far) = lingering();
        let (sender, socket) = UnixStream::pair().unwrap();
        let mut fds = vec![std::io::stderr().as_raw_fd(); 252];
        fds.push(near.as_raw_fd());
        let beside = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(b"x")], &beside, MsgFlags::empty(), None).unwrap();
        drop(near);
        let stream = Stream::socket(socket.into(), false).unwrap();
        in_time(move || {
            let received = stream.receive(&mut [0; 8], &mut Until::never());
            assert!(matches!(received, Err(Pause::Descriptors(_))), "{received:?}");
        });
    }

    #[test]
    fn nobody_waits_for_what_lies_unread_in_a_socket() {
        let (near, _far) = lingering();
        let socket = Facing::new(around(&near));
        drop(near);
        in_time(move || drop(socket));

        let (near, _far) = lingering();
        let stream = Stream::socket(around(&near).into(), false).unwrap();
        drop(near);
        in_time(move || drop(stream));
    }

    /// Nor does he make us keep more than so many of his.
    #[test]
    fn one_peer_does_not_keep_all_threads_busy() {
        let evil = Party::new(&PeerCredentials { pid: Some(1), ..PeerCredentials::own() }, None);
        assert_eq!(too_many(|| evil), None);
        let far: Vec<_> = (0..=MOST)
            .map(|_| {
                let (near, far) = lingering();
                let around = around(&near);
                // First, or this could be the last one, and wait.
                drop(near);
                drop(Foreign::new(around.into(), evil));
                far
            })
            .collect();
        let max = owed_max();
        for _ in MOST + 1..max {
            assert_eq!(too_many(|| evil), None);
            drop(Foreign::new(std::fs::File::open("/dev/null").unwrap().into(), evil));
        }
        assert_eq!(too_many(|| evil), Some(max));
        assert_eq!(too_many(Party::own), None);
        // Nor over his lanes.
        for (from, well) in [(evil, false), (Party::own(), true)] {
            let stream =
                Stream::socket(around(&std::fs::File::open("/dev/null").unwrap().into()).into(), false)
                    .unwrap();
            stream.comes_from(from);
            let received = stream.receive(&mut [0; 8], &mut Until::never());
            let owed = matches!(received, Err(Pause::Descriptors(BadDescriptors::Owed(_))));
            assert_eq!((received.is_ok(), owed), (well, !well), "{received:?}");
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        drop(Foreign::new(writer.into(), Party::own()));
        let (closed, is_closed) = channel();
        std::thread::spawn(move || closed.send(reader.read_to_end(&mut Vec::new()).unwrap()));
        assert_eq!(is_closed.recv_timeout(BOUND), Ok(0), "all threads wait for one peer");
        // His are closed when that is possible.
        drop(far);
        let end = Instant::now() + BOUND;
        while Work::of_this_process().lock().peers.contains_key(&evil.process()) {
            assert!(Instant::now() < end, "not closed");
            std::thread::yield_now();
        }
        assert_eq!(too_many(|| evil), None);
    }

    #[test]
    fn all_processes_of_another_user_are_one() {
        let of = |pid, uid| whose(Party::new(&PeerCredentials::said(pid, uid, 0), None));
        let own = PeerCredentials::own().uid;
        assert_eq!([of(1, own), of(2, own)], [Process::Id(1), Process::Id(2)]);
        assert_eq!([of(1, own + 1), of(2, own + 1)], [Process::OfUser(own + 1); 2]);
    }

    #[test]
    fn what_is_kept_is_not_closed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut kept = std::fs::File::from(Foreign::new(writer.into(), Party::own()).keep().unwrap());
        kept.write_all(b"x").unwrap();
        drop(kept);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 1);
    }
}

//! Between a client and a server: passes everything on and keeps it. What each side can see of the other is the bytes
//! that came on the sockets, and what came beside them: memory, further streams, and descriptors for the application.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, spawn};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg};

use crate::support::until;

/// What one side has let the other see.
#[derive(Default)]
pub(crate) struct Shown {
    /// On the connection's socket, and on each stream.
    bytes: Vec<Vec<u8>>,
    memory: Vec<File>,
    /// What is for the application: all that is neither memory nor a stream.
    handed: Vec<File>,
}

impl Shown {
    /// The bytes on the sockets, and then each piece of memory as it is now.
    pub(crate) fn pieces(&self) -> Vec<Vec<u8>> {
        let memory = self.memory.iter().map(|file| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        self.bytes.iter().cloned().chain(memory).collect()
    }

    /// What a server or a client has shown besides bytes: streams, memory, and which files.
    pub(crate) fn beside(&self) -> (usize, usize, Vec<u64>) {
        (self.bytes.len() - 1, self.memory.len(), self.handed.iter().map(which).collect())
    }

    fn add(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
        self.memory.extend(other.memory);
        self.handed.extend(other.handed);
    }
}

/// What tells files of pipes from one another.
pub(crate) fn which(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

/// A listening socket in front of a server's, for one connection.
pub(crate) struct Tap {
    passing: JoinHandle<[Shown; 2]>,
    handed: Arc<AtomicUsize>,
}

impl Tap {
    /// Listens at `at` for one client of the server that listens at `server`. With `streams` its lanes are streams.
    pub(crate) fn new(at: PathBuf, server: PathBuf, streams: bool) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let handed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&handed);
        let passing = spawn(move || {
            let (client, _) = listener.accept().unwrap();
            between(client, UnixStream::connect(server).unwrap(), streams, &counted)
        });
        Self { passing, handed }
    }

    /// Waits until so many descriptors for the application have been passed on, of both sides together.
    pub(crate) fn until_handed(&self, count: usize) {
        until("descriptors", || self.handed.load(Ordering::Acquire) >= count);
    }

    /// What the client has shown the server, and the server the client; when the connection has ended.
    pub(crate) fn shown(self) -> [Shown; 2] {
        self.passing.join().unwrap()
    }
}

/// Passes on what two sides say, until it ends.
fn between(client: UnixStream, server: UnixStream, streams: bool, handed: &Arc<AtomicUsize>) -> [Shown; 2] {
    let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let count = Arc::clone(handed);
    let up = spawn(move || pass(&from_client, &to_server, streams, &count));
    let (mut down, _) = pass(&server, &client, false, handed);
    let (mut up, streams) = up.join().unwrap();
    for stream in streams {
        let [more_up, more_down] = stream.join().unwrap();
        up.add(more_up);
        down.add(more_down);
    }
    [up, down]
}

/// Further connections, each as [`between`] its two ends.
type Streams = Vec<JoinHandle<[Shown; 2]>>;

/// Passes on what comes from `from`, until it ends. Sockets may be `streams`: in their place others go on, with us in between.
fn pass(from: &UnixStream, to: &UnixStream, streams: bool, handed: &Arc<AtomicUsize>) -> (Shown, Streams) {
    let (mut shown, mut further, mut bytes) = (Shown::default(), Vec::new(), Vec::new());
    let mut piece = vec![0; 1 << 16];
    while let Some((length, fds)) = receive(from, &mut piece) {
        bytes.extend_from_slice(&piece[..length]);
        let (mut on, mut count) = (Vec::new(), 0);
        for fd in fds {
            let file = File::from(fd);
            if streams && file.metadata().unwrap().file_type().is_socket() {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let handed = Arc::clone(handed);
                let client = UnixStream::from(OwnedFd::from(file));
                further.push(spawn(move || between(client, ours, false, &handed)));
                on.push(OwnedFd::from(theirs));
                continue;
            }
            on.push(file.try_clone().unwrap().into());
            if is_memory(&file) {
                shown.memory.push(file);
            } else {
                shown.handed.push(file);
                count += 1;
            }
        }
        if !send(to, &piece[..length], &on) {
            break;
        }
        handed.fetch_add(count, Ordering::Release);
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
    shown.bytes.push(bytes);
    (shown, further)
}

/// Whether it is what shmrpc makes for messages.
fn is_memory(file: &File) -> bool {
    let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    name.to_string_lossy().starts_with("/memfd:shmrpc")
}

/// The next bytes, and the descriptors beside them. `None` at the end.
fn receive(from: &UnixStream, piece: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(piece)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    assert!(!message.flags.contains(MsgFlags::MSG_CTRUNC), "more came beside the bytes");
    let mut fds = Vec::new();
    for part in message.cmsgs().unwrap() {
        let ControlMessageOwned::ScmRights(came) = part else { panic!("{part:?} came beside the bytes") };
        // SAFETY: the kernel has just made them for us.
        fds.extend(came.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    (message.bytes > 0).then_some((message.bytes, fds))
}

/// Passes on all of it. False if nobody wants it.
fn send(to: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> bool {
    let credentials = UnixCredentials::new();
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let beside = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(&fds)];
    let beside = if fds.is_empty() { &beside[..1] } else { &beside[..] };
    let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], beside, MsgFlags::MSG_NOSIGNAL, None);
    sent.is_ok_and(|sent| to.try_clone().unwrap().write_all(&bytes[sent..]).is_ok())
}

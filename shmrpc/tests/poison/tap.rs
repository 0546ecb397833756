//! Between a client and a server: passes everything on and keeps it. What each side can see of the other is the bytes
//! that came on the socket and the memory whose descriptors came with them.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{JoinHandle, spawn};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, sendmsg};

/// What one side has let the other see.
#[derive(Default)]
pub(crate) struct Shown {
    bytes: Vec<u8>,
    memory: Vec<File>,
}

impl Shown {
    /// The bytes on the socket, and then each piece of memory as it is now.
    pub(crate) fn pieces(&self) -> Vec<Vec<u8>> {
        let memory = self.memory.iter().map(|file| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        std::iter::once(self.bytes.clone()).chain(memory).collect()
    }

    /// Passes on what comes from `from`, until it ends.
    fn pass(from: &UnixStream, to: &UnixStream) -> Self {
        let mut shown = Self::default();
        let mut piece = vec![0; 1 << 16];
        let mut control = nix::cmsg_space!([RawFd; 16]);
        loop {
            let mut parts = [IoSliceMut::new(&mut piece)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let Ok(message) = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), flags) else {
                break;
            };
            let mut fds: Vec<RawFd> = Vec::new();
            for part in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(came) = part {
                    fds.extend(came);
                }
            }
            let length = message.bytes;
            if length == 0 {
                break;
            }
            // SAFETY: the kernel has just made them for us.
            shown.memory.extend(fds.iter().map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(*fd) })));
            shown.bytes.extend_from_slice(&piece[..length]);
            let credentials = UnixCredentials::new();
            let beside = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(&fds)];
            let beside = if fds.is_empty() { &beside[..1] } else { &beside[..] };
            let parts = [IoSlice::new(&piece[..length])];
            match sendmsg::<()>(to.as_raw_fd(), &parts, beside, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) if to.try_clone().unwrap().write_all(&piece[sent..length]).is_ok() => {}
                _ => break,
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
        shown
    }
}

/// A listening socket in front of a server's, for one connection.
pub(crate) struct Tap(JoinHandle<[Shown; 2]>);

impl Tap {
    /// Listens at `at` for one client of the server that listens at `server`.
    pub(crate) fn new(at: PathBuf, server: PathBuf) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        Self(spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(server).unwrap();
            let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let up = spawn(move || Shown::pass(&from_client, &to_server));
            let down = Shown::pass(&server, &client);
            [up.join().unwrap(), down]
        }))
    }

    /// What the client has shown the server, and the server the client; when the connection has ended.
    pub(crate) fn shown(self) -> [Shown; 2] {
        self.0.join().unwrap()
    }
}

//! The fuzzer's end of a socket, of either family: what it says, cut anywhere, and all that it hears.

use std::io::{IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, UnixCredentials, recvmsg, sendmsg, setsockopt,
    shutdown, sockopt,
};
use nix::sys::time::TimeVal;
use shmrpc_transport::slot::{BLOCK_REF, FLAG_BLOCK, HEADER, Header};

use crate::wire::BOUND;

pub(super) struct End {
    fd: OwnedFd,
    /// Where it speaks, if each way has a socket of its own.
    to: Option<OwnedFd>,
    unix: bool,
    /// What came and was not looked at.
    pub(super) heard: Vec<u8>,
    /// Descriptors that came.
    pub(super) fds: Vec<OwnedFd>,
    /// Whether nothing more will come.
    pub(super) over: bool,
}

impl From<UnixStream> for End {
    fn from(stream: UnixStream) -> Self {
        Self::new(stream.into(), true)
    }
}

impl From<TcpStream> for End {
    fn from(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::new(stream.into(), false)
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl End {
    fn new(fd: OwnedFd, unix: bool) -> Self {
        let bound = TimeVal::new(i64::try_from(BOUND.as_secs()).unwrap(), 0);
        setsockopt(&fd, sockopt::ReceiveTimeout, &bound).unwrap();
        setsockopt(&fd, sockopt::SendTimeout, &bound).unwrap();
        Self { fd, to: None, unix, heard: Vec::new(), fds: Vec::new(), over: false }
    }

    /// Speaks at another socket from now on.
    pub(super) fn speak_at(&mut self, to: OwnedFd) {
        self.to = Self::new(to, true).fd.into();
    }

    /// Hears at another socket from now on.
    pub(super) fn hear_at(&mut self, from: UnixStream) {
        let before = std::mem::replace(self, from.into());
        self.to = Some(before.fd);
    }

    fn mouth(&self) -> RawFd {
        self.to.as_ref().unwrap_or(&self.fd).as_raw_fd()
    }

    /// Sends bytes, the descriptors beside the first of them. A peer that is gone takes none.
    pub(super) fn send(&self, bytes: &[u8], fds: &[RawFd]) {
        self.send_at(self.mouth(), bytes, fds);
    }

    /// Sends them where nobody listens, if there is such a socket.
    pub(super) fn send_astray(&self, bytes: &[u8], fds: &[RawFd]) {
        if self.to.is_some() {
            self.send_at(self.fd.as_raw_fd(), bytes, fds);
        }
    }

    fn send_at(&self, mouth: RawFd, bytes: &[u8], fds: &[RawFd]) {
        let credentials = UnixCredentials::new();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let alone = if self.unix { &with_fds[..1] } else { &[][..] };
        let mut control = if fds.is_empty() || !self.unix { alone } else { &with_fds[..] };
        let mut rest = bytes;
        while !rest.is_empty() {
            let parts = [IoSlice::new(rest)];
            match sendmsg::<()>(mouth, &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) => (rest, control) = (&rest[sent..], alone),
                Err(Errno::EINTR) => {}
                // The kernel lets none pass where the product takes none.
                Err(Errno::EPERM) if control.len() > 1 => control = alone,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return,
                Err(error) => panic!("the product takes no more bytes: {error}"),
            }
        }
    }

    /// Says that nothing more will come.
    pub(super) fn finish(&self) {
        // Not connected any more, if the product was faster.
        let _ = shutdown(self.mouth(), Shutdown::Write);
    }

    /// Ends it at once: over TCP by a reset.
    pub(super) fn reset(self) {
        if !self.unix {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&self.fd, sockopt::Linger, &linger).unwrap();
        }
    }

    /// Hears more; false when nothing more will come.
    pub(super) fn hear(&mut self) -> bool {
        let mut piece = [0; 4096];
        let mut control = nix::cmsg_space!([RawFd; 16]);
        let mut parts = [IoSliceMut::new(&mut piece)];
        let message = loop {
            match recvmsg::<()>(
                self.fd.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => {
                    self.over = true;
                    return false;
                }
                Err(error) => panic!("the product does not answer: {error}"),
                Ok(message) => break message,
            }
        };
        if self.unix {
            for part in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(fds) = part {
                    // SAFETY: the kernel has just made them for us.
                    self.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
        }
        let length = message.bytes;
        self.heard.extend_from_slice(&piece[..length]);
        self.over |= length == 0;
        length != 0
    }

    /// Hears all until the product has closed it.
    pub(super) fn hear_all(&mut self) {
        while self.hear() {}
    }

    /// The next frame that is here whole.
    pub(super) fn cut(&mut self) -> Option<(Header, Vec<u8>)> {
        let head = self.heard.first_chunk::<HEADER>()?;
        let header = Header::from_frame(head).expect("the product writes good frames");
        let length = if header.flags & FLAG_BLOCK != 0 { BLOCK_REF } else { header.length as usize };
        let whole = HEADER + length;
        (self.heard.len() >= whole).then(|| (header, self.heard.drain(..whole).skip(HEADER).collect()))
    }

    /// The next frame of the product's; none if it has closed the socket.
    pub(super) fn frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(frame) = self.cut() {
                return Some(frame);
            }
            if !self.hear() {
                return None;
            }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Hears all that is said on `main` and on others, until the product has closed `main`.
pub(super) fn hear_until_over(main: &mut End, mut others: Vec<&mut End>) {
    while !main.over {
        let ends = others.iter().map(|end| &**end).chain([&*main]).filter(|end| !end.over);
        let mut fds: Vec<_> = ends.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(BOUND).unwrap()) {
            // The fuzzer's own alarm.
            Err(Errno::EINTR) => continue,
            ready => assert!(ready.unwrap() > 0, "the product hangs"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let ends = others.iter_mut().map(|end| &mut **end).chain([&mut *main]).filter(|end| !end.over);
        for (end, _) in ends.zip(ready).filter(|(_, is_ready)| *is_ready) {
            end.hear();
        }
    }
}

/// A frame, with the length of its payload.
pub(super) fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    let header = Header { length: payload.len().try_into().unwrap(), ..header };
    [&header.to_frame()[..], payload].concat()
}

//! Unix sockets that carry frames, descriptors and credentials.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use super::process;
use crate::peers::PeerCredentials;
use crate::slot::{BadHeader, HEADER, Header};

/// Payload bytes that a control frame may have.
pub(crate) const MAX_CONTROL: usize = 1 << 20;
/// Descriptors that may wait to be claimed by their frames.
const MAX_DESCRIPTORS: usize = 8;

/// Connects to the socket at `path`. A listener whose backlog is full is tried again, for as long as `left` says.
///
/// # Errors
/// The system's; [`io::ErrorKind::TimedOut`] if the backlog stayed full.
pub(crate) fn connect(path: &Path, mut left: impl FnMut() -> Option<Duration>) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let mut pause = Duration::from_millis(1);
    loop {
        match nix::sys::socket::connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EINTR) => {}
            // Nothing tells when there is room again.
            Err(Errno::EAGAIN) if left().is_some_and(|left| left.is_zero()) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(Errno::EAGAIN) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One end of a connected Unix socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
}

/// A frame that has arrived whole.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

/// What reading from a socket came to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the socket failed: {0}")]
    System(#[from] io::Error),
    #[error("bad frame: {0}")]
    BadHeader(#[from] BadHeader),
    #[error("a control frame of {0} bytes is above {MAX_CONTROL}")]
    TooLong(u32),
    #[error("more than {MAX_DESCRIPTORS} descriptors were sent that belong to no frame, or some were lost")]
    Descriptors,
}

impl Socket {
    /// Takes over a connected stream; it becomes non-blocking and reports who sends, until
    /// [`Socket::stop_asking_who`].
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        setsockopt(&stream, sockopt::PassCred, &true)?;
        if !process::pass_pidfd(stream.as_fd(), true) {
            tracing::trace!("the kernel knows no SO_PASSPIDFD");
        }
        Ok(Self { stream })
    }

    /// The peer has said who it is: from now on frames come without a descriptor of their sender's process.
    pub(crate) fn stop_asking_who(&self) {
        process::pass_pidfd(self.stream.as_fd(), false);
    }

    /// Sends as much of `bytes` as the socket takes now, with our credentials, and with `fds` beside the first byte.
    /// Returns how much went: zero if the socket is full. The bytes of a control frame without payload go together.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
        let parts = [IoSlice::new(bytes)];
        let credentials = UnixCredentials::new();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &with_fds[..1] } else { &with_fds };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, flags, None) {
                Ok(sent) => return Ok(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends one frame whole, with the descriptors that belong to it. While the socket is full it waits, for as long as
    /// `left` says each time; without end if that is `None`.
    pub(crate) fn send(
        &self,
        header: Header,
        payload: &[u8],
        fds: &[RawFd],
        mut left: impl FnMut() -> Option<Duration>,
    ) -> io::Result<()> {
        let bytes = frame(header, payload)?;
        let mut rest = bytes.as_slice();
        let mut fds = fds;
        while !rest.is_empty() {
            match self.try_send(rest, fds)? {
                0 => self.wait(PollFlags::POLLOUT, left())?,
                sent => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
            }
        }
        Ok(())
    }

    /// Waits until the socket can be read; without a timeout, for ever.
    pub(crate) fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(PollFlags::POLLIN, timeout)
    }

    fn wait(&self, what: PollFlags, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout
            .map_or(PollTimeout::NONE, |timeout| PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
        let mut fds = [PollFd::new(self.stream.as_fd(), what)];
        match poll(&mut fds, timeout) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Ends the connection for both sides; what was sent before still arrives.
    pub(crate) fn shutdown(&self) {
        if let Err(error) = self.stream.shutdown(std::net::Shutdown::Both) {
            tracing::trace!(%error, "the socket was down already");
        }
    }
}

/// The bytes of a frame.
pub(crate) fn frame(mut header: Header, payload: &[u8]) -> io::Result<Vec<u8>> {
    header.length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&header.to_frame());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Puts frames together from whatever pieces a socket delivers. Keeps its place between calls.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    credentials: Option<PeerCredentials>,
    pidfd: Option<OwnedFd>,
}

impl FrameReader {
    /// The next whole frame; `None` if the socket has no more bytes for now.
    pub(crate) fn next(&mut self, socket: &Socket) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.cut()? {
                return Ok(Some(frame));
            }
            if !self.fill(socket)? {
                return Ok(None);
            }
        }
    }

    /// Who sent the bytes, by the kernel's word.
    pub(crate) fn credentials(&self) -> Option<PeerCredentials> {
        self.credentials
    }

    /// A descriptor of the process that sent the first bytes, if the kernel gave one.
    pub(crate) fn take_pidfd(&mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    /// The oldest descriptor that no frame has claimed.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    fn cut(&mut self) -> Result<Option<Frame>, ReadError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::from_frame(head)?;
        let length = header.length as usize;
        if length > MAX_CONTROL {
            return Err(ReadError::TooLong(header.length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.bytes.drain(..HEADER + length);
        Ok(Some(Frame { header, payload }))
    }

    /// Reads once. False if nothing is there.
    fn fill(&mut self, socket: &Socket) -> Result<bool, ReadError> {
        let mut piece = [0; 4096];
        let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS], UnixCredentials, RawFd);
        let mut parts = [IoSliceMut::new(&mut piece)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = loop {
            match recvmsg::<()>(socket.stream.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::ECONNRESET) => return Err(ReadError::Closed),
                Err(errno) => return Err(ReadError::System(errno.into())),
                Ok(message) => break message,
            }
        };
        let lost = message.flags.contains(MsgFlags::MSG_CTRUNC);
        for part in message.cmsgs().map_err(|errno| ReadError::System(errno.into()))? {
            match part {
                ControlMessageOwned::ScmRights(fds) => {
                    // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                    self.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                ControlMessageOwned::ScmCredentials(by) => {
                    self.credentials = Some(PeerCredentials { pid: by.pid(), uid: by.uid(), gid: by.gid() });
                }
                ControlMessageOwned::Unknown(part) => {
                    let head = part.cmsg_header;
                    let pidfd = process::pidfd_in(head.cmsg_level, head.cmsg_type, &part.data_bytes);
                    // The first one stays: it came with the hello. A later one is closed here.
                    self.pidfd = self.pidfd.take().or(pidfd);
                }
                _ => {}
            }
        }
        let length = message.bytes;
        if lost || self.fds.len() > MAX_DESCRIPTORS {
            return Err(ReadError::Descriptors);
        }
        if length == 0 {
            return Err(ReadError::Closed);
        }
        self.bytes.extend_from_slice(piece.get(..length).unwrap_or_default());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Kind;

    fn pair() -> (Socket, Socket) {
        let (a, b) = UnixStream::pair().unwrap();
        (Socket::new(a).unwrap(), Socket::new(b).unwrap())
    }

    #[test]
    fn a_frame_arrives_with_its_descriptor_and_our_credentials() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        let payload = vec![7; 10_000];
        a.send(Header::new(Kind::Hello), &payload, &[file.as_raw_fd()], || None).unwrap();
        a.send(Header::new(Kind::Ping), &[], &[], || None).unwrap();
        let mut reader = FrameReader::default();
        let frame = reader.next(&b).unwrap().unwrap();
        assert_eq!((frame.header.kind, frame.payload), (Kind::Hello, payload));
        assert!(reader.take_descriptor().is_some());
        assert!(reader.take_pidfd().is_none_or(|pidfd| !process::has_ended(&pidfd)));
        b.stop_asking_who();
        assert_eq!(reader.credentials().unwrap(), PeerCredentials::own());
        assert_eq!(reader.next(&b).unwrap().unwrap().header.kind, Kind::Ping);
        assert!(reader.next(&b).unwrap().is_none());
        drop(a);
        assert!(matches!(reader.next(&b), Err(ReadError::Closed)));
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_it_is_stored() {
        let (a, b) = pair();
        let mut header = Header::new(Kind::Hello);
        header.length = u32::MAX;
        let mut stream = &a.stream;
        io::Write::write_all(&mut stream, &header.to_frame()).unwrap();
        assert!(matches!(FrameReader::default().next(&b), Err(ReadError::TooLong(u32::MAX))));
    }
}

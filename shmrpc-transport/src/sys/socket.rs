//! Unix sockets that carry frames, descriptors and credentials.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::process;
use crate::peers::PeerCredentials;
use crate::slot::{BadHeader, HEADER, Header};

/// Payload bytes that a control frame may have.
pub(crate) const MAX_CONTROL: usize = 1 << 20;
/// Descriptors that may wait to be claimed by their frames.
const MAX_DESCRIPTORS: usize = 8;
/// How long a full socket may stay full before the peer counts as stuck.
const STUCK_MS: u16 = 1_000;

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

/// Connects to the socket at `path`. A frozen server with a full backlog keeps nobody waiting for longer than
/// `timeout`.
pub(crate) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Zero would be for ever; a time that this type cannot tell is.
    let limit = timeout.max(Duration::from_micros(1));
    if let (Ok(seconds), micros) = (i32::try_from(limit.as_secs()), limit.subsec_micros()) {
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds.into(), micros.into()))?;
    }
    let place = UnixAddr::new(path)?;
    loop {
        match nix::sys::socket::connect(fd.as_raw_fd(), &place) {
            Ok(()) => return Ok(fd.into()),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
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

    /// Sends one frame, with the descriptors that belong to it and with our credentials.
    pub(crate) fn send(&self, header: Header, payload: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let mut header = header;
        header.length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let head = header.to_frame();
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        let mut rest = bytes.as_slice();
        let credentials = own_credentials();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let mut control: &[ControlMessage<'_>] = if fds.is_empty() { &with_fds[..1] } else { &with_fds };
        while !rest.is_empty() {
            let parts = [IoSlice::new(rest)];
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    // The kernel would name our real user beside the rest, which need not be our effective one.
                    control = &with_fds[..1];
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.wait(PollFlags::POLLOUT, Some(Duration::from_millis(STUCK_MS.into())))?
                }
                Err(errno) => return Err(errno.into()),
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

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Who we are to others: the user whose rights we have.
fn own_credentials() -> UnixCredentials {
    let PeerCredentials { pid, uid, gid } = PeerCredentials::own();
    UnixCredentials::from(libc::ucred { pid, uid, gid })
}

/// Puts frames together from whatever pieces a socket delivers. Keeps its place between calls.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    credentials: Option<PeerCredentials>,
    /// Not all bytes came from the process that sent the first ones.
    mixed: bool,
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

    /// Who sent the bytes, all of them, by the kernel's word; or why that is not known.
    pub(crate) fn sender(&self) -> Result<PeerCredentials, &'static str> {
        match self.credentials {
            Some(_) if self.mixed => Err("the hello came from more than one process"),
            Some(credentials) => Ok(credentials),
            None => Err("the hello came without credentials"),
        }
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
                    let by = PeerCredentials { pid: by.pid(), uid: by.uid(), gid: by.gid() };
                    self.mixed |= *self.credentials.get_or_insert(by) != by;
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
        a.send(Header::new(Kind::Hello), &payload, &[file.as_raw_fd()]).unwrap();
        a.send(Header::new(Kind::Ping), &[], &[]).unwrap();
        let mut reader = FrameReader::default();
        let frame = reader.next(&b).unwrap().unwrap();
        assert_eq!((frame.header.kind, frame.payload), (Kind::Hello, payload));
        assert!(reader.take_descriptor().is_some());
        assert!(reader.take_pidfd().is_none_or(|pidfd| !process::has_ended(&pidfd)));
        b.stop_asking_who();
        assert_eq!(reader.sender().unwrap(), PeerCredentials::own());
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

    /// Somebody who begins a hello and has another process end it is taken for neither.
    #[test]
    fn bytes_of_two_processes_have_no_sender() {
        let (a, b) = pair();
        let mut header = Header::new(Kind::Hello);
        header.length = 5;
        let mut stream = &a.stream;
        io::Write::write_all(&mut stream, &header.to_frame()).unwrap();
        let mut reader = FrameReader::default();
        assert!(reader.next(&b).unwrap().is_none());
        assert_eq!(reader.sender().unwrap().pid, PeerCredentials::own().pid);
        let rest = OwnedFd::from(a.stream.try_clone().unwrap());
        let status = std::process::Command::new("echo").args(["-n", "hello"]).stdout(rest).status();
        assert!(status.unwrap().success());
        let frame = reader.next(&b).unwrap().unwrap();
        assert_eq!(frame.payload, b"hello");
        assert_eq!(reader.sender(), Err("the hello came from more than one process"));
    }
}

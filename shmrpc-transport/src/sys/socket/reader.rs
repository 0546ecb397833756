//! Reads frames from a socket, and what comes beside them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::{Carries, Frame, MAX_CONTROL, ReadError, Socket};
use crate::peers::PeerCredentials;
use crate::slot::{HEADER, Header, Kind};
use crate::sys::closing::{self, Foreign};
use crate::sys::process;

/// Puts frames together from whatever pieces a socket delivers. Keeps its place between calls.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    /// Those whose frames are not whole yet: one, and another one while the rest of its frame is read.
    fds: VecDeque<Foreign>,
    /// What came with the last whole frame.
    claimed: Option<Foreign>,
    credentials: Option<PeerCredentials>,
    /// Not all bytes came from the process that sent the first ones.
    mixed: bool,
    pidfd: Option<OwnedFd>,
    /// Whether a lane comes with its stream.
    lanes_have_streams: bool,
}

impl FrameReader {
    /// A reader that begins with bytes that have been read already.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// From now on a lane comes with its stream.
    pub(crate) fn expect_streams(&mut self) {
        self.lanes_have_streams = true;
    }

    /// The next whole frame; `None` if the socket has no more bytes for now. After an error nothing is kept open.
    pub(crate) fn next(&mut self, socket: &Socket) -> Result<Option<Frame>, ReadError> {
        let next = self.read(socket);
        if next.is_err() {
            self.fds.clear();
        }
        next
    }

    fn read(&mut self, socket: &Socket) -> Result<Option<Frame>, ReadError> {
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

    /// The descriptor that came with the last whole frame, if it wants one. Unclaimed, it is closed with the next frame.
    pub(crate) fn take_descriptor(&mut self) -> Option<Foreign> {
        self.claimed.take()
    }

    /// The next whole frame of those bytes that were read already.
    pub(crate) fn cut(&mut self) -> Result<Option<Frame>, ReadError> {
        self.claimed = None;
        let frame = self.whole()?;
        match &frame {
            Some(frame) if self.wants_descriptor(frame.header.kind) => self.claimed = self.fds.pop_front(),
            Some(_) => {}
            // A descriptor comes with the first byte of its frame.
            None if self.fds.len() > usize::from(self.begun_one_that_wants()) => {
                return Err(ReadError::Descriptors);
            }
            None => {}
        }
        Ok(frame)
    }

    /// The frames that have one descriptor beside them.
    fn wants_descriptor(&self, kind: Kind) -> bool {
        match kind {
            Kind::Hello | Kind::SegmentAdd => true,
            Kind::LaneOpen => self.lanes_have_streams,
            _ => false,
        }
    }

    /// Whether the bytes that there are may be the beginning of a frame with a descriptor.
    fn begun_one_that_wants(&self) -> bool {
        match self.bytes.first_chunk() {
            Some(head) => Header::from_frame(head).is_ok_and(|header| self.wants_descriptor(header.kind)),
            None => !self.bytes.is_empty(),
        }
    }

    fn whole(&mut self) -> Result<Option<Frame>, ReadError> {
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
        if let Carries::Inside(end) = &socket.stream {
            return match end.receive(&mut piece) {
                None => Ok(false),
                Some(0) => Err(ReadError::Closed),
                Some(length) => {
                    self.bytes.extend_from_slice(piece.get(..length).unwrap_or_default());
                    Ok(true)
                }
            };
        }
        if let Some(owed) = closing::too_many(|| socket.who_connected()) {
            return Err(ReadError::Owes(owed));
        }
        let mut control = Control([0; CONTROL]);
        let received = loop {
            match receive(socket.as_fd(), &mut piece, &mut control) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::ECONNRESET) => return Err(ReadError::Closed),
                Err(errno) => return Err(ReadError::System(errno.into())),
                Ok(received) => break received,
            }
        };
        let pending = self.fds.len();
        for (level, kind, data) in parts(control.0.get(..received.control).unwrap_or_default()) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let fds = data.as_chunks().0.iter().copied().map(RawFd::from_ne_bytes);
                    let from = socket.who_connected();
                    // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                    self.fds.extend(fds.map(|fd| Foreign::new(unsafe { OwnedFd::from_raw_fd(fd) }, from)));
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    if let ([pid, uid, gid], _) = data.as_chunks() {
                        let by = PeerCredentials {
                            pid: i32::from_ne_bytes(*pid),
                            uid: u32::from_ne_bytes(*uid),
                            gid: u32::from_ne_bytes(*gid),
                        };
                        self.mixed |= *self.credentials.get_or_insert(by) != by;
                    }
                }
                _ => {
                    let pidfd = process::pidfd_in(level, kind, data);
                    // The first one stays: it came with the hello. A later one is closed here.
                    self.pidfd = self.pidfd.take().or(pidfd);
                }
            }
        }
        if received.lost {
            return Err(ReadError::OutOfDescriptors);
        }
        // One message of the peer's, and none of ours has two.
        if self.fds.len() > pending + 1 {
            return Err(ReadError::Descriptors);
        }
        if received.length == 0 {
            return Err(ReadError::Closed);
        }
        self.bytes.extend_from_slice(piece.get(..received.length).unwrap_or_default());
        Ok(true)
    }
}

/// Bytes for all that can come beside one message: the kernel passes up to 253 descriptors, credentials, a pidfd, and
/// their heads. So nothing is lost but what this process has no descriptor for.
const CONTROL: usize = 1280;

#[repr(C, align(16))]
struct Control([u8; CONTROL]);

/// What one read came to.
struct Received {
    /// Bytes.
    length: usize,
    /// Bytes beside them.
    control: usize,
    /// Whether descriptors were lost.
    lost: bool,
}

/// Not nix's, which forgets the descriptors that arrived when others were lost.
fn receive(socket: BorrowedFd<'_>, piece: &mut [u8], control: &mut Control) -> Result<Received, Errno> {
    let mut part = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
    // SAFETY: zeros are a message header without name, parts and control bytes.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header names `piece` and `control` with their lengths; both are ours to write during the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(length)?;
    Ok(Received {
        length: usize::try_from(length).unwrap_or(0),
        control: message.msg_controllen as _,
        lost: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// The parts of what came beside the bytes: their level, type and data (cmsg(3)).
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    const WORD: usize = size_of::<usize>();
    core::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<WORD>()?;
        let length = usize::from_ne_bytes(*length);
        let (level, rest) = rest.split_first_chunk()?;
        let kind = rest.first_chunk()?;
        let data = bytes.get(size_of::<libc::cmsghdr>()..length)?;
        bytes = bytes.get(length.checked_next_multiple_of(WORD)?..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixStream;

    use super::super::frame;
    use super::*;

    fn pair() -> (Socket, Socket) {
        let (a, b) = UnixStream::pair().unwrap();
        (Socket::new(a).unwrap(), Socket::new(b).unwrap())
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_it_is_stored() {
        let (a, b) = pair();
        let mut header = Header::new(Kind::Hello);
        header.length = u32::MAX;
        let mut stream = std::fs::File::from(a.as_fd().try_clone_to_owned().unwrap());
        io::Write::write_all(&mut stream, &header.to_frame()).unwrap();
        assert!(matches!(FrameReader::default().next(&b), Err(ReadError::TooLong(u32::MAX))));
    }

    /// However many a peer sends, and beside whatever: what is refused is closed, while the reader lives on.
    #[test]
    fn descriptors_that_belong_to_no_frame_are_refused_and_closed() {
        for (kind, count) in [
            (Kind::Ping, 1),
            (Kind::LaneOpen, 1),
            (Kind::SegmentRetire, 1),
            (Kind::Ping, 2),
            (Kind::SegmentAdd, 2),
            (Kind::Ping, 9),
            (Kind::Hello, 60),
            (Kind::Ping, 253),
        ] {
            let (a, b) = pair();
            let (mut ours, theirs) = io::pipe().unwrap();
            a.send(Header::new(kind), &[], &vec![theirs.as_raw_fd(); count], || None).unwrap();
            drop(theirs);
            let mut reader = FrameReader::default();
            // The frame itself may pass: it is not known yet whether the next one wants it.
            let read = reader.next(&b).and_then(|_| reader.next(&b));
            assert!(matches!(read, Err(ReadError::Descriptors)), "{kind:?} with {count}: {read:?}");
            // The pipe has no writer left.
            assert_eq!(io::Read::read(&mut ours, &mut [0]).unwrap(), 0, "{kind:?} with {count}");
            drop(reader);
        }
    }

    /// A frame that never comes whole keeps its own descriptor and no other.
    #[test]
    fn no_more_than_one_descriptor_waits_for_its_frame() {
        let (a, b) = pair();
        let mut reader = FrameReader::default();
        let file = std::fs::File::open("/dev/null").unwrap();
        let add = frame(Header::new(Kind::SegmentAdd), &[0; 8]).unwrap();
        assert_eq!(a.try_send(&add[..10], &[file.as_raw_fd()]).unwrap(), 10);
        assert!(reader.next(&b).unwrap().is_none());
        assert_eq!(reader.fds.len(), 1);
        // Its rest, and the next one with its own.
        a.try_send(&add[10..], &[]).unwrap();
        a.try_send(&add, &[file.as_raw_fd()]).unwrap();
        for _ in 0..2 {
            assert_eq!(reader.next(&b).unwrap().unwrap().header.kind, Kind::SegmentAdd);
            assert!(reader.take_descriptor().is_some());
        }
        assert!(reader.next(&b).unwrap().is_none());
        a.try_send(&add[..30], &[file.as_raw_fd()]).unwrap();
        assert!(reader.next(&b).unwrap().is_none());
        a.try_send(&add[30..31], &[file.as_raw_fd()]).unwrap();
        assert!(matches!(reader.next(&b), Err(ReadError::Descriptors)));
        assert_eq!(reader.fds.len(), 0);
    }

    /// Somebody who begins a hello and has another process end it is taken for neither.
    #[test]
    fn bytes_of_two_processes_have_no_sender() {
        let (a, b) = pair();
        let mut header = Header::new(Kind::Hello);
        header.length = 5;
        let mut stream = std::fs::File::from(a.as_fd().try_clone_to_owned().unwrap());
        io::Write::write_all(&mut stream, &header.to_frame()).unwrap();
        let mut reader = FrameReader::default();
        assert!(reader.next(&b).unwrap().is_none());
        assert_eq!(reader.sender().unwrap().pid, PeerCredentials::own().pid);
        let rest = stream.as_fd().try_clone_to_owned().unwrap();
        let status = std::process::Command::new("echo").args(["-n", "hello"]).stdout(rest).status();
        assert!(status.unwrap().success());
        let frame = reader.next(&b).unwrap().unwrap();
        assert_eq!(frame.payload, b"hello");
        assert_eq!(reader.sender(), Err("the hello came from more than one process"));
    }
}

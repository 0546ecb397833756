//! Reads frames from a socket, and what comes beside them.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::{Carries, Frame, MAX_CONTROL, MAX_SHORT, ReadError, Socket};
use crate::peers::PeerCredentials;
use crate::slot::{DESCRIPTORS_MAX, HEADER, Header, Kind};
use crate::sys::beside::{self, Part};
use crate::sys::closing::{self, Foreign};

/// Puts frames together from whatever pieces a socket delivers. Keeps its place between calls.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    bytes: Vec<u8>,
    /// Those whose frames are not whole yet: of one frame, and of another one while the rest of the first is read.
    fds: VecDeque<Foreign>,
    /// What came with the last whole frame.
    claimed: Vec<Foreign>,
    credentials: Option<PeerCredentials>,
    /// Not all bytes came from the process that sent the first ones.
    mixed: bool,
    pidfd: Option<OwnedFd>,
    /// Whether a lane comes with its stream.
    lanes_have_streams: bool,
    /// Whether frames of [`Kind::Descriptors`] come; else no frame has more than one.
    several: bool,
    /// Whether no frame is longer than [`MAX_SHORT`].
    short: bool,
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

    /// From now on frames may have as many descriptors as they announce.
    pub(crate) fn expect_descriptors(&mut self) {
        self.several = true;
    }

    /// From now on frames are short, and room for a long one is given back.
    pub(crate) fn expect_short(&mut self) {
        self.short = true;
        self.bytes.shrink_to(MAX_SHORT);
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
                // Frames with several descriptors are short, and come whole.
                return if self.fds.len() > 1 { Err(ReadError::Descriptors) } else { Ok(None) };
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
        self.claimed.pop()
    }

    /// The same for a frame that may have several: as many as it announces, or all that came.
    pub(crate) fn take_descriptors(&mut self) -> Vec<Foreign> {
        mem::take(&mut self.claimed)
    }

    /// The next whole frame of those bytes that were read already.
    pub(crate) fn cut(&mut self) -> Result<Option<Frame>, ReadError> {
        self.claimed.clear();
        let frame = self.whole()?;
        match &frame {
            Some(frame) => {
                let wanted = self.wanted(frame.header).min(self.fds.len());
                self.claimed.extend(self.fds.drain(..wanted));
            }
            // A descriptor comes with the first byte of its frame.
            None if self.fds.len() > self.wanted_by_what_began() => return Err(ReadError::Descriptors),
            None => {}
        }
        Ok(frame)
    }

    /// The descriptors that a frame has beside it.
    fn wanted(&self, header: Header) -> usize {
        match header.kind {
            Kind::Hello | Kind::SegmentAdd => 1,
            Kind::LaneOpen => usize::from(self.lanes_have_streams),
            Kind::Descriptors => header.descriptors(),
            _ => 0,
        }
    }

    /// The descriptors that the frame may have whose beginning there is.
    fn wanted_by_what_began(&self) -> usize {
        match self.bytes.first_chunk() {
            Some(head) => Header::from_frame(head).map_or(0, |header| self.wanted(header)),
            None if self.bytes.is_empty() => 0,
            None => self.most(),
        }
    }

    /// Descriptors that one frame may have.
    fn most(&self) -> usize {
        if self.several { DESCRIPTORS_MAX } else { 1 }
    }

    fn whole(&mut self) -> Result<Option<Frame>, ReadError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::from_frame(head)?;
        let length = header.length as usize;
        let max = if self.short { MAX_SHORT } else { MAX_CONTROL };
        if length > max {
            return Err(ReadError::TooLong { length: header.length, max });
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.bytes.drain(..HEADER + length);
        Ok(Some(Frame { header, payload }))
    }

    /// Reads once. False if nothing is there.
    fn fill(&mut self, socket: &Socket) -> Result<bool, ReadError> {
        let mut piece = [0; 4096];
        let without_control = match &socket.stream {
            Carries::Tls(link) => {
                let received = link.receive_all(&mut self.bytes);
                Some(received.map_err(|how| super::broken(link.as_fd(), how))?)
            }
            Carries::Inside(end) => {
                let received = end.receive(&mut piece);
                self.bytes.extend_from_slice(piece.get(..received.unwrap_or(0)).unwrap_or_default());
                Some(received)
            }
            Carries::All(_) | Carries::Bytes(_) => None,
        };
        match without_control {
            None => {}
            Some(None) => return Ok(false),
            Some(Some(0)) => return Err(ReadError::Closed),
            Some(Some(_)) => return Ok(true),
        }
        if let Some(owed) = closing::too_many(|| socket.who_connected()) {
            return Err(ReadError::Owes(owed));
        }
        let pending = self.fds.len();
        let received = loop {
            let received = beside::receive::<{ beside::ALL }>(
                socket.as_fd(),
                &mut piece,
                MsgFlags::MSG_DONTWAIT,
                |part| match part {
                    Part::Descriptor(fd) => self.fds.push_back(fd),
                    Part::Credentials(by) => self.mixed |= *self.credentials.get_or_insert(by) != by,
                    // The first one stays: it came with the hello. A later one is closed here.
                    Part::Process(pidfd) => self.pidfd = self.pidfd.take().or(Some(pidfd)),
                },
            );
            match received {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::ECONNRESET) => return Err(ReadError::Closed),
                Err(errno) => return Err(ReadError::System(super::failed(socket.as_fd(), errno))),
                Ok(received) => break received,
            }
        };
        if received.lost {
            return Err(ReadError::OutOfDescriptors);
        }
        // They came beside one message of the peer's, and none of ours has more.
        if self.fds.len() > pending + self.most() {
            return Err(ReadError::Descriptors);
        }
        if received.length == 0 {
            return Err(ReadError::Closed);
        }
        self.bytes.extend_from_slice(piece.get(..received.length).unwrap_or_default());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, sendmsg};

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
        assert!(matches!(
            FrameReader::default().next(&b),
            Err(ReadError::TooLong { length: u32::MAX, max: MAX_CONTROL })
        ));
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

    /// Where nobody asks for urgent bytes the kernel skips them, and closes what is beside them, which may take an hour.
    #[test]
    fn urgent_bytes_are_read_with_what_is_beside_them() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        let fds = [file.as_raw_fd()];
        let beside = [ControlMessage::ScmRights(&fds)];
        let urgent = MsgFlags::MSG_OOB;
        sendmsg::<()>(a.as_fd().as_raw_fd(), &[IoSlice::new(&[0])], &beside, urgent, None).unwrap();
        let mut reader = FrameReader::default();
        assert!(reader.next(&b).unwrap().is_none());
        assert_eq!((reader.bytes.len(), reader.fds.len()), (1, 1));
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

//! Unix sockets that carry frames, descriptors and credentials.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, connect,
    getsockopt, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::closing::Foreign;
use super::inside::Inside;
use super::process;
use super::shortage::is_shortage;
use crate::peers::PeerCredentials;
use crate::slot::{BadHeader, HEADER, Header};

/// Payload bytes that a control frame may have.
pub(crate) const MAX_CONTROL: usize = 1 << 20;
/// Descriptors that may wait to be claimed by their frames.
const MAX_DESCRIPTORS: usize = 8;

/// One end of a connected socket that carries control frames.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Carries,
}

#[derive(Debug)]
enum Carries {
    /// Descriptors and credentials besides.
    All(UnixStream),
    /// Bytes alone.
    Bytes(TcpStream),
    /// Bytes alone, inside this process.
    Inside(Inside),
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
    #[error("more than {MAX_DESCRIPTORS} descriptors were sent that belong to no frame")]
    Descriptors,
    #[error(
        "a descriptor was lost on its way: the process that was to receive it has none left; raise its limit (ulimit -n, LimitNOFILE=), or fs.file-max"
    )]
    OutOfDescriptors,
}

/// A socket that is not connected.
#[derive(Debug)]
pub(crate) enum NoSocket {
    /// This process cannot have a socket.
    Ours(io::Error),
    /// There is nobody to talk to.
    There(io::Error),
    /// The time was over: whoever listens has too many others to let in.
    TimedOut,
}

/// How a peer on another host is noticed to be gone: asked when nothing was heard for so long, so often, so many times.
struct KeepAlive {
    idle_s: u32,
    interval_s: u32,
    probes: u32,
}

const KEEP_ALIVE: KeepAlive = KeepAlive { idle_s: 10, interval_s: 5, probes: 3 };

/// Bytes of a reason that travel.
const REASON_MAX: usize = 1024;

/// The beginning of a reason.
pub(crate) fn clip(reason: &str) -> &str {
    reason.get(..reason.floor_char_boundary(REASON_MAX)).unwrap_or_default()
}

impl Frame {
    /// The payload as a reason, for people.
    pub(crate) fn text(&self) -> String {
        clip(&String::from_utf8_lossy(&self.payload)).to_owned()
    }
}

/// The address of a socket: at a path, or in the abstract namespace (unix(7)), for which the path is `@` and the name.
pub(crate) fn address_of(path: &Path) -> nix::Result<UnixAddr> {
    match abstract_name(path) {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(path),
    }
}

/// The name of a socket that is in no file system.
pub(crate) fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(b"@")
}

impl Socket {
    /// Connects to whoever listens at `path`; without a timeout, this waits for ever.
    pub(crate) fn connect(path: &Path, timeout: Option<Duration>) -> Result<Self, NoSocket> {
        let ours = |errno: Errno| NoSocket::Ours(errno.into());
        let there = |errno: Errno| NoSocket::There(errno.into());
        let address = address_of(path).map_err(there)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(ours)?;
        // It limits how long `connect` waits to be let in. Zero would be for ever.
        let timeout = timeout.map_or(Duration::ZERO, |timeout| timeout.max(Duration::from_millis(1)));
        let limit =
            TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(0), timeout.subsec_micros().into());
        setsockopt(&socket, sockopt::SendTimeout, &limit).map_err(ours)?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Self::new(socket.into()).map_err(NoSocket::Ours),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(NoSocket::TimedOut),
                Err(errno) if is_shortage(&errno.into()) => return Err(ours(errno)),
                Err(errno) => return Err(there(errno)),
            }
        }
    }

    /// Takes over a connected stream; it becomes non-blocking and reports who sends, until
    /// [`Socket::stop_asking_who`].
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        setsockopt(&stream, sockopt::PassCred, &true)?;
        if !process::pass_pidfd(stream.as_fd(), true) {
            tracing::trace!("the kernel knows no SO_PASSPIDFD");
        }
        Ok(Self { stream: Carries::All(stream) })
    }

    /// Takes over a TCP connection; it becomes non-blocking, and a peer that is gone without a word is noticed.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE.idle_s)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE.interval_s)?;
        setsockopt(&stream, sockopt::TcpKeepCount, &KEEP_ALIVE.probes)?;
        Ok(Self { stream: Carries::Bytes(stream) })
    }

    /// One end of a connection inside this process.
    pub(crate) fn inside(end: Inside) -> Self {
        Self { stream: Carries::Inside(end) }
    }

    /// The id of the process that connected, which need not be the one that speaks. 0 if it cannot be had.
    pub(crate) fn who_connected(&self) -> i32 {
        getsockopt(self, sockopt::PeerCredentials).map_or(0, |by| by.pid())
    }

    /// The peer has said who it is: from now on frames come without a descriptor of their sender's process.
    pub(crate) fn stop_asking_who(&self) {
        process::pass_pidfd(self.as_fd(), false);
    }

    /// Sends as much of `bytes` as the socket takes now, with our credentials, and with `fds` beside the first byte.
    /// Returns how much went: zero if the socket is full. The bytes of a control frame without payload go together.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
        let parts = [IoSlice::new(bytes)];
        // On every piece: the kernel would name our real user beside the rest, which need not be our effective one.
        let credentials = own_credentials();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let control: &[ControlMessage<'_>] = match &self.stream {
            Carries::Inside(end) => return end.send(bytes),
            Carries::Bytes(_) => &[],
            Carries::All(_) if fds.is_empty() => &with_fds[..1],
            Carries::All(_) => &with_fds,
        };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg::<()>(self.as_fd().as_raw_fd(), &parts, control, flags, None) {
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
        let mut fds = [PollFd::new(self.as_fd(), what)];
        match poll(&mut fds, timeout) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Ends the connection for both sides; what was sent before still arrives.
    pub(crate) fn shutdown(&self) {
        let down = match &self.stream {
            Carries::All(stream) => stream.shutdown(std::net::Shutdown::Both),
            Carries::Bytes(stream) => stream.shutdown(std::net::Shutdown::Both),
            Carries::Inside(end) => {
                end.shut();
                Ok(())
            }
        };
        if let Err(error) = down {
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
        match &self.stream {
            Carries::All(stream) => stream.as_fd(),
            Carries::Bytes(stream) => stream.as_fd(),
            Carries::Inside(end) => end.as_fd(),
        }
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
    fds: VecDeque<Foreign>,
    credentials: Option<PeerCredentials>,
    /// Not all bytes came from the process that sent the first ones.
    mixed: bool,
    pidfd: Option<OwnedFd>,
}

impl FrameReader {
    /// A reader that begins with bytes that have been read already.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

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
    pub(crate) fn take_descriptor(&mut self) -> Option<Foreign> {
        self.fds.pop_front()
    }

    /// The next whole frame of those bytes that were read already.
    pub(crate) fn cut(&mut self) -> Result<Option<Frame>, ReadError> {
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
        for (level, kind, data) in parts(control.0.get(..received.control).unwrap_or_default()) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let fds = data.as_chunks().0.iter().copied().map(RawFd::from_ne_bytes);
                    // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
                    self.fds.extend(fds.map(|fd| Foreign::new(unsafe { OwnedFd::from_raw_fd(fd) })));
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
        if self.fds.len() > MAX_DESCRIPTORS {
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
        let mut stream = std::fs::File::from(a.as_fd().try_clone_to_owned().unwrap());
        io::Write::write_all(&mut stream, &header.to_frame()).unwrap();
        assert!(matches!(FrameReader::default().next(&b), Err(ReadError::TooLong(u32::MAX))));
    }

    /// However many a peer sends: what is refused is closed.
    #[test]
    fn descriptors_that_belong_to_no_frame_are_refused_and_closed() {
        for count in [MAX_DESCRIPTORS + 1, 60, 253] {
            let (a, b) = pair();
            let (mut ours, theirs) = io::pipe().unwrap();
            a.send(Header::new(Kind::Ping), &[], &vec![theirs.as_raw_fd(); count], || None).unwrap();
            drop(theirs);
            let mut reader = FrameReader::default();
            assert!(matches!(reader.next(&b), Err(ReadError::Descriptors)), "{count}");
            drop(reader);
            // The pipe has no writer left.
            assert_eq!(io::Read::read(&mut ours, &mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn connecting_ends_in_time_where_nobody_is_let_in() {
        let path = std::env::temp_dir().join(format!("shmrpc-test-{}-backlog", std::process::id()));
        let door = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(door.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&door, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match Socket::connect(&path, Some(Duration::from_millis(20))) {
                Ok(socket) => waiting.push(socket),
                Err(refused) => break refused,
            }
        };
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(refused, NoSocket::TimedOut), "{refused:?}");
        assert!(matches!(Socket::connect(&path, None), Err(NoSocket::There(_))));
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

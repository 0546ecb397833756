//! Unix sockets that carry frames, descriptors and credentials.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, connect,
    getsockopt, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::beside::{LOST, urgent_bytes_too};
use super::closing::{self, Facing};
use super::inside::Inside;
use super::process;
use super::shortage::is_shortage;
use crate::peers::{Party, PeerCredentials};
use crate::slot::{BadHeader, HEADER, Header};
use crate::tls::{Broken, Link};

pub(crate) use self::reader::FrameReader;

mod reader;

/// Payload bytes that a control frame may have.
pub(crate) const MAX_CONTROL: usize = 1 << 20;
/// The same after the hello and its answer: of those frames nothing is longer than a reason.
const MAX_SHORT: usize = 1 << 12;

/// One end of a connected socket that carries control frames.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Carries,
}

#[derive(Debug)]
enum Carries {
    /// Descriptors and credentials besides.
    All(Facing<UnixStream>),
    /// Bytes alone.
    Bytes(TcpStream),
    /// Bytes alone, inside this process.
    Inside(Inside),
    /// Bytes alone, under TLS.
    Tls(Arc<Link>),
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
    #[error(transparent)]
    Severed(#[from] Broken),
    #[error("bad frame: {0}")]
    BadHeader(#[from] BadHeader),
    #[error("a control frame of {length} bytes is above {max}")]
    TooLong { length: u32, max: usize },
    #[error(
        "{0} descriptors that your process sent, and that nobody wants, cannot be closed yet; until then it is not listened to"
    )]
    Owes(usize),
    #[error("descriptors came beside frames that want none")]
    Descriptors,
    #[error("{LOST}")]
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

/// How a host is noticed to be gone that has been silent for too long.
#[derive(Debug, PartialEq, Eq)]
struct KeepAlive {
    /// It is asked when nothing was heard for so long,
    idle_s: u32,
    /// and again so often,
    interval_s: u32,
    /// so many times.
    times: u32,
    /// It has had its time when it was asked, or was sent something, and this is over.
    silence_ms: u32,
}

impl KeepAlive {
    /// Asks three times, or oftener where a fifth is no whole second: the least that the kernel counts in. The most is
    /// 32,767 s (`MAX_TCP_KEEPIDLE`), so 20 hours are the longest silence.
    fn within(silence: Duration) -> Self {
        let silence = silence.clamp(Duration::from_secs(1), Duration::from_secs(72_000));
        let seconds = |part: Duration| u32::try_from(part.as_secs()).unwrap_or(u32::MAX).max(1);
        let (idle_s, interval_s) = (seconds(silence * 2 / 5), seconds(silence / 5));
        let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        let times = silence_ms.saturating_sub(idle_s * 1000).div_ceil(interval_s * 1000).max(1);
        Self { idle_s, interval_s, times, silence_ms }
    }
}

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
        let socket = Self::of_stranger(stream);
        socket.prepare()?;
        Ok(socket)
    }

    /// Of somebody who may only be told something. Nothing is read before the socket is [prepared](Self::prepare).
    pub(crate) fn of_stranger(stream: UnixStream) -> Self {
        Self { stream: Carries::All(Facing::new(stream)) }
    }

    /// Makes a Unix socket non-blocking. From now on it reports who sends.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let Carries::All(stream) = &self.stream else { return Ok(()) };
        stream.set_nonblocking(true)?;
        setsockopt(&**stream, sockopt::PassCred, &true)?;
        urgent_bytes_too(&**stream)?;
        if !process::pass_pidfd(stream.as_fd(), true) {
            tracing::trace!("the kernel knows no SO_PASSPIDFD");
        }
        Ok(())
    }

    /// Takes over a TCP connection that is [kept alive](keep_alive); it becomes non-blocking, and a peer that is gone
    /// without a word is noticed, also while something is under way: when nothing was heard for `silence`, and a fifth of
    /// it, a second at least, has passed at most.
    pub(crate) fn tcp(stream: TcpStream, silence: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        bound_silence(stream.as_fd(), silence)?;
        Ok(Self { stream: Carries::Bytes(stream) })
    }

    /// The same under TLS.
    pub(crate) fn tls(link: Arc<Link>, silence: Duration) -> io::Result<Self> {
        bound_silence(link.as_fd(), silence)?;
        Ok(Self { stream: Carries::Tls(link) })
    }

    /// One end of a connection inside this process.
    pub(crate) fn inside(end: Inside) -> Self {
        Self { stream: Carries::Inside(end) }
    }

    /// A further descriptor of it.
    pub(crate) fn second(&self) -> io::Result<Facing<OwnedFd>> {
        match &self.stream {
            Carries::All(stream) => stream.second(),
            Carries::Bytes(_) | Carries::Tls(_) | Carries::Inside(_) => {
                self.as_fd().try_clone_to_owned().map(Facing::new)
            }
        }
    }

    /// The process that connected, which need not be the one that speaks.
    pub(crate) fn who_connected(&self) -> Party {
        closing::other_end(self).unwrap_or_else(Party::unknown)
    }

    /// The peer has said who it is: from now on frames come without a descriptor of their sender's process.
    pub(crate) fn stop_asking_who(&self) {
        process::pass_pidfd(self.as_fd(), false);
    }

    /// Sends as much of `bytes` as the socket takes now, with our credentials, and with `fds` beside the first byte.
    /// Returns how much went: zero if the socket is full. The bytes of a control frame without payload go together. Under TLS
    /// the last of them may wait for a [`flush`](Self::flush).
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
        let parts = [IoSlice::new(bytes)];
        // On every piece: the kernel would name our real user beside the rest, which need not be our effective one.
        let credentials = own_credentials();
        let with_fds = [ControlMessage::ScmCredentials(&credentials), ControlMessage::ScmRights(fds)];
        let control: &[ControlMessage<'_>] = match &self.stream {
            Carries::Inside(end) => return end.send(bytes),
            Carries::Tls(link) => return link.send(bytes).map_err(io::Error::other),
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
                Err(errno) => return Err(failed(self.as_fd(), errno)),
            }
        }
    }

    /// Sends what waits on this side. False if the socket did not take all of it.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        match &self.stream {
            Carries::Tls(link) => link.flush().map_err(io::Error::other),
            _ => Ok(true),
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
        while !self.flush()? {
            self.wait(PollFlags::POLLOUT, left())?;
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

    /// Whether the other end sends no more. It may have sent what nobody has read.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::from_bits_retain(nix::libc::POLLRDHUP))];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
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
            Carries::Tls(link) => {
                link.shut(nix::sys::socket::Shutdown::Both);
                Ok(())
            }
        };
        if let Err(error) = down {
            tracing::trace!(%error, "the socket was down already");
        }
    }
}

/// Has the kernel ask now and then whether the other end is still there, while nothing is on its way to it. The other
/// kernel answers, however busy its process is.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>, silence: Duration) -> io::Result<()> {
    let KeepAlive { idle_s, interval_s, times, silence_ms: _ } = KeepAlive::within(silence);
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &idle_s)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &interval_s)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &times)?;
    Ok(())
}

/// Ends the connection when the other end has taken nothing for so long, for whatever reason. It ends the asking, too, and
/// is all that counts while something of ours was not acknowledged.
fn bound_silence(socket: BorrowedFd<'_>, silence: Duration) -> io::Result<()> {
    let KeepAlive { silence_ms, .. } = KeepAlive::within(silence);
    Ok(setsockopt(&socket, sockopt::TcpUserTimeout, &silence_ms)?)
}

/// The error of a socket, in words if it is that the other end was [silent](keep_alive) for too long.
pub(crate) fn failed(socket: BorrowedFd<'_>, error: impl Into<io::Error>) -> io::Error {
    let seconds = || {
        let idle = getsockopt(&socket, sockopt::TcpKeepIdle).ok()?;
        let interval = getsockopt(&socket, sockopt::TcpKeepInterval).ok()?;
        let times = getsockopt(&socket, sockopt::TcpKeepCount).ok()?;
        Some(u64::from(idle) + u64::from(interval) * u64::from(times))
    };
    let error = error.into();
    match (error.raw_os_error(), seconds()) {
        (Some(libc::ETIMEDOUT), Some(seconds)) => {
            let words =
                format!("the other end was silent for {seconds} s; is its host gone, or the line cut?");
            io::Error::new(io::ErrorKind::TimedOut, words)
        }
        _ => error,
    }
}

/// The same under TLS.
pub(crate) fn broken(socket: BorrowedFd<'_>, broken: Broken) -> Broken {
    match broken {
        Broken::System(error) => Broken::System(failed(socket, error)),
        broken => broken,
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
            Carries::Tls(link) => link.as_fd(),
        }
    }
}

/// Who we are to others: the user whose rights we have.
fn own_credentials() -> UnixCredentials {
    let PeerCredentials { uid, gid, .. } = PeerCredentials::own();
    UnixCredentials::from(libc::ucred { pid: nix::unistd::getpid().as_raw(), uid, gid })
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
    fn a_silent_host_is_asked_some_times_before_it_counts_as_gone() {
        let within = |seconds| KeepAlive::within(Duration::from_secs(seconds));
        let asks =
            |idle_s, interval_s, times, silence_ms| KeepAlive { idle_s, interval_s, times, silence_ms };
        assert_eq!(within(25), asks(10, 5, 3, 25_000));
        assert_eq!(within(9), asks(3, 1, 6, 9000));
        assert_eq!(within(3), asks(1, 1, 2, 3000));
        assert_eq!(within(0), asks(1, 1, 1, 1000));
        assert_eq!(within(u64::MAX), asks(28_800, 14_400, 3, 72_000_000));
    }

    #[test]
    fn a_host_that_was_silent_for_too_long_is_said_to_have_been() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for seconds in [25, 6] {
            keep_alive(stream.as_fd(), Duration::from_secs(seconds)).unwrap();
            let words = failed(stream.as_fd(), Errno::ETIMEDOUT).to_string();
            assert!(words.starts_with(&format!("the other end was silent for {seconds} s")), "{words}");
        }
        assert_eq!(failed(stream.as_fd(), Errno::EPIPE).raw_os_error(), Some(libc::EPIPE));
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
}

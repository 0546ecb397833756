//! Byte streams: what the frames of a lane travel over where there is no shared memory.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockaddrLike, SockaddrStorage, getsockname, recv,
    send, sendmsg, setsockopt, shutdown, sockopt,
};
use nix::sys::time::TimeVal;
use parking_lot::Mutex;

use self::beside::{Beside, receive_some};
pub(crate) use self::each_way::{EachWay, pair_of_own};
use self::each_way::{ear, mouth};
pub(crate) use self::patience::Patience;
use self::patience::leads_back;
pub use self::pipe::Pipe;
pub use self::reader::{Cut, Reader};
use crate::descriptors::{BadDescriptors, Descriptors};
use crate::peers::Party;
use crate::sys::beside::urgent_bytes_too;
use crate::sys::closing::Facing;
use crate::sys::fork::Generation;
use crate::sys::futex::Until;
use crate::sys::socket::{broken, failed};
use crate::tls::{Broken, Link};

mod each_way;
mod patience;
mod reader;
mod beside;
mod pipe;
#[cfg(test)]
mod tests;

/// How long a wait with a deadline lasts at most before the deadline is looked at again.
const SLICE: Duration = Duration::from_millis(50);

/// One end of a stream that carries the frames of one lane. Used by one thread at a time; any thread may end it.
#[derive(Debug)]
pub struct Stream {
    medium: Medium,
    /// Whether the other end is on this host.
    is_near: bool,
    process: Generation,
}

#[derive(Debug)]
enum Medium {
    Socket {
        fd: Facing<OwnedFd>,
        /// Another one, if each way has its own. Then no descriptors come.
        other: OnceLock<EachWay>,
        /// Whether those who wait have a deadline.
        sliced: bool,
        /// What came beside the bytes, if it is a Unix socket.
        beside: Option<Mutex<Beside>>,
    },
    Pipe(Pipe),
    Tls(Arc<Link>),
}

/// Why a stream gives or takes no more bytes now.
#[derive(Debug, thiserror::Error)]
pub enum Pause {
    /// The time was over.
    #[error("the time was over")]
    TimedOut,
    /// The other end has closed the stream, or this process has ended it.
    #[error("the stream was closed")]
    Closed,
    /// The system's error.
    #[error("the stream failed: {0}")]
    System(#[from] io::Error),
    /// Nobody who has the keys of TLS ended the stream: whatever the other end did or did not do is not known.
    #[error(transparent)]
    Severed(#[from] Broken),
    /// Descriptors that are not to be had.
    #[error(transparent)]
    Descriptors(#[from] BadDescriptors),
}

impl Stream {
    /// A connected socket. With `sliced`, waits on it end now and then, so that deadlines are looked at.
    ///
    /// # Errors
    /// The system's.
    pub fn socket(fd: OwnedFd, sliced: bool) -> io::Result<Self> {
        let fd = Facing::new(fd);
        if sliced {
            slice(fd.as_fd(), SLICE)?;
        }
        let address = getsockname::<SockaddrStorage>(fd.as_raw_fd());
        let is_unix = address.is_ok_and(|address| address.family() == Some(AddressFamily::Unix));
        if is_unix {
            urgent_bytes_too(&*fd)?;
        }
        let beside = is_unix.then(Mutex::default);
        let is_near = is_unix || leads_back(&fd);
        Ok(Self::over(Medium::Socket { fd, other: OnceLock::new(), sliced, beside }, is_near))
    }

    /// A TCP connection under TLS, whose waits end now and then, so that deadlines are looked at.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn tls(link: Arc<Link>) -> io::Result<Self> {
        slice(link.as_fd(), SLICE)?;
        let is_near = leads_back(&link.as_fd());
        Ok(Self::over(Medium::Tls(link), is_near))
    }

    fn over(medium: Medium, is_near: bool) -> Self {
        Self { medium, is_near, process: Generation::current() }
    }

    /// Its socket, if there is one.
    #[cfg(test)]
    pub(crate) fn as_socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.medium {
            Medium::Socket { fd, .. } => Some(fd.as_fd()),
            Medium::Pipe(_) => None,
            Medium::Tls(link) => Some(link.as_fd()),
        }
    }

    /// Whose descriptors come here.
    pub(crate) fn comes_from(&self, party: Party) {
        if let Medium::Socket { beside: Some(beside), .. } = &self.medium {
            beside.lock().from = Some(party);
        }
    }

    /// Whether it stays in this host, where nobody but the other end can end it.
    pub(crate) fn is_local(&self) -> bool {
        matches!(&self.medium, Medium::Pipe(_) | Medium::Socket { beside: Some(_), .. })
    }

    /// Whether an answer may come as soon as whoever gives it has done nothing else: no network is on the way, or
    /// none that shows: what forwards a port of this host elsewhere is taken for the other end, and looked for in vain.
    pub(crate) fn is_near(&self) -> bool {
        self.is_near
    }

    /// Whether descriptors can go over it.
    pub(crate) fn carries_descriptors(&self) -> bool {
        match &self.medium {
            Medium::Pipe(_) => true,
            Medium::Socket { other, beside, .. } => beside.is_some() && other.get().is_none(),
            Medium::Tls(_) => false,
        }
    }

    /// Those of the frame that was received last, which announces so many. With `more`, the next one has begun.
    ///
    /// # Errors
    /// [`BadDescriptors`] if others came.
    pub(crate) fn claim(&self, announced: usize, more: bool) -> Result<Descriptors, BadDescriptors> {
        let claimed = match &self.medium {
            Medium::Pipe(_) if announced == 0 => return Ok(Descriptors::default()),
            Medium::Pipe(pipe) => Descriptors::own(pipe.claim(announced)),
            Medium::Socket { beside: Some(beside), other, .. } if other.get().is_none() => {
                let came = &mut beside.lock().came;
                let claimed = came.split_off(announced);
                if !more && !came.is_empty() {
                    came.clear();
                    return Err(BadDescriptors::Unwanted);
                }
                claimed
            }
            Medium::Socket { .. } | Medium::Tls(_) => Descriptors::default(),
        };
        match claimed.len() {
            found if found == announced => Ok(claimed),
            found => Err(BadDescriptors::Number { found, announced }),
        }
    }

    /// Waits on it have no deadlines from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn unsliced(mut self) -> io::Result<Self> {
        match &mut self.medium {
            Medium::Socket { fd, sliced, .. } => {
                slice(fd.as_fd(), Duration::ZERO)?;
                *sliced = false;
            }
            Medium::Tls(link) => slice(link.as_fd(), Duration::ZERO)?,
            Medium::Pipe(_) => {}
        }
        Ok(self)
    }

    /// An end of a pipe inside this process.
    pub fn pipe(end: Pipe) -> Self {
        Self::over(Medium::Pipe(end), true)
    }

    /// Ends the handshake of TLS, if there is one.
    ///
    /// # Errors
    /// [`Pause`].
    pub(crate) fn shake_hands(&self, until: &mut Until) -> Result<(), Pause> {
        let Medium::Tls(link) = &self.medium else { return Ok(()) };
        while !link.shake_hands()? {
            wait(link.as_fd(), link.wanted(), until)?;
        }
        Ok(())
    }

    /// Sends all of `bytes`, unless something comes between: then the error comes with how many went. Those that went may
    /// still wait on this side, and go later; the others never go.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn send(&self, bytes: &[u8], until: &mut Until) -> Result<(), (usize, Pause)> {
        self.send_with(bytes, None, until)
    }

    /// The same, and with the first byte all of `descriptors`, which are taken then.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn send_with(
        &self,
        bytes: &[u8],
        descriptors: Option<&mut Vec<OwnedFd>>,
        until: &mut Until,
    ) -> Result<(), (usize, Pause)> {
        let mut none = Vec::new();
        let descriptors = descriptors.unwrap_or(&mut none);
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..)
            && !rest.is_empty()
        {
            // Whoever takes little and often must not keep us beyond the deadline.
            if sent > 0 && until.is_over() {
                return Err((sent, Pause::TimedOut));
            }
            match self.send_some(rest, descriptors, until) {
                Ok(more) => sent += more,
                Err(pause) => return Err((sent, pause)),
            }
        }
        self.flush(until).map_err(|pause| (sent, pause))
    }

    /// Waits until all that was sent is on its way.
    fn flush(&self, until: &mut Until) -> Result<(), Pause> {
        let Medium::Tls(link) = &self.medium else { return Ok(()) };
        while !link.flush()? {
            wait(link.as_fd(), PollFlags::POLLOUT, until)?;
        }
        Ok(())
    }

    fn send_some(
        &self,
        bytes: &[u8],
        descriptors: &mut Vec<OwnedFd>,
        until: &mut Until,
    ) -> Result<usize, Pause> {
        let (fd, sliced) = match &self.medium {
            Medium::Socket { fd, other, sliced, .. } => (mouth(fd, other), *sliced),
            Medium::Pipe(pipe) => return pipe.send(bytes, descriptors, until),
            Medium::Tls(link) => loop {
                match link.send(bytes)? {
                    0 => wait(link.as_fd(), PollFlags::POLLOUT, until)?,
                    sent => return Ok(sent),
                }
            },
        };
        let mut flags = MsgFlags::MSG_NOSIGNAL;
        // The kernel's own limit would count anew for each piece of what is large.
        flags.set(MsgFlags::MSG_DONTWAIT, sliced);
        loop {
            match send_once(fd, bytes, descriptors, flags) {
                Ok(sent) => {
                    descriptors.clear();
                    return Ok(sent);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait(fd.as_fd(), PollFlags::POLLOUT, until)?,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Pause::Closed),
                Err(errno) => return Err(Pause::System(failed(fd.as_fd(), errno))),
            }
        }
    }

    /// The same over a Unix socket, with descriptors beside the first byte. False if it did not go.
    pub(crate) fn send_now_with(&self, bytes: &[u8], descriptors: &[OwnedFd]) -> bool {
        let Medium::Socket { fd, other, .. } = &self.medium else { return false };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = send_once(mouth(fd, other), bytes, descriptors, flags);
        if let Err(error) = sent {
            tracing::debug!(%error, "a frame did not go");
        }
        sent.is_ok()
    }

    /// Sends what the stream takes now, for a few bytes that nobody waits for.
    pub fn send_now(&self, bytes: &[u8]) {
        match &self.medium {
            Medium::Socket { .. } => drop(self.send_now_with(bytes, &[])),
            Medium::Pipe(pipe) => drop(pipe.send(bytes, &mut Vec::new(), &mut Until::after(Duration::ZERO))),
            Medium::Tls(link) => {
                if let Err(error) = link.send(bytes) {
                    tracing::debug!(%error, "a last frame did not go");
                }
            }
        }
    }

    /// Receives some bytes into `room`, at least one.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn receive(&self, room: &mut [u8], until: &mut Until) -> Result<usize, Pause> {
        let (fd, beside) = match &self.medium {
            Medium::Socket { fd, other, beside, .. } => (ear(fd, other), watched_for(other, beside)),
            Medium::Pipe(pipe) => return pipe.receive(room, until),
            Medium::Tls(link) => return receive_tls(link, room, until),
        };
        let mut flags = MsgFlags::empty();
        loop {
            match receive_some(fd, beside, room, flags)? {
                Ok(0) if !room.is_empty() => return Err(Pause::Closed),
                Ok(received) => return Ok(received),
                Err(Errno::EINTR) => {}
                // A slice is over; or the peer made the socket, and made it non-blocking.
                Err(Errno::EAGAIN) => {
                    wait(fd.as_fd(), PollFlags::POLLIN, until)?;
                    // From here on the deadline is known, and no slice of the kernel's is to pass beyond it.
                    flags = MsgFlags::MSG_DONTWAIT;
                }
                Err(Errno::ECONNRESET) => return Err(Pause::Closed),
                Err(errno) => return Err(Pause::System(failed(fd.as_fd(), errno))),
            }
        }
    }

    /// Receives what is there, for whoever looks again at once if nothing is.
    #[inline]
    pub(crate) fn glance(&self, room: &mut [u8]) -> Option<Result<usize, Pause>> {
        // Where no descriptors come.
        if let Medium::Socket { fd, other, beside, .. } = &self.medium
            && (other.get().is_some() || beside.is_none())
        {
            let fd = ear(fd, other);
            return match recv(fd.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => None,
                received => Some(came(fd, received)),
            };
        }
        match self.receive_now(room) {
            Err(Pause::TimedOut) => None,
            found => Some(found),
        }
    }

    /// Receives what is there, without waiting. [`Pause::TimedOut`] if nothing is.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn receive_now(&self, room: &mut [u8]) -> Result<usize, Pause> {
        match &self.medium {
            Medium::Pipe(pipe) => pipe.receive_now(room),
            Medium::Tls(link) => match link.receive(room, true).map_err(|how| broken(link.as_fd(), how))? {
                Some(0) => Err(Pause::Closed),
                Some(received) => Ok(received),
                None => Err(Pause::TimedOut),
            },
            Medium::Socket { fd, other, beside, .. } => {
                let fd = ear(fd, other);
                came(fd, receive_some(fd, watched_for(other, beside), room, MsgFlags::MSG_DONTWAIT)?)
            }
        }
    }

    /// Ends the stream in both directions; what has arrived can still be received.
    pub fn end(&self) {
        self.shut(Shutdown::Both);
    }

    /// Nothing more is received than what has arrived.
    pub fn end_receiving(&self) {
        self.shut(Shutdown::Read);
    }

    /// Nothing more is sent.
    pub fn end_sending(&self) {
        self.shut(Shutdown::Write);
    }

    fn shut(&self, how: Shutdown) {
        match &self.medium {
            Medium::Socket { fd, other, .. } => {
                let ends = match (other.get(), how) {
                    (None, _) => [Some(fd), None],
                    (Some(_), Shutdown::Read) => [Some(ear(fd, other)), None],
                    (Some(_), Shutdown::Write) => [Some(mouth(fd, other)), None],
                    (Some(_), Shutdown::Both) => [Some(mouth(fd, other)), Some(ear(fd, other))],
                };
                for fd in ends.into_iter().flatten() {
                    if let Err(error) = shutdown(fd.as_raw_fd(), how) {
                        tracing::trace!(%error, "the stream was down already");
                    }
                }
            }
            Medium::Pipe(pipe) => pipe.shut(how),
            Medium::Tls(link) => {
                if how != Shutdown::Write {
                    link.turn_deaf();
                }
                link.shut(how);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The other end is not to take it for a cut. In a forked child it is the parent's, and so may be its control stream.
        if let Medium::Tls(link) = &mut self.medium
            && self.process.is_current()
            && let Some(link) = Arc::get_mut(link)
        {
            link.shut(Shutdown::Write);
        }
    }
}

/// What a look at a socket came to.
#[inline]
fn came(fd: &OwnedFd, received: nix::Result<usize>) -> Result<usize, Pause> {
    match received {
        Ok(0) | Err(Errno::ECONNRESET) => Err(Pause::Closed),
        Ok(received) => Ok(received),
        Err(Errno::EAGAIN | Errno::EINTR) => Err(Pause::TimedOut),
        Err(errno) => Err(Pause::System(failed(fd.as_fd(), errno))),
    }
}

/// Sends once, with all descriptors beside the first byte.
fn send_once(fd: &OwnedFd, bytes: &[u8], descriptors: &[OwnedFd], flags: MsgFlags) -> nix::Result<usize> {
    if descriptors.is_empty() {
        return send(fd.as_raw_fd(), bytes, flags);
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], &rights, flags, None)
}

/// Where descriptors go that come beside the bytes, if any may come.
fn watched_for<'a>(
    other: &OnceLock<EachWay>,
    beside: &'a Option<Mutex<Beside>>,
) -> Option<&'a Mutex<Beside>> {
    beside.as_ref().filter(|_| other.get().is_none())
}

fn receive_tls(link: &Link, room: &mut [u8], until: &mut Until) -> Result<usize, Pause> {
    let mut now = false;
    loop {
        match link.receive(room, now).map_err(|how| broken(link.as_fd(), how))? {
            Some(0) if !room.is_empty() => return Err(Pause::Closed),
            Some(received) => return Ok(received),
            None => {
                wait(link.as_fd(), link.wanted(), until)?;
                now = true;
            }
        }
    }
}

/// Sets how long one `recv` waits; zero is without end.
fn slice(fd: BorrowedFd<'_>, slice: Duration) -> io::Result<()> {
    let slice = TimeVal::new(0, slice.subsec_micros().into());
    Ok(setsockopt(&fd, sockopt::ReceiveTimeout, &slice)?)
}

/// Waits until a socket can take or give bytes.
pub(crate) fn wait(fd: BorrowedFd<'_>, what: PollFlags, until: &mut Until) -> Result<(), Pause> {
    let timeout = match until.left() {
        Some(left) if left.is_zero() => return Err(Pause::TimedOut),
        Some(left) => PollTimeout::try_from(left.min(SLICE)).unwrap_or(PollTimeout::ZERO),
        None => PollTimeout::NONE,
    };
    match poll(&mut [PollFd::new(fd, what)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Pause::System(errno.into())),
    }
}

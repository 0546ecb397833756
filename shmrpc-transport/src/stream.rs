//! Byte streams: what the frames of a lane travel over where there is no shared memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;

pub use self::pipe::Pipe;
pub use self::reader::{Cut, Reader};
use crate::sys::closing::Facing;
use crate::sys::futex::Until;

mod reader;
mod pipe;

/// How long a wait with a deadline lasts at most before the deadline is looked at again.
const SLICE: Duration = Duration::from_millis(50);

/// One end of a stream that carries the frames of one lane. Used by one thread at a time; any thread may end it.
#[derive(Debug)]
pub struct Stream {
    medium: Medium,
}

#[derive(Debug)]
enum Medium {
    Socket {
        fd: Facing<OwnedFd>,
        /// Whether those who wait have a deadline.
        sliced: bool,
    },
    Pipe(Pipe),
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
}

impl Stream {
    /// A connected socket. With `sliced`, waits on it end now and then, so that deadlines are looked at.
    ///
    /// # Errors
    /// The system's.
    pub fn socket(fd: OwnedFd, sliced: bool) -> io::Result<Self> {
        let fd = Facing::new(fd);
        if sliced {
            slice(&fd, SLICE)?;
        }
        Ok(Self { medium: Medium::Socket { fd, sliced } })
    }

    /// Waits on it have no deadlines from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn unsliced(mut self) -> io::Result<Self> {
        if let Medium::Socket { fd, sliced } = &mut self.medium {
            slice(fd, Duration::ZERO)?;
            *sliced = false;
        }
        Ok(self)
    }

    /// An end of a pipe inside this process.
    pub fn pipe(end: Pipe) -> Self {
        Self { medium: Medium::Pipe(end) }
    }

    /// Sends all of `bytes`, unless something comes between: then the error comes with how many went.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn send(&self, bytes: &[u8], until: &mut Until) -> Result<(), (usize, Pause)> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..)
            && !rest.is_empty()
        {
            // Whoever takes little and often must not keep us beyond the deadline.
            if sent > 0 && until.is_over() {
                return Err((sent, Pause::TimedOut));
            }
            match self.send_some(rest, until) {
                Ok(more) => sent += more,
                Err(pause) => return Err((sent, pause)),
            }
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8], until: &mut Until) -> Result<usize, Pause> {
        let (fd, sliced) = match &self.medium {
            Medium::Socket { fd, sliced } => (fd, *sliced),
            Medium::Pipe(pipe) => return pipe.send(bytes, until),
        };
        let mut flags = MsgFlags::MSG_NOSIGNAL;
        // The kernel's own limit would count anew for each piece of what is large.
        flags.set(MsgFlags::MSG_DONTWAIT, sliced);
        loop {
            match send(fd.as_raw_fd(), bytes, flags) {
                Ok(sent) => return Ok(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait(fd, PollFlags::POLLOUT, until)?,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Pause::Closed),
                Err(errno) => return Err(Pause::System(errno.into())),
            }
        }
    }

    /// Sends what the stream takes now, for a few bytes that nobody waits for.
    pub fn send_now(&self, bytes: &[u8]) {
        match &self.medium {
            Medium::Socket { fd, .. } => {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                if let Err(error) = send(fd.as_raw_fd(), bytes, flags) {
                    tracing::debug!(%error, "a last frame did not go");
                }
            }
            Medium::Pipe(pipe) => drop(pipe.send(bytes, &mut Until::after(Duration::ZERO))),
        }
    }

    /// Receives some bytes into `room`, at least one.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn receive(&self, room: &mut [u8], until: &mut Until) -> Result<usize, Pause> {
        let fd = match &self.medium {
            Medium::Socket { fd, .. } => fd,
            Medium::Pipe(pipe) => return pipe.receive(room, until),
        };
        let mut flags = MsgFlags::empty();
        loop {
            match recv(fd.as_raw_fd(), room, flags) {
                Ok(0) if !room.is_empty() => return Err(Pause::Closed),
                Ok(received) => return Ok(received),
                Err(Errno::EINTR) => {}
                // A slice is over; or the peer made the socket, and made it non-blocking.
                Err(Errno::EAGAIN) => {
                    wait(fd, PollFlags::POLLIN, until)?;
                    // From here on the deadline is known, and no slice of the kernel's is to pass beyond it.
                    flags = MsgFlags::MSG_DONTWAIT;
                }
                Err(Errno::ECONNRESET) => return Err(Pause::Closed),
                Err(errno) => return Err(Pause::System(errno.into())),
            }
        }
    }

    /// Receives what is there, without waiting. [`Pause::TimedOut`] if nothing is.
    ///
    /// # Errors
    /// [`Pause`].
    pub fn receive_now(&self, room: &mut [u8]) -> Result<usize, Pause> {
        match &self.medium {
            Medium::Pipe(pipe) => pipe.receive(room, &mut Until::after(Duration::ZERO)),
            Medium::Socket { fd, .. } => match recv(fd.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET) => Err(Pause::Closed),
                Ok(received) => Ok(received),
                Err(Errno::EAGAIN | Errno::EINTR) => Err(Pause::TimedOut),
                Err(errno) => Err(Pause::System(errno.into())),
            },
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
            Medium::Socket { fd, .. } => {
                if let Err(error) = shutdown(fd.as_raw_fd(), how) {
                    tracing::trace!(%error, "the stream was down already");
                }
            }
            Medium::Pipe(pipe) => pipe.shut(how),
        }
    }
}

/// Sets how long one `recv` waits; zero is without end.
fn slice(fd: &OwnedFd, slice: Duration) -> io::Result<()> {
    let slice = TimeVal::new(0, slice.subsec_micros().into());
    Ok(setsockopt(fd, sockopt::ReceiveTimeout, &slice)?)
}

/// Waits until a socket can take or give bytes.
fn wait(fd: &OwnedFd, what: PollFlags, until: &mut Until) -> Result<(), Pause> {
    let timeout = match until.left() {
        Some(left) if left.is_zero() => return Err(Pause::TimedOut),
        Some(left) => PollTimeout::try_from(left.min(SLICE)).unwrap_or(PollTimeout::ZERO),
        None => PollTimeout::NONE,
    };
    match poll(&mut [PollFd::new(fd.as_fd(), what)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Pause::System(errno.into())),
    }
}

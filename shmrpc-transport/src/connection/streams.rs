//! The streams of a connection's lanes: how they are had, and how they end together.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use parking_lot::Mutex;

use super::inbox::Fault;
use super::{Connection, Death};
use crate::message::Message;
use crate::peers::Party;
use crate::shm::segment::MAX_LANES;
use crate::slot::{Header, Kind};
use crate::stream::{Cut, Pause, Reader, Stream};
use crate::sys::futex::Until;
use crate::sys::shortage::{explain, is_shortage};
use crate::sys::socket::{MAX_CONTROL, clip, frame};

/// How a client has a stream for a further lane.
pub(crate) enum Dial {
    /// It has none: its lanes are rings, or it is the server.
    No,
    /// One end of a pair of sockets goes to the server.
    Pair,
    /// It connects again.
    Again(Box<dyn Redial>),
}

/// Connects again, for one more lane.
pub(crate) trait Redial: Send + Sync {
    /// A stream on which a lane was asked for. The answer comes on it.
    fn dial(&self, lane: u32, until: &mut Until) -> io::Result<Stream>;
}

/// Why there is no stream.
#[derive(Debug)]
pub(crate) enum NoStream {
    Refused(String),
    /// Nobody knows of the connection where the stream was to be had.
    Unreachable(String),
    TimedOut,
    Dead(Death),
}

/// The stream of one lane. It ends with its connection.
#[derive(Debug)]
pub struct LaneStream(Arc<Stream>);

impl Deref for LaneStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.0
    }
}

/// All streams of one connection.
pub(super) struct Streams {
    dial: Dial,
    state: Mutex<State>,
    /// By lane: all messages before this position are done. For clients.
    done: Box<[AtomicU32]>,
}

#[derive(Default)]
struct State {
    open: Vec<Weak<Stream>>,
    drains: bool,
    ended: bool,
}

impl Streams {
    pub(super) fn new(dial: Dial) -> Self {
        let done = (0..MAX_LANES).map(|_| AtomicU32::new(0)).collect();
        Self { dial, state: Mutex::default(), done }
    }

    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.open.drain(..).filter_map(|stream| stream.upgrade()).for_each(|stream| stream.end());
    }

    /// Lanes serve what has arrived and no more.
    pub(super) fn drain(&self) {
        let mut state = self.state.lock();
        state.drains = true;
        state.open.iter().filter_map(Weak::upgrade).for_each(|stream| stream.end_receiving());
    }

    /// Nothing more is sent over any of them.
    pub(super) fn end_sending(&self) {
        self.state.lock().open.iter().filter_map(Weak::upgrade).for_each(|stream| stream.end_sending());
    }

    pub(super) fn drains(&self) -> bool {
        self.state.lock().drains
    }

    /// Whether lanes have something to say when the peer has closed the connection. Inside a host it has said it before.
    pub(super) fn may_say_more(&self) -> bool {
        let state = self.state.lock();
        state.open.iter().filter_map(Weak::upgrade).any(|stream| !stream.carries_descriptors())
    }

    pub(super) fn done(&self, lane: u32) -> Option<u32> {
        self.done.get(lane as usize).map(|done| done.load(Ordering::Acquire))
    }

    /// One more, if there are fewer than `most`.
    fn attach(&self, stream: Stream, from: Party, most: u32) -> Result<LaneStream, Stream> {
        stream.comes_from(from);
        let mut state = self.state.lock();
        state.open.retain(|stream| stream.strong_count() > 0);
        if state.open.len() >= most as usize {
            return Err(stream);
        }
        let stream = Arc::new(stream);
        state.open.push(Arc::downgrade(&stream));
        if state.ended {
            stream.end();
        } else if state.drains {
            stream.end_receiving();
        }
        Ok(LaneStream(stream))
    }
}

impl Connection {
    /// All messages of `lane` before `position` are done.
    pub(crate) fn set_done(&self, lane: u32, position: u32) {
        if let Some(done) = self.streams.done.get(lane as usize) {
            done.store(position, Ordering::Release);
        }
    }

    /// A stream for `lane`, which the server serves.
    ///
    /// # Errors
    /// [`NoStream`] says why there is none.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        lane: u32,
        until: &mut Until,
    ) -> Result<(LaneStream, Reader), NoStream> {
        // A host that is gone does not answer: to ask it would take all the time that there is.
        if let Some(death) = self.end() {
            return Err(NoStream::Dead(death.clone()));
        }
        let stream = match &self.streams.dial {
            Dial::No => return Err(NoStream::Refused("this side opens no lanes".into())),
            Dial::Pair => self.send_stream(lane, until)?,
            Dial::Again(again) => again.dial(lane, until).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => NoStream::TimedOut,
                _ if is_shortage(&error) => {
                    NoStream::Refused(format!("it has no socket: {}", explain(&error)))
                }
                _ => NoStream::Unreachable(format!("it cannot connect again: {error}")),
            })?,
        };
        let stream = self.streams.attach(stream, self.peer.party(), u32::MAX);
        let stream = stream.map_err(|_| NoStream::Refused("there are too many streams".into()))?;
        let (mut reader, mut message) = (Reader::default(), Message::empty());
        let max = MAX_CONTROL as u64;
        match reader.next_from(&stream, &mut message, max, &self.pool, until) {
            Ok(Header { kind: Kind::LaneOpen, call_id: 1, .. }) => Ok((stream, reader)),
            Ok(Header { kind: Kind::GoAway, call_id: 0, .. }) => {
                self.goes_away();
                Err(NoStream::Dead(shutting_down()))
            }
            Ok(Header { kind: kind @ (Kind::LaneReset | Kind::Failure), .. }) => {
                let reason = String::from_utf8_lossy(message.private_bytes());
                let reason = clip(&reason).to_owned();
                // Who knows the connection says lane reset.
                let refused = kind == Kind::LaneReset;
                Err(if refused { NoStream::Refused(reason) } else { NoStream::Unreachable(reason) })
            }
            Ok(Header { kind, .. }) => Err(NoStream::Dead(
                self.poison(&format_args!("{kind:?} came where the answer to lane open was due")),
            )),
            Err(Cut::Pause(Pause::TimedOut)) if self.end().is_none() => Err(NoStream::TimedOut),
            Err(Cut::Pause(pause)) => Err(match self.end() {
                Some(death) => NoStream::Dead(death.clone()),
                None => NoStream::Unreachable(format!("it ended before it was answered: {pause}")),
            }),
            Err(broken) => Err(NoStream::Dead(self.poison(&broken))),
        }
    }

    /// Makes a pair of sockets, and sends one end.
    fn send_stream(&self, lane: u32, until: &mut Until) -> Result<Stream, NoStream> {
        let lacking =
            |error: io::Error| NoStream::Refused(format!("there is no socket for it: {}", explain(&error)));
        let (ours, theirs) = UnixStream::pair().map_err(lacking)?;
        let theirs = [OwnedFd::from(theirs)];
        let header = Header { block: lane, ..Header::new(Kind::LaneOpen) };
        loop {
            if let Some(death) = self.death() {
                return Err(NoStream::Dead(death.clone()));
            }
            match self.announce(header, &[], &theirs) {
                Ok(true) => return Stream::socket(ours.into(), true).map_err(lacking),
                // The server has to read first.
                Ok(false) if until.is_over() => return Err(NoStream::TimedOut),
                Ok(false) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) if is_shortage(&error) => return Err(lacking(error)),
                Err(_) if until.is_over() => return Err(NoStream::TimedOut),
                Err(error) => {
                    // Until the watcher has found the end.
                    self.not_sent(&error);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// The peer asks for a lane on a stream that came with its frame.
    pub(super) fn stream_sent(self: &Arc<Self>, lane: u32) -> Result<(), Fault> {
        let fd = self.reader.lock().take_descriptor();
        let fd = fd.ok_or_else(|| Fault::Peer("a lane came without its stream".into()))?;
        if !fd.fd().is_some_and(is_unix_stream) {
            return Err(Fault::Peer("the descriptor of a lane is no connected Unix stream socket".into()));
        }
        let fd = fd.keep().ok_or_else(|| Fault::Peer("a lane came without its stream".into()))?;
        let stream = Stream::socket(fd, false).map_err(|error| Fault::Ours(error.to_string()))?;
        self.lane_asked(lane, stream);
        Ok(())
    }

    /// The peer asks for a lane on `stream`, where the answer goes.
    pub(crate) fn lane_asked(self: &Arc<Self>, lane: u32, stream: Stream) {
        let refused = |stream: &Stream, reason: &str| {
            // Whoever drains has taken nothing there.
            let answer = if self.streams.drains() {
                Ok(Header::new(Kind::GoAway).to_frame().into())
            } else {
                let header = Header { call_id: 1, block: lane, ..Header::new(Kind::LaneReset) };
                frame(header, clip(reason).as_bytes())
            };
            if let Ok(bytes) = answer {
                stream.send_now(&bytes);
            }
        };
        let most = self.limits.lanes;
        match self.streams.attach(stream, self.peer.party(), most) {
            Err(stream) => refused(&stream, &format!("{most} lanes are all that a connection may have")),
            Ok(stream) => {
                let answer = Arc::clone(&stream.0);
                if let Err(reason) = self.events.lane_opened(self, lane, Some(stream)) {
                    refused(&answer, &reason);
                }
            }
        }
    }
}

/// How a server ends that says goaway.
pub(crate) fn shutting_down() -> Death {
    Death { reason: "the server is shutting down".into(), peer_closed: true }
}

/// Whether it is what a client sends for a lane.
fn is_unix_stream(fd: BorrowedFd<'_>) -> bool {
    let is_stream = getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
    let address = getsockname::<SockaddrStorage>(fd.as_raw_fd());
    is_stream && address.is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
}

impl fmt::Debug for Streams {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Streams").finish_non_exhaustive()
    }
}

//! The streams of a connection's lanes: how they are had, and how they end together.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use parking_lot::Mutex;

use super::inbox::Fault;
use super::{Carrier, Connection, Death};
use crate::message::Message;
use crate::peers::{Party, PeerCredentials};
use crate::shm::segment::MAX_LANES;
use crate::slot::{Header, Kind};
use crate::stream::{Cut, EachWay, Pause, Reader, Stream, pair_of_own};
use crate::sys::closing::{Facing, other_end};
use crate::sys::futex::Until;
use crate::sys::shortage::{explain, is_shortage};
use crate::sys::socket::{MAX_CONTROL, clip, frame};

/// How a client has a stream for a further lane.
pub(crate) enum Dial {
    /// It has none: its lanes are rings, or it is the server.
    No,
    /// One end of a pair of sockets goes to the server, which may send one of its own.
    Pair {
        /// Whether messages may have descriptors.
        descriptors: bool,
    },
    /// It connects again.
    Again(Box<dyn Redial>),
}

impl Dial {
    /// That of a client over a Unix socket.
    pub(crate) fn over_unix(carrier: Carrier, descriptors: bool) -> Self {
        match carrier {
            Carrier::Rings => Self::No,
            Carrier::Streams => Self::Pair { descriptors },
        }
    }
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
pub struct LaneStream {
    stream: Arc<Stream>,
    /// A pair of our own, if each way is to have a socket: where we receive, and where the peer is to send, which goes beside the
    /// answer.
    pair: Option<[OwnedFd; 2]>,
}

impl LaneStream {
    /// Sends the answer to lane open, with a socket for requests if there is one. If that cannot go, the lane is one socket.
    pub(crate) fn answer(&mut self, connection: &Connection, answer: Header) {
        if let Some([receiving, requests]) = self.pair.take()
            && self.send_now_with(&answer.with_descriptors(1).to_frame(), &[requests])
        {
            connection.streams.go(self, EachWay::Receiving(Facing::new(receiving)));
        } else {
            self.send_now(&answer.to_frame());
        }
    }
}

impl Deref for LaneStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

/// More messages than lie in a socket at once: their headers alone would take 384 MiB.
pub(super) const UNDER_WAY: u32 = 1 << 24;

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
        state.open.iter().filter_map(Weak::upgrade).any(|stream| !stream.is_local())
    }

    pub(super) fn done(&self, lane: u32) -> Option<u32> {
        self.done.get(lane as usize).map(|done| done.load(Ordering::Acquire))
    }

    /// One more, if there are fewer than `most`.
    fn attach(&self, stream: Stream, from: Party, most: u32) -> Result<LaneStream, Arc<Stream>> {
        stream.comes_from(from);
        let stream = Arc::new(stream);
        let mut state = self.state.lock();
        state.open.retain(|stream| stream.strong_count() > 0);
        if state.open.len() >= most as usize {
            return Err(stream);
        }
        state.open.push(Arc::downgrade(&stream));
        if state.ended {
            stream.end();
        } else if state.drains {
            stream.end_receiving();
        }
        Ok(LaneStream { stream, pair: None })
    }

    /// The lane has another socket for one way. It ends as the first one has.
    fn go(&self, stream: &LaneStream, each_way: EachWay) {
        let state = self.state.lock();
        stream.go(each_way);
        if state.ended {
            stream.end();
        } else if state.drains {
            stream.end_receiving();
        }
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
        let mut each_way = false;
        let stream = match &self.streams.dial {
            Dial::No => return Err(NoStream::Refused("this side opens no lanes".into())),
            Dial::Pair { descriptors } => {
                let (stream, theirs) = pair()?;
                each_way = !descriptors && stream.can_refuse_descriptors();
                self.send_stream(lane, each_way, theirs, until)?;
                stream
            }
            Dial::Again(again) => again.dial(lane, until).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => NoStream::TimedOut,
                _ if is_shortage(&error) => no_socket(&error),
                _ => NoStream::Unreachable(format!("it cannot connect again: {error}")),
            })?,
        };
        let stream = self.streams.attach(stream, self.peer.party(), u32::MAX);
        let stream = stream.map_err(|_| NoStream::Refused("there are too many streams".into()))?;
        let reader = self.hear_answer(&stream, each_way, until)?;
        Ok((stream, reader))
    }

    /// Waits for the answer to lane open. With `each_way`, a socket may come with it.
    fn hear_answer(
        &self,
        stream: &LaneStream,
        each_way: bool,
        until: &mut Until,
    ) -> Result<Reader, NoStream> {
        let (mut reader, mut message) = (Reader::default(), Message::empty());
        match reader.next_from(stream, &mut message, MAX_CONTROL as u64, &self.pool, until) {
            Ok(answer @ Header { kind: Kind::LaneOpen, call_id: 1, .. }) => {
                match (each_way, answer.descriptors()) {
                    (_, 0) => {}
                    (true, 1) => self.go_each_way(stream, &mut reader)?,
                    (_, count) => {
                        return Err(self
                            .broke(&format_args!("{count} descriptors came with the answer to lane open")));
                    }
                }
                Ok(reader)
            }
            other => Err(self.not_opened(other, &message)),
        }
    }

    /// A socket came with the answer: requests go there, and no descriptors come here any more.
    fn go_each_way(&self, stream: &LaneStream, reader: &mut Reader) -> Result<(), NoStream> {
        let came = stream.claim(1, !reader.is_empty()).map_err(|bad| self.broke(&bad))?;
        if let Some(lost) = came.lost() {
            return Err(NoStream::Refused(lost));
        }
        // Of the server's own user: nobody is to be made to speak to somebody else.
        let is_theirs =
            |fd: &OwnedFd| other_end(fd).is_some_and(|made| made.uid() == self.peer.party().uid());
        let fd = came.only().filter(|fd| is_unix_stream(fd.as_fd()) && is_theirs(fd));
        let fd = fd.ok_or_else(|| {
            self.broke(
                &"what came with the answer to lane open is no Unix stream socket of the server's user",
            )
        })?;
        if !stream.refuse_descriptors() {
            return Err(NoStream::Refused("the system does not refuse descriptors".into()));
        }
        // What came before that, descriptors beside it too. From when nothing is there, none is left.
        let mut message = Message::empty();
        match reader.next(&mut message, MAX_CONTROL as u64, &self.pool, |room| stream.receive_now(room)) {
            Err(Cut::Pause(Pause::TimedOut)) if reader.is_empty() => {
                self.streams.go(stream, EachWay::Sending(Facing::new(fd)));
                Ok(())
            }
            Err(Cut::Pause(Pause::TimedOut)) => {
                Err(self.broke(&"half a frame came after the answer to lane open"))
            }
            other => Err(self.not_opened(other, &message)),
        }
    }

    fn broke(&self, how: &dyn fmt::Display) -> NoStream {
        NoStream::Dead(self.poison(how))
    }

    /// Why a lane is not there, by what was said, or not, in place of its being served.
    fn not_opened(&self, said: Result<Header, Cut>, message: &Message) -> NoStream {
        match said {
            Ok(Header { kind: Kind::GoAway, call_id: 0, .. }) => {
                self.goes_away();
                NoStream::Dead(shutting_down())
            }
            Ok(Header { kind: kind @ (Kind::LaneReset | Kind::Failure), .. }) => {
                let reason = String::from_utf8_lossy(message.private_bytes());
                let reason = clip(&reason).to_owned();
                // Who knows the connection says lane reset.
                let refused = kind == Kind::LaneReset;
                if refused { NoStream::Refused(reason) } else { NoStream::Unreachable(reason) }
            }
            Ok(Header { kind, .. }) => {
                self.broke(&format_args!("{kind:?} came where the answer to lane open was due"))
            }
            Err(Cut::Pause(Pause::TimedOut)) if self.end().is_none() => NoStream::TimedOut,
            // This side has none left. The server learns that nobody sends over the one that was lost.
            Err(Cut::Pause(Pause::Descriptors(bad))) if bad.is_ours() => NoStream::Refused(bad.to_string()),
            Err(Cut::Pause(Pause::Descriptors(bad))) => self.broke(&bad),
            Err(Cut::Pause(pause)) => match self.end() {
                Some(death) => NoStream::Dead(death.clone()),
                None => NoStream::Unreachable(format!("it ended before it was answered: {pause}")),
            },
            Err(broken) => self.broke(&broken),
        }
    }

    /// Asks for a lane, with one end of a pair of sockets. With `each_way`, the server may answer with one of its own.
    fn send_stream(
        &self,
        lane: u32,
        each_way: bool,
        theirs: OwnedFd,
        until: &mut Until,
    ) -> Result<(), NoStream> {
        let theirs = [theirs];
        let header = Header { call_id: each_way.into(), block: lane, ..Header::new(Kind::LaneOpen) };
        loop {
            if let Some(death) = self.death() {
                return Err(NoStream::Dead(death.clone()));
            }
            match self.announce(header, &[], &theirs) {
                Ok(true) => return Ok(()),
                // The server has to read first.
                Ok(false) if until.is_over() => return Err(NoStream::TimedOut),
                Ok(false) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) if is_shortage(&error) => return Err(no_socket(&error)),
                Err(_) if until.is_over() => return Err(NoStream::TimedOut),
                Err(error) => {
                    // Until the watcher has found the end.
                    self.not_sent(&error);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// The peer asks for a lane on a stream that came with its frame. With `each_way`, it takes one of ours for its requests.
    pub(super) fn stream_sent(self: &Arc<Self>, lane: u32, each_way: bool) -> Result<(), Fault> {
        let fd = self.reader.lock().take_descriptor();
        let fd = fd.ok_or_else(|| Fault::Peer("a lane came without its stream".into()))?;
        if !fd.fd().is_some_and(is_unix_stream) {
            return Err(Fault::Peer("the descriptor of a lane is no connected Unix stream socket".into()));
        }
        let fd = fd.keep().ok_or_else(|| Fault::Peer("a lane came without its stream".into()))?;
        let stream = Stream::socket(fd, false).map_err(|error| Fault::Ours(error.to_string()))?;
        // An answer that is not read keeps a descriptor under way, at our user's cost, for as long as the peer likes.
        let may = each_way && self.peer.party().uid() == Some(PeerCredentials::own().uid);
        self.lane_asked_with(lane, stream, may.then(pair_of_own).flatten());
        Ok(())
    }

    /// The peer asks for a lane on `stream`, where the answer goes.
    pub(crate) fn lane_asked(self: &Arc<Self>, lane: u32, stream: Stream) {
        self.lane_asked_with(lane, stream, None);
    }

    fn lane_asked_with(self: &Arc<Self>, lane: u32, stream: Stream, pair: Option<[OwnedFd; 2]>) {
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
            Ok(mut stream) => {
                stream.pair = pair;
                let answer = Arc::clone(&stream.stream);
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

/// Both ends of a lane's stream.
fn pair() -> Result<(Stream, OwnedFd), NoStream> {
    let pair =
        UnixStream::pair().and_then(|(near, far)| Ok((Stream::socket(near.into(), true)?, far.into())));
    pair.map_err(|error| no_socket(&error))
}

fn no_socket(error: &io::Error) -> NoStream {
    NoStream::Refused(format!("there is no socket for it: {}", explain(error)))
}

/// Whether it is what comes for a lane.
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

#[cfg(test)]
pub(crate) mod tests;

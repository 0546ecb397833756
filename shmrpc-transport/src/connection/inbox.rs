//! What the peer says on the socket, as the watcher reads it, and the end of the peer's process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Carrier, Connection, Death, LaneAnswer, Question};
use crate::shm::segment::MAX_LANES;
use crate::slot::{Header, Kind};
use crate::sys::socket::{Frame, ReadError, clip};
use crate::sys::watcher::{Next, Source, Token, Watcher};

/// Frames that are read before other connections have their turn.
const AT_ONCE: u32 = 256;
/// The same in bytes: a turn ends with the frame that goes beyond.
const BYTES_AT_ONCE: usize = 1 << 16;
/// How often that is done again for whoever needs to know the last frame: more than a socket holds.
const ROUNDS: usize = 64;
/// Rounds that an announcement may lie behind: 1,024 frames, for 256 segments and 64 lanes.
const REASON: usize = 4;
/// Time that a lane takes for more rounds than that.
const HASTE: Duration = Duration::from_millis(20);

impl Connection {
    fn handle(self: &Arc<Self>, frame: &Frame) -> Result<(), Fault> {
        let header = frame.header;
        match header.kind {
            Kind::SegmentAdd => self.segment_added(frame),
            Kind::SegmentRetire => self.segment_retired(header),
            Kind::LaneOpen | Kind::LaneReset if header.block >= MAX_LANES => {
                Err(Fault::Peer(format!("no such lane: {}", header.block)))
            }
            Kind::LaneOpen if header.call_id == 0 && self.limits.carrier == Carrier::Streams => {
                self.stream_sent(header.block)
            }
            Kind::LaneOpen if self.reader.lock().take_descriptor().is_some() => {
                Err(Fault::Peer("a descriptor came with a lane of rings".into()))
            }
            Kind::LaneOpen if header.call_id == 0 => {
                // A caller whose first question timed out asks again: the lane has its thread already.
                let bit = 1 << header.block;
                let served = if self.opened.load(Ordering::Relaxed) & bit != 0 {
                    Ok(())
                } else if header.block < self.limits.lanes {
                    self.events.lane_opened(self, header.block, None)
                } else {
                    Err(format!("{} lanes are all that a connection may have", self.limits.lanes))
                };
                let mut answer = Header { call_id: 1, block: header.block, ..Header::new(Kind::LaneOpen) };
                match served {
                    Ok(()) => {
                        self.opened.fetch_or(bit, Ordering::Relaxed);
                        self.tell(answer);
                    }
                    Err(reason) => {
                        answer.kind = Kind::LaneReset;
                        self.tell_why(answer, clip(&reason));
                    }
                }
                Ok(())
            }
            Kind::LaneOpen | Kind::LaneReset => {
                let answer = match header.kind {
                    Kind::LaneOpen => LaneAnswer::Served,
                    _ => LaneAnswer::Refused(frame.text()),
                };
                if let Some(question) = self.questions.lock().get_mut(header.block as usize) {
                    *question = Question::Answered(answer);
                }
                self.answered.notify_all();
                Ok(())
            }
            Kind::GoAway => {
                self.going_away.store(true, Ordering::Relaxed);
                Ok(())
            }
            Kind::Ping => Ok(()),
            // It has stopped its lanes before it said so, so its counters are final.
            Kind::Failure => {
                let reason = format!("the peer gave up: {}", frame.text());
                self.die(Death { reason, peer_closed: true });
                Ok(())
            }
            other => Err(Fault::Peer(format!("{other:?} has no place on the socket"))),
        }
    }

    /// Handles frames that have arrived, [`AT_ONCE`] or [`BYTES_AT_ONCE`], and what has been read with them. Ends the
    /// connection if the peer closed it or broke the protocol. False if there may be more.
    pub(super) fn read_frames(self: &Arc<Self>) -> bool {
        let _order = self.reading.lock();
        let mut bytes = 0;
        for count in 0.. {
            if self.death().is_some() {
                return true;
            }
            let mut reader = self.reader.lock();
            // What lies in the reader makes no descriptor readable, so it must not be left there.
            let goes_on = count < AT_ONCE && bytes < BYTES_AT_ONCE;
            let frame = if goes_on { reader.next(&self.socket) } else { reader.cut() };
            bytes += frame.as_ref().map_or(0, |frame| frame.as_ref().map_or(0, |frame| frame.payload.len()));
            drop(reader);
            match frame {
                Ok(Some(frame)) => match self.handle(&frame) {
                    Ok(()) => {}
                    Err(Fault::Peer(what)) => drop(self.poison(&what)),
                    Err(Fault::Ours(reason)) => self.give_up(reason),
                },
                Ok(None) => return goes_on,
                Err(error @ ReadError::OutOfDescriptors) => self.give_up(error.to_string()),
                Err(error) => {
                    let peer_closed = matches!(error, ReadError::Closed);
                    self.die(Death { reason: error.to_string(), peer_closed });
                }
            }
        }
        true
    }

    /// Handles frames that have arrived until `found`, for a lane that has a deadline: a peer that floods the socket must
    /// not keep it. At least as many as any peer of ours has reason to send before what is looked for.
    pub(super) fn read_frames_for(self: &Arc<Self>, found: impl Fn() -> bool) {
        let start = Instant::now();
        for round in 1..=ROUNDS {
            if self.read_frames() || found() || round >= REASON && start.elapsed() > HASTE {
                return;
            }
        }
    }

    /// Handles all frames that have arrived, within reason: nobody may keep us at it for ever.
    pub(super) fn read_all_frames(self: &Arc<Self>) {
        for _ in 0..ROUNDS {
            if self.read_frames() {
                return;
            }
        }
    }
}

/// Why a frame ends the connection.
pub(super) enum Fault {
    /// The peer broke the protocol.
    Peer(String),
    /// This side lacks what it takes.
    Ours(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Peer(what)
    }
}

/// Lets the watcher look after a connection: its socket, and the end of the peer's process.
pub(crate) fn watch(connection: &Arc<Connection>) -> io::Result<()> {
    let watcher = Watcher::get()?;
    let token = watcher.watch(Arc::new(Watched(Arc::clone(connection))))?;
    connection.watched.get_or_init(|| token);
    if let Some(pidfd) = connection.peer.shared_pidfd() {
        let mourner = Mourner { pidfd: Arc::clone(pidfd), connection: Arc::downgrade(connection) };
        let token = watcher.watch(Arc::new(mourner))?;
        let token = connection.mourner.get_or_init(|| token);
        if connection.death().is_some() {
            unwatch(*token);
        }
    }
    // Frames that came with the hello lie in the reader already and make no descriptor readable.
    connection.read_all_frames();
    connection.flush();
    Ok(())
}

pub(super) fn unwatch(token: Token) {
    if let Ok(watcher) = Watcher::get() {
        watcher.unwatch(token);
    }
}

/// The socket of a connection, as the watcher sees it.
#[derive(Debug)]
struct Watched(Arc<Connection>);

impl Source for Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        if self.0.death().is_some() { None } else { *self.0.look_at.lock() }
    }

    fn expired(&self) -> Next {
        self.0.give_back();
        Next::Keep
    }

    fn ready(&self) -> Next {
        self.0.read_frames();
        self.0.flush();
        if self.0.death().is_some() { Next::Done } else { Next::Keep }
    }
}

/// The peer's process, as the watcher sees it. A child of the peer may hold its socket open; it does not hold this.
struct Mourner {
    pidfd: Arc<OwnedFd>,
    connection: Weak<Connection>,
}

impl Source for Mourner {
    fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn ready(&self) -> Next {
        if let Some(connection) = self.connection.upgrade() {
            // What the peer said last still counts: a published reply may lie in a segment announced just before.
            connection.read_all_frames();
            connection.die(Death { reason: "the peer's process ended".into(), peer_closed: true });
        }
        Next::Done
    }
}

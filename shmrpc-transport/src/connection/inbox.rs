//! What the peer says on the socket, as the watcher reads it, and the end of the peer's process.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::{Carrier, Connection, Death, LaneAnswer, Question};
use crate::shm::segment::MAX_LANES;
use crate::slot::{DESCRIPTORS_MAX, Header, Kind};
use crate::sys::socket::{Frame, ReadError, clip};
use crate::sys::watcher::{Next, Source, Token, Watcher};

/// Frames that are read before other connections have their turn.
const AT_ONCE: u32 = 256;
/// The same in bytes: a turn ends with the frame that goes beyond.
const BYTES_AT_ONCE: usize = 1 << 16;
/// How often that is done again for whoever needs to know the last frame: more than a socket holds.
const ROUNDS: usize = 64;
/// Rounds that an announcement may lie behind: 1,024 frames, for 64 segments and 64 lanes.
const REASON: usize = 4;
/// Time that a lane takes for more rounds than that.
const HASTE: Duration = Duration::from_millis(20);
/// Time that a lane waits for others who read, to hear why it ended.
const MOMENT: Duration = Duration::from_millis(5);

impl Connection {
    fn handle(self: &Arc<Self>, frame: &Frame) -> Result<(), Fault> {
        let header = frame.header;
        in_its_place(header, self.peer_is_client, self.limits.carrier)?;
        match header.kind {
            Kind::SegmentAdd => self.segment_added(frame),
            Kind::SegmentRetire => self.segment_retired(header),
            Kind::LaneOpen if self.peer_is_client && self.limits.carrier == Carrier::Streams => {
                self.stream_sent(header.block, header.call_id != 0)
            }
            Kind::LaneOpen if self.peer_is_client => {
                self.lane_asked_for(header.block);
                Ok(())
            }
            Kind::LaneOpen => self.lane_answered(header.block, LaneAnswer::Served),
            Kind::LaneReset => self.lane_answered(header.block, LaneAnswer::Refused(frame.text())),
            Kind::Descriptors if self.limits.carrier == Carrier::Rings => self.handed(header),
            Kind::GoAway => {
                self.going_away.store(true, Ordering::Relaxed);
                Ok(())
            }
            Kind::Ping => Ok(()),
            // It has stopped its lanes before it said so, so its counters are final.
            Kind::Failure => {
                let reason = format!("the peer gave up: {}", frame.text());
                self.peer_left(Death { reason, peer_closed: true });
                Ok(())
            }
            other => Err(Fault::Peer(no_place(other, self.peer_is_client))),
        }
    }

    fn lane_asked_for(self: &Arc<Self>, lane: u32) {
        // A caller whose first question timed out asks again: the lane has its thread already.
        let bit = 1 << lane;
        let served = if self.opened.load(Ordering::Relaxed) & bit != 0 {
            Ok(())
        } else if lane < self.limits.lanes {
            self.events.lane_opened(self, lane, None)
        } else {
            Err(format!("{} lanes are all that a connection may have", self.limits.lanes))
        };
        let mut answer = Header { call_id: 1, block: lane, ..Header::new(Kind::LaneOpen) };
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
    }

    /// Whether the peer, a client, has opened the lane.
    pub(super) fn has_opened(&self, lane: u32) -> bool {
        self.opened.load(Ordering::Relaxed) & 1_u64.checked_shl(lane).unwrap_or(0) != 0
    }

    fn lane_answered(&self, lane: u32, answer: LaneAnswer) -> Result<(), Fault> {
        match self.questions.lock().get_mut(lane as usize) {
            Some(question @ Question::Asked) => *question = Question::Answered(answer),
            _ => return Err(Fault::Peer(format!("an answer about lane {lane}, which was not asked for"))),
        }
        self.answered.notify_all();
        Ok(())
    }

    /// Handles frames that have arrived, [`AT_ONCE`] or [`BYTES_AT_ONCE`], and what has been read with them. Ends the
    /// connection if the peer closed it or broke the protocol. False if there may be more.
    pub(super) fn read_frames(self: &Arc<Self>) -> bool {
        self.read_frames_in(self.reading.lock())
    }

    fn read_frames_in(self: &Arc<Self>, _order: MutexGuard<'_, ()>) -> bool {
        let mut bytes = 0;
        for count in 0.. {
            if self.end().is_some() {
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
                Err(error @ ReadError::Closed) => {
                    self.peer_left(Death { reason: error.to_string(), peer_closed: true });
                }
                Err(error) => self.die(Death { reason: error.to_string(), peer_closed: false }),
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

    /// For a lane inside a host that its other end has closed: why that was, if the peer has said so. It says so first, behind few other frames.
    /// Of many lanes that ask at once, those that would wait long for the others go without: their calls may be over time already.
    pub(crate) fn hear_why(self: &Arc<Self>) {
        if self.end().is_none()
            && let Some(order) = self.reading.try_lock_for(MOMENT)
        {
            let _ = self.read_frames_in(order);
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

impl Connection {
    /// Whether the peer has left, though nobody may have seen it yet.
    pub fn is_left(&self) -> bool {
        self.death().is_some() || self.socket.is_hung_up()
    }
}

/// Refuses what the table of frame kinds (ARCHITECTURE.md) does not have on the socket: a kind from the wrong side, and
/// any field that says more than it may.
fn in_its_place(header: Header, from_client: bool, carrier: Carrier) -> Result<(), String> {
    const LANES: RangeInclusive<u32> = 0..=MAX_LANES - 1;
    const SEGMENTS: RangeInclusive<u32> = 1..=u32::MAX;
    const TEXT: RangeInclusive<u32> = 0..=u32::MAX;
    const ANY: RangeInclusive<u32> = 0..=u32::MAX;
    #[expect(clippy::cast_possible_truncation, reason = "four bits")]
    const COUNT: RangeInclusive<u32> = 1..=DESCRIPTORS_MAX as u32;
    const NO: RangeInclusive<u32> = 0..=0;
    let Header { call_id, method, kind, flags: _, length, block, timeout_ms } = header;
    let (call_ids, blocks, lengths) = match kind {
        Kind::LaneOpen if from_client && carrier == Carrier::Streams => (0..=1, LANES, NO),
        Kind::LaneOpen if from_client => (NO, LANES, NO),
        Kind::LaneOpen => (1..=1, LANES, NO),
        Kind::LaneReset if !from_client => (1..=1, LANES, TEXT),
        Kind::SegmentAdd => (NO, SEGMENTS, 8..=8),
        Kind::SegmentRetire => (0..=1, SEGMENTS, NO),
        Kind::Failure => (NO, NO, TEXT),
        Kind::GoAway if !from_client => (NO, NO, NO),
        Kind::Ping => (NO, NO, NO),
        Kind::Descriptors => (ANY, LANES, NO),
        other => return Err(no_place(other, from_client)),
    };
    // The upper ones count, and are a field of their own.
    let (count, flags) = (header.descriptors(), header.with_descriptors(0).flags);
    let counts = if kind == Kind::Descriptors { COUNT } else { NO };
    let fields = [
        ("call id", call_id, call_ids),
        ("method", method.into(), NO),
        ("flags", flags.into(), NO),
        ("descriptors", u32::try_from(count).unwrap_or(u32::MAX), counts),
        ("length", length, lengths),
        ("block", block, blocks),
        ("timeout_ms", timeout_ms, NO),
    ];
    match fields.into_iter().find(|(_, value, allowed)| !allowed.contains(value)) {
        Some((name, value, _)) => Err(format!("{kind:?} with {name} {value} from a {}", side(from_client))),
        None => Ok(()),
    }
}

fn no_place(kind: Kind, from_client: bool) -> String {
    format!("{kind:?} has no place on the socket from a {}", side(from_client))
}

fn side(is_client: bool) -> &'static str {
    if is_client { "client" } else { "server" }
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
    let token =
        watcher.watch(Arc::new(Watched { connection: Arc::clone(connection), rests: false.into() }))?;
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
struct Watched {
    connection: Arc<Connection>,
    /// Whether nothing more is read: the peer has left.
    rests: AtomicBool,
}

impl Source for Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.connection.left.get(), self.connection.death()) {
            (Some((_, until)), _) => Some(*until),
            (None, Some(_)) => None,
            (None, None) => *self.connection.look_at.lock(),
        }
    }

    fn expired(&self) -> Next {
        if let Some((death, _)) = self.connection.left.get() {
            self.connection.die(death.clone());
            return Next::Done;
        }
        self.connection.give_back();
        Next::Keep
    }

    fn ready(&self) -> Next {
        self.connection.read_frames();
        if self.connection.end().is_none() {
            self.connection.flush();
        }
        match self.connection.death() {
            Some(_) => Next::Done,
            // Once: to rest again would ask again.
            None if self.connection.left.get().is_some() && !self.rests.swap(true, Ordering::Relaxed) => {
                Next::Rest
            }
            None => Next::Keep,
        }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::outbox::tests::unwatched;
    use super::*;
    use crate::peers::PeerCredentials;
    use crate::shm::memory::Memory;
    use crate::shm::segment::{Handout, Segment};
    use crate::sys::process;

    /// A child may hold its socket, so that nothing else tells of its end. A reply may lie in the segment.
    #[test]
    fn what_a_process_said_before_its_end_counts() {
        let (connection, theirs) = unwatched();
        let (_, Handout { descriptor, .. }) = Segment::create(4096, Memory::Memfd).unwrap();
        let header = Header { block: 1, ..Header::new(Kind::SegmentAdd) };
        theirs.send(header, &4096_u64.to_le_bytes(), &[descriptor.as_raw_fd()], || None).unwrap();
        let pidfd = Arc::new(process::open(PeerCredentials::own().pid.unwrap()).unwrap());
        let mourner = Mourner { pidfd, connection: Arc::downgrade(&connection) };
        assert!(matches!(mourner.ready(), Next::Done));
        let death = connection.death().unwrap();
        assert!(death.peer_closed && death.reason.contains("process ended"), "{death}");
        assert!(connection.segment(1).is_some());
    }

    /// Between hosts, and its lanes may still say their last. The watcher sleeps meanwhile, though the socket has ended.
    #[test]
    fn a_connection_that_its_server_has_closed_ends_when_its_time_is_over() {
        let (connection, _theirs) = unwatched();
        let watched = Watched { connection: Arc::clone(&connection), rests: false.into() };
        assert_eq!(watched.deadline(), None);
        let (death, end) = (Death { reason: "closed".into(), peer_closed: true }, Instant::now());
        connection.left.set((death.clone(), end)).unwrap();
        assert_eq!(watched.deadline(), Some(end));
        assert!(matches!([watched.ready(), watched.ready()], [Next::Rest, Next::Keep]));
        assert_eq!(connection.death(), None);
        assert!(matches!(watched.expired(), Next::Done));
        assert_eq!(connection.death(), Some(&death));
    }

    /// The table of ARCHITECTURE.md: kind, from client, from server; each with call ids, blocks and lengths.
    #[test]
    fn a_frame_says_what_the_table_lets_it_say() {
        let good = |kind, call_id, length, block| Header { call_id, length, block, ..Header::new(kind) };
        let either = [
            good(Kind::SegmentAdd, 0, 8, 1),
            good(Kind::SegmentRetire, 0, 0, u32::MAX),
            good(Kind::SegmentRetire, 1, 0, 7),
            good(Kind::Failure, 0, 99, 0),
            good(Kind::Ping, 0, 0, 0),
            good(Kind::Descriptors, 0, 0, 63).with_descriptors(1),
            good(Kind::Descriptors, 2, 0, 0).with_descriptors(15),
        ];
        let of_client = [good(Kind::LaneOpen, 0, 0, 63)];
        let of_server = [
            good(Kind::LaneOpen, 1, 0, 0),
            good(Kind::LaneReset, 1, 20, 63),
            good(Kind::LaneReset, 1, 0, 0),
            good(Kind::GoAway, 0, 0, 0),
        ];
        for from_client in [true, false] {
            let [own, others]: [&[Header]; 2] =
                if from_client { [&of_client, &of_server] } else { [&of_server, &of_client] };
            for header in either.iter().chain(own) {
                assert_eq!(in_its_place(*header, from_client, Carrier::Rings), Ok(()), "{header:?}");
                let any = header.kind == Kind::Descriptors;
                for (name, wrong) in [
                    ("call id 2", Header { call_id: 2, ..*header }),
                    ("descriptors", header.with_descriptors(if any { 0 } else { 3 })),
                    ("method 1", Header { method: 1, ..*header }),
                    ("flags 1", Header { flags: header.flags | 1, ..*header }),
                    ("timeout_ms 9", Header { timeout_ms: 9, ..*header }),
                ] {
                    if any && name == "call id 2" {
                        continue;
                    }
                    let error = in_its_place(wrong, from_client, Carrier::Rings).unwrap_err();
                    assert!(error.contains(name) && error.contains(&format!("{:?}", header.kind)), "{error}");
                }
            }
            for header in others {
                let error = in_its_place(*header, from_client, Carrier::Rings).unwrap_err();
                assert!(error.contains(side(from_client)), "{error}");
            }
        }
        for (wrong, why) in [
            (good(Kind::LaneOpen, 0, 0, 64), "LaneOpen with block 64 from a client"),
            (good(Kind::LaneOpen, 0, 1, 0), "LaneOpen with length 1 from a client"),
            (good(Kind::SegmentAdd, 0, 7, 1), "SegmentAdd with length 7 from a client"),
            (good(Kind::SegmentAdd, 0, 8, 0), "SegmentAdd with block 0 from a client"),
            (good(Kind::SegmentRetire, 0, 0, 0), "SegmentRetire with block 0 from a client"),
            (good(Kind::Ping, 0, 1, 0), "Ping with length 1 from a client"),
            (good(Kind::Descriptors, 0, 0, 1), "Descriptors with descriptors 0 from a client"),
            (
                good(Kind::Descriptors, 0, 0, 64).with_descriptors(1),
                "Descriptors with block 64 from a client",
            ),
            (good(Kind::GoAway, 0, 0, 0), "GoAway has no place on the socket from a client"),
            (good(Kind::Hello, 0, 0, 0), "Hello has no place on the socket from a client"),
        ] {
            assert_eq!(in_its_place(wrong, true, Carrier::Rings), Err(why.to_owned()));
        }
        // Only a lane of sockets may have one each way.
        let each_way = good(Kind::LaneOpen, 1, 0, 5);
        assert_eq!(in_its_place(each_way, true, Carrier::Streams), Ok(()));
        let error = "LaneOpen with call id 1 from a client".to_owned();
        assert_eq!(in_its_place(each_way, true, Carrier::Rings), Err(error));
    }
}

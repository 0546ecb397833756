//! What we say on the socket. Nobody waits for a peer that does not read: what the socket does not take is kept, and the
//! watcher sends it when there is room. A peer that lets too much of it pile up loses the connection.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Connection, Death};
use crate::slot::{Header, Kind};
use crate::sys::shortage::{explain, is_shortage};
use crate::sys::socket::{Socket, clip, frame};
use crate::sys::watcher::Watcher;

/// Frames that may wait for a peer to read. Its socket holds some hundred more.
const MOST: usize = 1024;

/// Frames that the socket has not taken, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Vec<u8>>,
    /// Bytes of the first one that went.
    sent: usize,
    /// Whether the watcher says when the socket has room.
    watched: bool,
}

impl Outbox {
    /// Sends what it can. True if nothing is left.
    fn flush(&mut self, socket: &Socket) -> io::Result<bool> {
        while let Some(frame) = self.frames.front() {
            let sent = socket.try_send(frame.get(self.sent..).unwrap_or_default(), &[])?;
            self.sent += sent;
            if self.sent == frame.len() {
                self.frames.pop_front();
                self.sent = 0;
            } else if sent == 0 {
                return Ok(false);
            }
        }
        socket.flush()
    }
}

impl Connection {
    /// Says something that needs no payload, now or as soon as the peer reads. A socket that fails, or a peer that does
    /// not read at all, ends the connection.
    pub(super) fn tell(&self, header: Header) {
        self.tell_why(header, "");
    }

    /// The same, with a text.
    pub(super) fn tell_why(&self, header: Header, text: &str) {
        if !self.process.is_current() || self.end().is_some() {
            return;
        }
        let mut outbox = self.outbox.lock();
        let told = frame(header, text.as_bytes()).and_then(|bytes| {
            outbox.frames.push_back(bytes);
            self.send_waiting(&mut outbox)
        });
        let waiting = outbox.frames.len();
        drop(outbox);
        match told {
            Ok(_) if waiting <= MOST => {}
            Ok(_) => {
                let reason = format!("the peer does not read its socket; {waiting} frames wait for it");
                self.die(Death { reason, peer_closed: false });
            }
            Err(error) => self.not_sent(&error),
        }
    }

    /// The socket took a frame no more. If that is because the peer is gone, what it said before counts still: a reply
    /// that was published may lie in a segment that was announced just before. So the connection does not end here:
    /// whoever reads the socket finds all of that, and then the end.
    pub(super) fn not_sent(&self, error: &io::Error) {
        if is_shortage(error) {
            self.give_up(format!("a frame cannot be sent: {}", explain(error)));
        } else {
            tracing::debug!(%error, "a frame was not taken");
            self.socket.shutdown();
        }
    }

    /// Says why the connection ends, if the socket takes it now and nobody else is speaking.
    pub(super) fn say_last(&self, reason: &str) {
        let Some(mut outbox) = self.outbox.try_lock() else { return };
        let said = frame(Header::new(Kind::Failure), clip(reason).as_bytes()).and_then(|bytes| {
            outbox.frames.push_back(bytes);
            outbox.flush(&self.socket)
        });
        if let Err(error) = said {
            tracing::debug!(%error, "the peer was not told");
        }
    }

    /// Sends a short frame and its descriptors now or not at all. False if the peer must read first.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn announce(&self, header: Header, payload: &[u8], fds: &[OwnedFd]) -> io::Result<bool> {
        let mut outbox = self.outbox.lock();
        if !self.send_waiting(&mut outbox)? {
            return Ok(false);
        }
        let bytes = frame(header, payload)?;
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = self.socket.try_send(&bytes, &fds)?;
        if sent > 0 && sent < bytes.len() {
            // The kernel does not cut what is as short as this. If it did, the rest would have to follow.
            outbox.frames.push_back(bytes);
            outbox.sent = sent;
            self.send_waiting(&mut outbox)?;
        }
        Ok(sent > 0)
    }

    /// Sends what waits, if the socket has room.
    pub(super) fn flush(&self) {
        let sent = self.send_waiting(&mut self.outbox.lock());
        if let Err(error) = sent {
            self.not_sent(&error);
        }
    }

    /// Sends what waits. False if some is left; then the watcher goes on when the socket has room.
    fn send_waiting(&self, outbox: &mut Outbox) -> io::Result<bool> {
        let empty = outbox.flush(&self.socket)?;
        if outbox.watched == empty
            && let (Ok(watcher), Some(token)) = (Watcher::get(), self.watched.get())
        {
            watcher.watch_room(*token, &self.socket, !empty);
            outbox.watched = !empty;
        }
        Ok(empty)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::super::{Bases, Carrier, Dial, Events, LaneStream, Limits, Parts, Question, watch};
    use super::*;
    use crate::peers::{PeerCredentials, PeerInfo};
    use crate::shm::ledger::{Account, Route};
    use crate::shm::memory::Memory;
    use crate::shm::segment::{BASE_LEN, Handout, Segment};
    use crate::sys::socket::FrameReader;

    struct Silent;

    impl Events for Silent {
        fn lane_opened(&self, _: &Arc<Connection>, _: u32, _: Option<LaneStream>) -> Result<(), String> {
            Err("the test serves nothing".into())
        }
        fn closed(&self, _: &Connection) {}
    }

    /// A connection, and the other end of its socket, which nobody reads.
    fn with_silent_peer() -> (Arc<Connection>, Socket) {
        let (connection, theirs) = unwatched();
        watch(&connection).unwrap();
        (connection, theirs)
    }

    pub(in crate::connection) fn unwatched() -> (Arc<Connection>, Socket) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let base = || Segment::create(BASE_LEN, Memory::Memfd).unwrap().0;
        let limits = Limits {
            lanes: 1,
            carrier: Carrier::Rings,
            send_max: 1 << 20,
            receive_max: 1 << 20,
            memory: Some([Memory::Memfd; 2]),
            memory_from: u64::MAX,
            lent_max: 4 << 20,
        };
        let peer = PeerInfo::new(PeerCredentials::own(), None);
        let account = Account::of(&peer, &Route { path: "outbox".into(), listening: true }, None);
        let bases = Some(Bases { account, own: base(), peer: base() });
        let (socket, reader) = (Socket::new(ours).unwrap(), FrameReader::default());
        let parts = Parts {
            limits,
            peer,
            peer_is_client: false,
            trusted: false,
            bases,
            budget: None,
            dial: Dial::No,
            socket,
            reader,
        };
        let connection = Connection::new(parts, Box::new(Silent));
        (connection, Socket::new(theirs).unwrap())
    }

    fn numbered(number: u32) -> Header {
        let mut header = Header::new(Kind::LaneReset);
        header.call_id = number;
        header
    }

    /// Says things until the socket takes no more, and returns how many.
    fn fill(connection: &Connection) -> u32 {
        let mut said = 0;
        while connection.outbox.lock().frames.is_empty() {
            connection.tell(numbered(said));
            said += 1;
        }
        said
    }

    #[test]
    fn what_waits_is_sent_in_order_when_the_peer_reads() {
        let (connection, theirs) = with_silent_peer();
        let mut said = fill(&connection);
        for _ in 0..500 {
            connection.tell(numbered(said));
            said += 1;
        }
        assert_eq!(connection.death(), None);
        let mut reader = FrameReader::default();
        for number in 0..said {
            let frame = loop {
                match reader.next(&theirs).unwrap() {
                    Some(frame) => break frame,
                    None => theirs.wait_readable(None).unwrap(),
                }
            };
            assert_eq!(frame.header.call_id, number);
        }
        assert!(connection.outbox.lock().frames.is_empty());
        connection.die(Death { reason: "the test is over".into(), peer_closed: false });
    }

    #[test]
    fn memory_is_not_announced_to_a_peer_that_does_not_read() {
        let (connection, theirs) = with_silent_peer();
        fill(&connection);
        let fd = Segment::create(4096, Memory::Memfd).unwrap().1.descriptor;
        let header = Header::new(Kind::SegmentAdd);
        assert!(!connection.announce(header, &[0; 8], &[fd]).unwrap());
        assert_eq!(connection.outbox.lock().frames.len(), 1, "it must not come later");
        drop(theirs);
        connection.die(Death { reason: "the test is over".into(), peer_closed: false });
    }

    #[test]
    fn a_peer_that_never_reads_loses_its_connection() {
        let (connection, _theirs) = with_silent_peer();
        let said = fill(&connection);
        for _ in 0..MOST {
            connection.tell(numbered(said));
        }
        let death = connection.death().unwrap();
        assert!(death.reason.contains("does not read its socket; 1025 frames"), "{death}");
        assert!(!death.peer_closed);
    }

    /// A segment that came before the end is known, though an acknowledgement on the way there found nobody.
    #[test]
    fn what_a_peer_said_before_its_end_counts() {
        let (connection, theirs) = unwatched();
        let announce = |id| {
            let (_, Handout { descriptor, .. }) = Segment::create(4096, Memory::Memfd).unwrap();
            let header = Header { block: id, ..Header::new(Kind::SegmentAdd) };
            theirs.send(header, &4096_u64.to_le_bytes(), &[descriptor.as_raw_fd()], || None).unwrap();
        };
        announce(1);
        theirs.send(Header { block: 1, ..Header::new(Kind::SegmentRetire) }, &[], &[], || None).unwrap();
        announce(2);
        drop(theirs);
        assert!(connection.segment(2).is_some());
        let death = connection.death().unwrap();
        assert!(death.peer_closed, "{death}");
    }

    #[test]
    fn a_flood_of_frames_is_left_for_another_turn() {
        let (connection, theirs) = unwatched();
        let ping = frame(Header::new(Kind::Ping), &[]).unwrap();
        let flood = ping.repeat(2000);
        assert_eq!(theirs.try_send(&flood, &[]).unwrap(), flood.len());
        let turns = (1..).find(|_| connection.read_frames()).unwrap();
        assert!((3..=8).contains(&turns), "2,000 frames in {turns} turns of 256 and what was read with them");
        assert_eq!(connection.death(), None);
    }

    #[test]
    fn a_flood_of_bytes_is_left_for_another_turn() {
        let (connection, theirs) = unwatched();
        connection.questions.lock().fill(Question::Asked);
        let said = |lane| {
            let answer = Header { call_id: 1, block: lane, ..Header::new(Kind::LaneReset) };
            frame(answer, &[b'x'; 2000]).unwrap()
        };
        let all: Vec<u8> = (0..64).flat_map(said).collect();
        assert_eq!(theirs.try_send(&all, &[]).unwrap(), all.len());
        let turns = (1..).find(|_| connection.read_frames()).unwrap();
        assert!((2..=4).contains(&turns), "{} bytes in {turns} turns of 64 KiB", all.len());
        assert_eq!(connection.death(), None);
    }

    #[test]
    fn whoever_asks_why_waits_for_no_other_reader() {
        let (connection, theirs) = unwatched();
        drop(theirs);
        let reads = connection.reading.lock();
        let asked = Arc::clone(&connection);
        let (say, said) = std::sync::mpsc::channel();
        let asks = std::thread::spawn(move || {
            asked.hear_why();
            say.send(()).unwrap();
        });
        said.recv_timeout(std::time::Duration::from_secs(30)).expect("it waits for the other reader");
        assert_eq!(connection.death(), None);
        drop(reads);
        asks.join().unwrap();
        connection.hear_why();
        assert!(connection.death().unwrap().peer_closed);
    }
}

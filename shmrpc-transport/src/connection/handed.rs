//! Descriptors of messages that lie in rings: they go over the socket, before their slot is published.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::inbox::Fault;
use super::{Connection, LaneAnswer, Question};
use crate::descriptors::{BadDescriptors, Descriptors};
use crate::message::EncodeError;
use crate::slot::{Header, Kind};
use crate::sys::futex::Until;
use crate::sys::shortage::{explain, is_shortage};

/// How often a peer that does not read its socket is looked after.
const LOOK: Duration = Duration::from_millis(1);

/// What came for messages that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct Handed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// For each lane, those of one message.
    by_lane: BTreeMap<u32, One>,
    /// Nobody takes any more.
    ended: bool,
}

#[derive(Debug)]
struct One {
    call_id: u32,
    descriptors: Descriptors,
}

impl Handed {
    /// Nobody takes any more.
    pub(super) fn end(&self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.by_lane.clear();
    }
}

impl Connection {
    /// Sends the descriptors of a message that is published next on `lane`.
    ///
    /// # Errors
    /// [`EncodeError::Descriptors`]: they are not sent.
    pub(crate) fn hand_over(
        self: &Arc<Self>,
        lane: u32,
        call_id: u32,
        fds: &[OwnedFd],
        until: &mut Until,
    ) -> Result<(), EncodeError> {
        let header = Header { call_id, block: lane, ..Header::new(Kind::Descriptors) };
        let header = header.with_descriptors(fds.len());
        let lacking = |why: &str| EncodeError::Descriptors(why.into());
        loop {
            if let Some(death) = self.death() {
                return Err(lacking(&death.reason));
            }
            match self.announce(header, &[], fds) {
                Ok(true) => return Ok(()),
                Ok(false) if until.is_over() => return Err(lacking("the peer does not read its socket")),
                // It has to read first.
                Ok(false) => std::thread::sleep(LOOK),
                Err(error) => {
                    // If that is because the peer is gone, the socket says so, and nobody may have read it yet.
                    self.read_all_frames();
                    let death = self.death().filter(|_| !is_shortage(&error));
                    return Err(lacking(death.map_or(&*explain(&error), |death| &death.reason)));
                }
            }
        }
    }

    /// Descriptors came. Their message is taken later.
    pub(super) fn handed(&self, header: Header) -> Result<(), Fault> {
        let came = self.reader.lock().take_descriptors();
        let Header { call_id, block: lane, .. } = header;
        let announced = header.descriptors();
        if came.len() != announced {
            let bad = BadDescriptors::Number { found: came.len(), announced };
            return Err(Fault::Peer(bad.to_string()));
        }
        if !self.has_lane(lane) {
            return Err(Fault::Peer(format!("descriptors for lane {lane}, which is not open")));
        }
        let descriptors = Descriptors::admit(self.peer.party(), came);
        let mut state = self.handed.0.lock();
        if state.ended {
            return Ok(());
        }
        match state.by_lane.insert(lane, One { call_id, descriptors }) {
            None => Ok(()),
            Some(One { call_id: before, .. }) => Err(Fault::Peer(format!(
                "descriptors of call {call_id} on lane {lane} before those of call {before} could be taken"
            ))),
        }
    }

    fn has_lane(&self, lane: u32) -> bool {
        if self.peer_is_client {
            return self.has_opened(lane);
        }
        let served = Question::Answered(LaneAnswer::Served);
        self.questions.lock().get(lane as usize) == Some(&served)
    }

    /// The descriptors of a message that was taken from `lane`. They were sent before it was published, so what the watcher
    /// has not read yet lies in the socket.
    pub(crate) fn take_handed(
        self: &Arc<Self>,
        lane: u32,
        header: Header,
    ) -> Result<Descriptors, BadDescriptors> {
        let take = || self.handed.0.lock().by_lane.remove(&lane);
        let found = take().or_else(|| {
            self.read_frames_for(|| self.handed.0.lock().by_lane.contains_key(&lane));
            take()
        });
        let (expected, announced) = (header.call_id, header.descriptors());
        match found {
            None => Err(BadDescriptors::Number { found: 0, announced }),
            Some(One { call_id, .. }) if call_id != expected => {
                Err(BadDescriptors::CallId { found: call_id, expected })
            }
            Some(One { descriptors, .. }) if descriptors.len() != announced => {
                Err(BadDescriptors::Number { found: descriptors.len(), announced })
            }
            Some(One { descriptors, .. }) => Ok(descriptors),
        }
    }

    /// Nobody takes replies any more.
    pub(crate) fn forget_handed(&self) {
        // In a forked child a thread that is not there may hold the lock.
        if self.process.is_current() {
            self.handed.end();
        }
    }

    /// Nobody takes what came for `lane`: its reply will not come, or its caller is gone.
    pub(crate) fn forget_handed_of(&self, lane: u32) {
        if self.process.is_current() {
            let nobodys = self.handed.0.lock().by_lane.remove(&lane);
            drop(nobodys);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;
    use std::os::fd::AsRawFd;

    use super::super::outbox::tests::unwatched;
    use super::*;
    use crate::lane::CallerLane;
    use crate::sys::socket::{FrameReader, Socket};

    /// A connection to a server that serves lane 0, and the server's end of its socket.
    fn connection() -> (Arc<Connection>, Socket) {
        let (connection, theirs) = unwatched();
        let served = Question::Answered(LaneAnswer::Served);
        connection.questions.lock().first_mut().into_iter().for_each(|question| *question = served.clone());
        (connection, theirs)
    }

    /// Sends writing ends of a pipe, and returns the reading one.
    fn send(theirs: &Socket, header: Header, count: usize) -> PipeReader {
        let (reader, writer) = std::io::pipe().unwrap();
        theirs.send(header, &[], &vec![writer.as_raw_fd(); count], || None).unwrap();
        reader
    }

    fn header(call_id: u32, count: usize) -> Header {
        Header { call_id, ..Header::new(Kind::Descriptors) }.with_descriptors(count)
    }

    fn is_closed(mut reader: PipeReader) -> bool {
        std::io::Read::read(&mut reader, &mut [0]).unwrap() == 0
    }

    #[test]
    fn what_came_is_taken_once_and_by_its_call() {
        let (connection, theirs) = connection();
        for call_id in [7, 8] {
            let reader = send(&theirs, header(call_id, 3), 3);
            // Nobody has read the socket yet.
            let came = connection.take_handed(0, header(call_id, 3)).unwrap();
            assert_eq!((came.len(), came.lost()), (3, None));
            drop(came);
            assert!(is_closed(reader));
        }
        let again = connection.take_handed(0, header(8, 3)).unwrap_err();
        assert!(matches!(again, BadDescriptors::Number { found: 0, announced: 3 }), "{again}");
        let _reader = send(&theirs, header(9, 1), 1);
        let other = connection.take_handed(0, header(10, 1)).unwrap_err();
        assert!(matches!(other, BadDescriptors::CallId { found: 9, expected: 10 }), "{other}");
        let _reader = send(&theirs, header(11, 2), 2);
        let fewer = connection.take_handed(0, header(11, 3)).unwrap_err();
        assert!(matches!(fewer, BadDescriptors::Number { found: 2, announced: 3 }), "{fewer}");
        assert_eq!(connection.death(), None);
    }

    #[test]
    fn what_nobody_takes_is_closed_for_its_lane_alone() {
        let (connection, theirs) = connection();
        let reader = send(&theirs, header(1, 2), 2);
        connection.read_all_frames();
        connection.forget_handed_of(1);
        connection.forget_handed_of(0);
        assert!(is_closed(reader));
        let reader = send(&theirs, header(2, 1), 1);
        connection.read_all_frames();
        connection.forget_handed_of(1);
        assert_eq!(connection.take_handed(0, header(2, 1)).unwrap().len(), 1);
        assert!(is_closed(reader));
    }

    /// A server may hand over what belongs to no reply.
    #[test]
    fn what_came_goes_with_the_callers_end_of_its_lane() {
        let (connection, theirs) = unwatched();
        let mut reader = FrameReader::default();
        let lane = std::thread::scope(|scope| {
            let opened = scope.spawn(|| CallerLane::open(&connection, 0, &mut Until::never()));
            let asked = loop {
                theirs.wait_readable(None).unwrap();
                if let Some(frame) = reader.next(&theirs).unwrap() {
                    break frame.header;
                }
            };
            assert_eq!(asked, Header::new(Kind::LaneOpen));
            theirs.send(Header { call_id: 1, ..asked }, &[], &[], || None).unwrap();
            while connection.questions.lock()[0] == Question::Asked {
                connection.read_all_frames();
            }
            opened.join().unwrap().unwrap()
        });
        let reader = send(&theirs, header(3, 2), 2);
        connection.read_all_frames();
        drop(lane);
        assert!(is_closed(reader));
        assert_eq!(connection.death(), None);
    }

    #[test]
    fn what_came_before_the_end_is_still_had_by_its_caller() {
        let (connection, theirs) = connection();
        let reader = send(&theirs, header(5, 1), 1);
        drop(theirs);
        connection.read_all_frames();
        assert!(connection.death().unwrap().peer_closed);
        assert_eq!(connection.take_handed(0, header(5, 1)).unwrap().len(), 1);
        assert!(is_closed(reader));
    }

    /// Nobody has seen yet that the peer is gone.
    #[test]
    fn what_a_dead_peer_does_not_take_ends_the_connection() {
        let (connection, theirs) = connection();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(theirs);
        assert_eq!(connection.death(), None);
        let error = connection.hand_over(0, 0, &[writer.into()], &mut Until::never()).unwrap_err();
        assert!(error.to_string().contains("the peer closed the connection"), "{error}");
        assert!(connection.death().unwrap().peer_closed);
        assert!(is_closed(reader));
    }

    #[test]
    fn what_no_peer_sends_ends_the_connection() {
        let lane = |block| Header { block, ..header(0, 1) };
        for (sent, why) in [
            (vec![(header(0, 2), 1)], "1 descriptors came with a message that announces 2"),
            (vec![(header(0, 1), 2)], "descriptors came beside frames that want none"),
            (vec![(lane(1), 1)], "descriptors for lane 1, which is not open"),
            (
                vec![(header(4, 1), 1), (header(5, 1), 1)],
                "of call 5 on lane 0 before those of call 4 could be taken",
            ),
        ] {
            let (connection, theirs) = connection();
            let readers: Vec<_> =
                sent.into_iter().map(|(header, count)| send(&theirs, header, count)).collect();
            connection.read_all_frames();
            let death = connection.death().expect(why).clone();
            assert!(death.reason.contains(why), "{death}");
            connection.forget_handed();
            assert!(readers.into_iter().all(is_closed), "{why}");
        }
    }
}

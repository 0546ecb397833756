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
use crate::sys::shortage::explain;

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
        &self,
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
                Err(error) => return Err(lacking(&explain(&error))),
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
        self.handed.end();
    }
}

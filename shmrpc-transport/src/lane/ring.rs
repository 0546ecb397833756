//! Lanes of two rings in shared memory, one each way.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{
    Discard, NoReply, NotOpened, Outgoing, Reply, check_number, given, may_have_descriptors, not_encoded,
};
use crate::connection::{BadBlock, Connection, Encoded, LaneAnswer};
use crate::descriptors::{BadDescriptors, Descriptors};
use crate::message::Encode;
use crate::shm::consumer::{Consumer, Wait};
use crate::shm::producer::{BadCredit, Producer};
use crate::shm::segment::Side;
use crate::slot::{BadHeader, Header, Kind};
use crate::sys::futex::{Stop, Until};

pub(super) use self::server::Server;

mod server;

/// What a peer did that no correct peer does.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Header(#[from] BadHeader),
    #[error(transparent)]
    Credit(#[from] BadCredit),
    #[error(transparent)]
    Block(#[from] Box<BadBlock>),
    #[error(transparent)]
    Descriptors(#[from] BadDescriptors),
    #[error("{0:?} has no place in the ring of this lane")]
    Kind(Kind),
    #[error("a reply to call {found} came where the reply to call {expected} was due")]
    CallId { found: u32, expected: u32 },
}

/// The calling end.
#[derive(Debug)]
pub(super) struct Caller {
    connection: Arc<Connection>,
    lane: u32,
    producer: Producer<Side>,
    consumer: Consumer<Side>,
    next_call: u32,
    /// The call whose reply nobody waited for. The lane is set aside until it comes.
    overdue: Option<Overdue>,
    /// The position of the last message that had descriptors.
    handed: Option<u32>,
}

/// A call whose reply nobody waits for.
#[derive(Debug, Clone, Copy)]
struct Overdue {
    call_id: u32,
    discard: Option<Discard>,
}

impl Caller {
    /// Opens `lane` at the peer.
    ///
    /// # Errors
    /// [`NotOpened`] says why there is no lane.
    pub(super) fn open(
        connection: &Arc<Connection>,
        lane: u32,
        until: &mut Until,
    ) -> Result<Self, NotOpened> {
        let Some((producer, consumer)) = connection.rings(lane) else {
            return Err(NotOpened::Refused(format!("there is no lane {lane}")));
        };
        match connection.open_lane(lane, until).map_err(NotOpened::Dead)? {
            LaneAnswer::Served => {}
            LaneAnswer::Refused(reason) => return Err(NotOpened::Refused(reason)),
            LaneAnswer::TimedOut => return Err(NotOpened::TimedOut),
        }
        let connection = Arc::clone(connection);
        Ok(Self { connection, lane, producer, consumer, next_call: 0, overdue: None, handed: None })
    }

    /// Whether the lane can carry a call now: takes an overdue reply off it if that has come.
    #[inline(always)]
    pub(super) fn is_free(&mut self) -> bool {
        self.overdue.is_none() || self.drop_overdue()
    }

    #[cold]
    fn drop_overdue(&mut self) -> bool {
        while let Some(overdue) = self.overdue
            && self.consumer.ready()
        {
            let mut late = Reply::empty();
            match self.take_late(overdue.call_id, &mut late) {
                Ok(()) => {
                    self.overdue = None;
                    if let Some(discard) = overdue.discard {
                        discard(&self.connection, &late);
                    }
                }
                Err(broken) => {
                    self.connection.poison(&broken);
                    return false;
                }
            }
        }
        self.overdue.is_none()
    }

    /// Whether the server is done with all that was sent.
    pub(super) fn is_done(&mut self) -> bool {
        self.is_free() && self.connection.is_done(self.lane, self.position())
    }

    /// Position that the next message will have.
    pub(super) fn position(&self) -> u32 {
        self.producer.position()
    }

    /// Waits until the server is done with the one-way calls that were sent, or nobody will be.
    pub(super) fn finish(&mut self, until: &mut Until) {
        // A call whose reply is overdue came last, and nobody waits for it.
        let overdue = u32::from(!self.is_free());
        let last = self.position().wrapping_sub(1 + overdue);
        if let Err(none) = self.wait_for(|producer| producer.is_done(last), until) {
            tracing::debug!(?none, "one-way calls may be lost");
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// [`NoReply`] says what may have happened.
    #[inline(always)]
    pub(super) fn call<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        timeout_ms: u32,
        reply: &mut Reply,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        let discard = request.discard;
        let call_id = self.publish(Kind::Request, request, timeout_ms, until)?;
        let wait = match self.connection.stop(self.lane) {
            Some(stop) => self.consumer.wait(stop, until),
            None => Ok(Wait::Stopped),
        };
        match wait {
            Ok(Wait::Ready) => self.take(call_id, reply).map_err(|broken| self.broken(&broken)),
            other => Err(self.no_reply(Overdue { call_id, discard }, other)),
        }
    }

    /// Sends a request that has no reply.
    ///
    /// # Errors
    /// [`NoReply`] if it could not be published.
    pub(super) fn send<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        self.publish(Kind::OneWay, request, 0, until).map(drop)
    }

    #[inline(always)]
    fn publish<T: Encode>(
        &mut self,
        kind: Kind,
        request: Outgoing<'_, T>,
        timeout_ms: u32,
        until: &mut Until,
    ) -> Result<u32, Box<NoReply>> {
        if !matches!(self.producer.try_claim(), Ok(true)) {
            self.wait_for_credit(until)?;
        }
        let Outgoing { method, value, recursive, descriptors, discard: _ } = request;
        let count = match given(&descriptors) {
            [] => 0,
            some => self.may_hand_over(some, until)?,
        };
        let (lane, call_id) = (self.lane, self.next_call);
        let hand_over = |until: &mut Until, _| match given(&descriptors) {
            [] => Ok(()),
            some => self.connection.hand_over(lane, call_id, some, until),
        };
        let slot = self.producer.claimed();
        let encoded = self.connection.encode(value, recursive, until, slot, hand_over);
        let Encoded { length, flags, block } = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Err(not_encoded(error)),
        };
        self.next_call = call_id.wrapping_add(1);
        let timeout_ms = until.left_of(timeout_ms);
        let header = Header { call_id, method, kind, flags, length, block, timeout_ms };
        self.producer.publish_written(header.with_descriptors(count));
        self.producer.notify();
        self.consumer.follows(length);
        if let Some(descriptors) = descriptors {
            self.handed_over(descriptors);
        }
        Ok(call_id)
    }

    #[cold]
    fn wait_for_credit(&mut self, until: &mut Until) -> Result<(), Box<NoReply>> {
        self.wait_for(Producer::try_claim, until)
    }

    /// How many they are. The server keeps the descriptors of one message of this lane that it has not taken, and no more.
    #[cold]
    fn may_hand_over(&mut self, descriptors: &[OwnedFd], until: &mut Until) -> Result<usize, Box<NoReply>> {
        check_number(descriptors).map_err(not_encoded)?;
        if let Some(last) = self.handed {
            self.wait_for(|producer| producer.is_done(last), until)?;
        }
        Ok(descriptors.len())
    }

    /// They went with the message that was published last, if there are any.
    #[cold]
    fn handed_over(&mut self, descriptors: &mut Vec<OwnedFd>) {
        if !descriptors.is_empty() {
            self.handed = Some(self.producer.position().wrapping_sub(1));
            descriptors.clear();
        }
    }

    #[cold]
    fn wait_for(
        &mut self,
        comes: impl FnMut(&mut Producer<Side>) -> Result<bool, BadCredit>,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        let connection = Arc::clone(&self.connection);
        let none =
            match connection.stop(self.lane).map(|stop| wait_for(comes, &mut self.producer, stop, until)) {
                Some(Ok(Wait::Ready)) => return Ok(()),
                Some(Ok(Wait::TimedOut)) => NoReply::TimedOut { published: false },
                Some(Err(bad)) => NoReply::Dead { taken: false, death: connection.poison(&bad) },
                Some(Ok(Wait::Stopped | Wait::Crowded)) | None => {
                    NoReply::Dead { taken: false, death: connection.last_words() }
                }
            };
        Err(Box::new(none))
    }

    #[inline(always)]
    fn take(&mut self, call_id: u32, reply: &mut Reply) -> Result<(), Broken> {
        // The next call is likely to come soon, and the server polls the line that it will lie in.
        self.producer.expect_to_publish();
        let header = self.consumer.take(reply.message.words_mut())?;
        self.connection.receive(header, &mut reply.message)?;
        self.taken(header, call_id, reply)
    }

    /// The same of a reply that nobody waits for: a large one is not looked at.
    #[cold]
    fn take_late(&mut self, call_id: u32, reply: &mut Reply) -> Result<(), Broken> {
        let header = self.consumer.take(reply.message.words_mut())?;
        reply.message.set_inline(header.length);
        self.connection.receive_late(header, &mut reply.message)?;
        self.taken(header, call_id, reply)
    }

    #[inline(always)]
    fn taken(&mut self, header: Header, call_id: u32, reply: &mut Reply) -> Result<(), Broken> {
        if header.descriptors() > 0 {
            reply.descriptors = take_descriptors(&self.connection, self.lane, header)?;
        }
        self.consumer.finish();
        reply.kind = header.kind;
        if !matches!(reply.kind, Kind::Reply | Kind::ServiceError | Kind::Failure) {
            return Err(Broken::Kind(reply.kind));
        }
        if header.call_id != call_id {
            return Err(Broken::CallId { found: header.call_id, expected: call_id });
        }
        Ok(())
    }

    #[cold]
    fn no_reply(&mut self, call: Overdue, wait: Result<Wait, BadHeader>) -> Box<NoReply> {
        match wait {
            Ok(Wait::TimedOut) => {
                self.overdue = Some(call);
                Box::new(NoReply::TimedOut { published: true })
            }
            Ok(_) => {
                // A reply may still come, and no other call may take it for its own.
                self.overdue = Some(call);
                let request = self.producer.position().wrapping_sub(1);
                let death = self.connection.last_words();
                if self.connection.death().is_some() {
                    self.connection.forget_handed_of(self.lane);
                }
                // Only the counter of a peer that has ended is its last word.
                let taken = !death.peer_closed || self.producer.was_taken(request);
                Box::new(NoReply::Dead { taken, death })
            }
            Err(bad) => self.broken(&bad.into()),
        }
    }

    #[cold]
    fn broken(&self, broken: &Broken) -> Box<NoReply> {
        Box::new(NoReply::Dead { taken: true, death: self.connection.poison(broken) })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.connection.forget_handed_of(self.lane);
    }
}

/// Waits until the peer is done with enough: it gives credits back.
fn wait_for(
    mut comes: impl FnMut(&mut Producer<Side>) -> Result<bool, BadCredit>,
    producer: &mut Producer<Side>,
    stop: &Stop,
    until: &mut Until,
) -> Result<Wait, BadCredit> {
    loop {
        if comes(producer)? {
            return Ok(Wait::Ready);
        }
        if stop.is_set() {
            return Ok(Wait::Stopped);
        }
        if until.is_over() {
            return Ok(Wait::TimedOut);
        }
        producer.sleep_for_credit(stop, until)?;
    }
}

/// The descriptors of a message that was just taken.
#[cold]
fn take_descriptors(connection: &Arc<Connection>, lane: u32, header: Header) -> Result<Descriptors, Broken> {
    match may_have_descriptors(header) {
        true => Ok(connection.take_handed(lane, header)?),
        false => Err(BadDescriptors::Unwanted.into()),
    }
}

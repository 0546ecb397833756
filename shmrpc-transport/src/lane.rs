//! Lanes: a caller's carries one call at a time, a serving one belongs to one thread. Made of two rings in shared memory, or
//! of a byte stream.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::connection::{Carrier, Connection, Death, LaneStream};
use crate::descriptors::Descriptors;
use crate::message::{Encode, EncodeError, Message};
use crate::slot::{DESCRIPTORS_MAX, Header, Kind};
use crate::sys::futex::Until;

mod ring;
mod stream;
#[cfg(test)]
mod tests;

/// A call that has no reply.
#[derive(Debug)]
pub enum NoReply {
    /// The arguments could not be encoded; nothing was published.
    NotEncoded(EncodeError),
    /// The time was over. `published` tells whether the server may have seen the call.
    TimedOut {
        /// Whether the call was published.
        published: bool,
    },
    /// The connection ended. `taken` tells whether the server may have taken the call.
    Dead {
        /// False only if the server is known not to have taken the call.
        taken: bool,
        /// Why the connection ended.
        death: Death,
    },
}

/// A lane that could not be opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// The peer serves no further lane now, for this reason.
    Refused(String),
    /// It could not even be asked: where it is to be asked for, nobody knows of the connection.
    Unreachable(String),
    /// The peer did not answer in time.
    TimedOut,
    /// The connection ended.
    Dead(Death),
}

/// What a caller sends.
#[derive(Debug)]
pub struct Outgoing<'a, T> {
    /// The server's index of the method.
    pub method: u16,
    /// The arguments.
    pub value: &'a T,
    /// Whether they can contain values of their own type.
    pub recursive: bool,
    /// What goes with them, and is taken once it is on its way. Most methods have none, and the compiler knows which: moved
    /// by value, an empty vector cost each call some 20 ns.
    pub descriptors: Option<&'a mut Vec<OwnedFd>>,
    /// Gives back what the reply holds beyond its own memory, if it comes when nobody waits for it any more.
    pub discard: Option<Discard>,
}

/// What becomes of a reply that came too late. It knows the reply's type.
pub type Discard = fn(&Arc<Connection>, &Reply);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// [`Kind::Reply`], [`Kind::ServiceError`] or [`Kind::Failure`].
    pub kind: Kind,
    /// The payload.
    pub message: Message,
    /// What came with it.
    pub descriptors: Descriptors,
}

impl Reply {
    /// Nothing came back yet.
    #[inline(always)]
    pub fn empty() -> Self {
        Self { kind: Kind::Failure, message: Message::empty(), descriptors: Descriptors::default() }
    }
}

impl NoReply {
    /// Whether the server may have got the message, and have its memory.
    pub fn was_published(&self) -> bool {
        match self {
            Self::NotEncoded(_) => false,
            Self::TimedOut { published } | Self::Dead { taken: published, .. } => *published,
        }
    }
}

/// The calling end of a lane.
#[derive(Debug)]
pub struct CallerLane(Caller);

#[derive(Debug)]
enum Caller {
    Ring(ring::Caller),
    Stream(Box<stream::Caller>),
}

impl CallerLane {
    /// Opens `lane` at the peer.
    ///
    /// # Errors
    /// [`NotOpened`] says why there is no lane.
    pub(crate) fn open(
        connection: &Arc<Connection>,
        lane: u32,
        until: &mut Until,
    ) -> Result<Self, NotOpened> {
        Ok(Self(match connection.limits().carrier {
            Carrier::Rings => Caller::Ring(ring::Caller::open(connection, lane, until)?),
            Carrier::Streams => Caller::Stream(Box::new(stream::Caller::open(connection, lane, until)?)),
        }))
    }

    /// Whether the lane can carry a call now: takes an overdue reply off it if that has come.
    #[inline(always)]
    pub(crate) fn is_free(&mut self) -> bool {
        match &mut self.0 {
            Caller::Ring(ring) => ring.is_free(),
            Caller::Stream(stream) => stream.is_free(),
        }
    }

    /// Whether the server is done with all that was sent. Looks for its last words, if it is to say some.
    pub(crate) fn is_done(&mut self) -> bool {
        match &mut self.0 {
            Caller::Ring(ring) => ring.is_done(),
            Caller::Stream(stream) => stream.is_done(),
        }
    }

    /// No call follows: begins what [`CallerLane::finish`] waits for.
    pub(crate) fn close(&mut self) {
        match &mut self.0 {
            Caller::Ring(_) => {}
            Caller::Stream(stream) => stream.close(),
        }
    }

    /// Waits until the server is done with the one-way calls that were sent, or never will be.
    pub(crate) fn finish(&mut self, until: &mut Until) {
        match &mut self.0 {
            Caller::Ring(ring) => ring.finish(until),
            Caller::Stream(stream) => stream.finish(until),
        }
    }

    /// Position that the next message will have.
    pub(crate) fn position(&self) -> u32 {
        match &self.0 {
            Caller::Ring(ring) => ring.position(),
            Caller::Stream(stream) => stream.position(),
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// [`NoReply`] says what may have happened.
    #[inline(always)]
    pub fn call<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        timeout_ms: u32,
        reply: &mut Reply,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        match &mut self.0 {
            Caller::Ring(ring) => ring.call(request, timeout_ms, reply, until),
            Caller::Stream(stream) => stream.call(request, timeout_ms, reply, until),
        }
    }

    /// Sends a request that has no reply.
    ///
    /// # Errors
    /// [`NoReply`] if it could not be published.
    pub fn send<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        match &mut self.0 {
            Caller::Ring(ring) => ring.send(request, until),
            Caller::Stream(stream) => stream.send(request, until),
        }
    }
}

#[cold]
fn not_encoded(error: EncodeError) -> Box<NoReply> {
    Box::new(NoReply::NotEncoded(error))
}

/// Those that go with a message.
#[inline(always)]
fn given<'a>(descriptors: &'a Option<&mut Vec<OwnedFd>>) -> &'a [OwnedFd] {
    descriptors.as_ref().map_or(&[], |descriptors| descriptors)
}

/// No message has more descriptors than its header can count.
#[inline(always)]
fn check_number(descriptors: &[OwnedFd]) -> Result<(), EncodeError> {
    match descriptors.len() {
        0..=DESCRIPTORS_MAX => Ok(()),
        more => Err(EncodeError::Descriptors(
            format!("a message has {DESCRIPTORS_MAX} at most, and this one {more}").into(),
        )),
    }
}

/// Whether descriptors may come with such a message.
#[inline(always)]
fn may_have_descriptors(header: Header) -> bool {
    header.descriptors() == 0 || matches!(header.kind, Kind::Request | Kind::OneWay | Kind::Reply)
}

/// A request as it arrived.
#[derive(Debug)]
pub struct Incoming {
    /// Names the call within its lane.
    pub call_id: u32,
    /// Index that this server gave the method.
    pub method: u16,
    /// Whether nobody waits for a reply.
    pub oneway: bool,
    /// How long the caller will wait, in milliseconds; 0 means for ever.
    pub timeout_ms: u32,
    /// Whether a reply was published, or a failure.
    pub answered: bool,
    /// The arguments.
    pub message: Message,
    /// What came with them.
    pub descriptors: Descriptors,
}

impl Incoming {
    /// Nothing arrived yet.
    #[inline(always)]
    pub fn empty() -> Self {
        Self {
            call_id: 0,
            method: 0,
            oneway: false,
            timeout_ms: 0,
            answered: false,
            message: Message::empty(),
            descriptors: Descriptors::default(),
        }
    }
}

/// How a serving lane waits. A lane over a stream waits alone whatever it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until a request comes or none will.
    Alone,
    /// The same, until others want the core.
    UntilCrowded,
    /// As alone, and in turns with the others who want the core from the start.
    InTurns,
    /// As alone, and asleep from the start.
    Asleep,
    /// Not at all.
    None,
}

/// What a wait of a serving lane came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A request.
    Request,
    /// Nothing yet: others want the core, or the wait was not to last.
    Nothing,
    /// The connection has ended or drains, and no request is left.
    Ended,
}

/// The serving end of a lane.
#[derive(Debug)]
pub struct ServingLane(Server);

#[derive(Debug)]
enum Server {
    Ring(ring::Server),
    Stream(stream::Server),
}

impl ServingLane {
    /// The serving end of `lane`: of rings, or over `stream`.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn new(connection: &Arc<Connection>, lane: u32, stream: Option<LaneStream>) -> Result<Self, String> {
        Ok(Self(match stream {
            Some(stream) => Server::Stream(
                stream::Server::new(connection, lane, stream).map_err(|error| error.to_string())?,
            ),
            None => Server::Ring(
                ring::Server::new(connection, lane).ok_or_else(|| format!("there is no lane {lane}"))?,
            ),
        }))
    }

    /// The connection that the lane belongs to.
    #[inline(always)]
    pub fn connection(&self) -> &Arc<Connection> {
        match &self.0 {
            Server::Ring(ring) => ring.connection(),
            Server::Stream(stream) => stream.connection(),
        }
    }

    /// Waits for the next request. False when the connection has ended or drains, and no request is left.
    #[inline(always)]
    pub fn next(&mut self, incoming: &mut Incoming) -> bool {
        self.next_with(incoming, Patience::Alone) == Next::Request
    }

    /// Waits for the next request, as `patience` says.
    #[inline(always)]
    pub fn next_with(&mut self, incoming: &mut Incoming, patience: Patience) -> Next {
        match &mut self.0 {
            Server::Ring(ring) => ring.next(incoming, patience),
            Server::Stream(stream) => {
                if stream.next(incoming) {
                    Next::Request
                } else {
                    Next::Ended
                }
            }
        }
    }

    /// Whether [`ServingLane::next_with`] would find a request, or that none will come, without waiting.
    #[inline(always)]
    pub fn is_due(&self) -> bool {
        match &self.0 {
            Server::Ring(ring) => ring.is_due(),
            Server::Stream(_) => false,
        }
    }

    /// Wakes the caller if it sleeps: for whoever goes on with something else than the next request. What waits does so, too.
    #[inline(always)]
    pub fn tell_the_sleeping(&mut self) {
        match &mut self.0 {
            Server::Ring(ring) => ring.tell_the_sleeping(),
            Server::Stream(_) => {}
        }
    }

    /// The next waits find out anew whether others want the core.
    pub fn forget_crowd(&mut self) {
        match &mut self.0 {
            Server::Ring(ring) => ring.forget_crowd(),
            Server::Stream(_) => {}
        }
    }

    /// Says that the request taken last is finished, after its reply was published, if it has one.
    #[inline(always)]
    pub fn finish(&mut self) {
        match &mut self.0 {
            Server::Ring(ring) => ring.finish(),
            // Its reply says so.
            Server::Stream(_) => {}
        }
    }

    /// Encodes and publishes a reply.
    ///
    /// # Errors
    /// [`EncodeError`]: nothing was published. A connection that has ended is no error: nobody waits for the reply.
    #[inline(always)]
    pub fn reply<T: Encode>(
        &mut self,
        call_id: u32,
        kind: Kind,
        value: &T,
        recursive: bool,
    ) -> Result<(), EncodeError> {
        self.reply_with(call_id, kind, value, recursive, None, |_| {})
    }

    /// The same, with descriptors; whatever becomes of them, they need not be kept. Once the value is encoded it is let go, and
    /// nobody sees the reply before.
    ///
    /// # Errors
    /// As above.
    #[inline(always)]
    pub fn reply_with<V: Deref<Target: Encode + Sized>>(
        &mut self,
        call_id: u32,
        kind: Kind,
        value: V,
        recursive: bool,
        descriptors: Option<&mut Vec<OwnedFd>>,
        let_go: impl FnOnce(V),
    ) -> Result<(), EncodeError> {
        match &mut self.0 {
            Server::Ring(ring) => ring.reply(call_id, kind, value, recursive, given(&descriptors), let_go),
            Server::Stream(stream) => stream.reply(call_id, kind, value, recursive, descriptors, let_go),
        }
    }
}

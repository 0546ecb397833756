//! Lanes of one byte stream.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub(super) use self::server::Server;
use super::{
    Discard, NoReply, NotOpened, Outgoing, Reply, check_number, given, may_have_descriptors, not_encoded,
};
use crate::connection::{BadBlock, Connection, Death, LaneStream, NoStream, shutting_down};
use crate::descriptors::{BadDescriptors, Descriptors};
use crate::message::{Draft, Encode, EncodeError, Message, Part};
use crate::slot::{BlockRef, FLAG_BLOCK, Header, Kind};
use crate::stream::{Cut, Patience, Pause, Reader};
use crate::sys::futex::Until;
use crate::sys::shortage::{explain, is_shortage};

mod closing;
mod server;

/// A lane on which nobody called for so long may have ended meanwhile: it is looked at before the next call.
const IDLE: Duration = Duration::from_millis(10);

/// What a peer did that no correct peer does.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] Cut),
    #[error(transparent)]
    Block(#[from] Box<BadBlock>),
    #[error(transparent)]
    Descriptors(#[from] BadDescriptors),
    #[error("{0:?} has no place on the stream of this lane")]
    Kind(Kind),
    #[error("a reply to call {found} came where the reply to call {expected} was due")]
    CallId { found: u32, expected: u32 },
}

/// The calling end.
#[derive(Debug)]
pub(super) struct Caller {
    connection: Arc<Connection>,
    lane: u32,
    line: Line,
    patience: Patience,
    draft: Draft,
    next_call: u32,
    /// The call whose reply nobody waited for. The lane is set aside until it comes.
    overdue: Option<u32>,
    /// What becomes of that reply.
    discard: Option<Discard>,
    /// When somebody last asked for the lane.
    asked: Duration,
    /// When the last call went out, or the stream was last looked at.
    used: Duration,
}

#[derive(Debug)]
enum Line {
    Open(Open),
    /// It takes no more: a frame was half sent when its time was over, or the server has ended its side. It closes when it has
    /// served the rest.
    Closing(Open),
    /// It has ended, and is opened anew when it is needed.
    Closed,
}

#[derive(Debug)]
struct Open {
    stream: LaneStream,
    reader: Reader,
    /// The first call on this stream.
    first: u32,
}

impl Caller {
    /// Opens `lane` at the peer.
    pub(super) fn open(
        connection: &Arc<Connection>,
        lane: u32,
        until: &mut Until,
    ) -> Result<Self, NotOpened> {
        let draft = connection.draft().map_err(|error| NotOpened::Refused(error.to_string()))?;
        let connection = Arc::clone(connection);
        let (line, patience, asked) = (Line::Closed, Patience::default(), coarse_now());
        let mut caller = Self {
            connection,
            lane,
            line,
            patience,
            draft,
            next_call: 0,
            overdue: None,
            discard: None,
            asked,
            used: asked,
        };
        caller.reopen(until).map_err(|none| match none {
            NoStream::Refused(reason) => NotOpened::Refused(reason),
            NoStream::Unreachable(reason) => NotOpened::Unreachable(reason),
            NoStream::TimedOut => NotOpened::TimedOut,
            NoStream::Dead(death) => NotOpened::Dead(death),
        })?;
        Ok(caller)
    }

    fn reopen(&mut self, until: &mut Until) -> Result<(), NoStream> {
        // What went over the last stream must not be overtaken.
        if !self.connection.is_done(self.lane, self.next_call) {
            return Err(NoStream::Dead(self.connection.last_words()));
        }
        let (stream, reader) = self.connection.open_stream(self.lane, until)?;
        self.line = Line::Open(Open { stream, reader, first: self.next_call });
        Ok(())
    }

    /// Whether the lane can carry a call now.
    pub(super) fn is_free(&mut self) -> bool {
        self.asked = coarse_now();
        match &self.line {
            Line::Open(_) if self.overdue.is_some() => {
                self.used = self.asked;
                self.drop_overdue() && !self.connection.is_going_away()
            }
            Line::Open(_) if self.asked.saturating_sub(self.used) >= IDLE => {
                self.used = self.asked;
                self.look();
                // The server may have said there that it takes no more calls.
                !self.connection.is_going_away()
            }
            Line::Open(_) | Line::Closed => true,
            Line::Closing(_) => {
                self.look();
                matches!(self.line, Line::Closed) && !self.connection.is_going_away()
            }
        }
    }

    /// The server is done with all that was sent, or will never take it.
    fn closed(&mut self) {
        self.line = Line::Closed;
        self.overdue = None;
        self.connection.set_done(self.lane, self.next_call);
        self.connection.settle();
    }

    /// The stream has ended, and no goaway came. Between hosts anybody on the way may have ended it, and the server may be
    /// at what was sent. If anything was, the connection ends, so that the server runs no more of it.
    #[cold]
    fn ended(&mut self, pause: &Pause) {
        let line = core::mem::replace(&mut self.line, Line::Closed);
        self.overdue = None;
        let left = self.connection.end().is_some_and(|death| death.peer_closed);
        if left || matches!(line, Line::Open(open) | Line::Closing(open) if open.stream.is_local()) {
            self.closed();
        } else if !self.connection.is_done(self.lane, self.next_call) {
            let reason = format!("a lane ended, and nothing says what became of its last calls: {pause}");
            self.connection.die(Death { reason, peer_closed: false });
        }
    }

    #[cold]
    fn drop_overdue(&mut self) -> bool {
        let Some(overdue) = self.overdue else { return true };
        let mut late = Reply::empty();
        match self.receive(overdue, &mut late, None) {
            Ok(()) => {
                self.overdue = None;
                if let Some(discard) = self.discard {
                    discard(&self.connection, &late);
                }
            }
            Err(none) => match *none {
                NoReply::TimedOut { .. } => return false,
                // The line is closed, or the connection is dead.
                _ => self.overdue = None,
            },
        }
        true
    }

    /// Whether the server is done with all that was sent. Reads what it says last.
    pub(super) fn is_done(&mut self) -> bool {
        if self.overdue.is_some() && !self.drop_overdue() {
            return false;
        }
        if !self.connection.is_done(self.lane, self.next_call) {
            self.look();
        }
        self.connection.is_done(self.lane, self.next_call)
    }

    /// Finds out whether the stream has ended. No reply is due, so whatever comes is the end, or breaks the protocol.
    #[cold]
    fn look(&mut self) {
        drop(self.said_last());
    }

    /// Position that the next message will have.
    pub(super) fn position(&self) -> u32 {
        self.next_call
    }

    /// Sends a request and waits for its reply.
    pub(super) fn call<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        timeout_ms: u32,
        reply: &mut Reply,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        self.discard = request.discard;
        let call_id = self.publish(Kind::Request, request, timeout_ms, until)?;
        self.receive(call_id, reply, Some(until))
    }

    /// Sends a request that has no reply.
    pub(super) fn send<T: Encode>(
        &mut self,
        request: Outgoing<'_, T>,
        until: &mut Until,
    ) -> Result<(), Box<NoReply>> {
        self.publish(Kind::OneWay, request, 0, until).map(drop)
    }

    fn publish<T: Encode>(
        &mut self,
        kind: Kind,
        request: Outgoing<'_, T>,
        timeout_ms: u32,
        until: &mut Until,
    ) -> Result<u32, Box<NoReply>> {
        if matches!(self.line, Line::Closed) {
            self.reopen(until).map_err(|none| self.not_reopened(none))?;
        }
        let Line::Open(open) = &mut self.line else {
            return Err(Box::new(NoReply::TimedOut { published: false }));
        };
        let Outgoing { method, value, recursive, mut descriptors, discard: _ } = request;
        let count = may_send(given(&descriptors), &open.stream).map_err(not_encoded)?;
        let encoded = self.connection.encode_frame(value, recursive, &mut self.draft);
        let encoded = encoded.map_err(not_encoded)?;
        let call_id = self.next_call;
        let header =
            |timeout_ms| Header { call_id, method, timeout_ms, ..Header::new(kind) }.with_descriptors(count);
        let bytes = encoded.bytes(header(until.left_of(timeout_ms)), &mut self.draft);
        let length = bytes.len();
        let mut sent = open.stream.send_with(bytes, descriptors.as_deref_mut(), until);
        // It ended while nobody called, and since nothing is on its way there, nothing can be overtaken on another one.
        if let Err((0, Pause::Closed)) = sent
            && self.connection.is_done(self.lane, self.next_call)
            && let Ok((stream, reader)) = self.connection.open_stream(self.lane, until)
        {
            *open = Open { stream, reader, first: call_id };
            let bytes = encoded.bytes(header(until.left_of(timeout_ms)), &mut self.draft);
            sent = open.stream.send_with(bytes, descriptors, until);
        }
        self.draft.clear();
        match sent {
            Ok(()) => {
                self.patience.follows(encoded.length());
                encoded.sent();
                self.next_call = call_id.wrapping_add(1);
                self.used = self.asked;
                Ok(call_id)
            }
            Err((0, Pause::System(error))) if is_shortage(&error) => Err(not_encoded(lacking(&error))),
            Err((sent, pause)) => Err(self.not_sent(sent, length, pause)),
        }
    }

    /// No whole frame has left, so unless all of it waits to leave the server will not run it.
    #[cold]
    fn not_sent(&mut self, sent: usize, length: usize, pause: Pause) -> Box<NoReply> {
        match (pause, core::mem::replace(&mut self.line, Line::Closed)) {
            (Pause::TimedOut, Line::Open(open)) => {
                self.line = if sent == 0 {
                    Line::Open(open)
                } else {
                    open.stream.end_sending();
                    Line::Closing(open)
                };
                Box::new(NoReply::TimedOut { published: sent == length })
            }
            (pause, line) => {
                if let Line::Open(open) = line {
                    open.stream.end_sending();
                    self.line = Line::Closing(open);
                }
                let death = match pause {
                    // The other end may have said that it closes the stream, and nobody has read that yet.
                    Pause::Severed(_) => self.said_last(),
                    _ => None,
                };
                let death = death.unwrap_or_else(|| self.last_words(&pause, true));
                Box::new(NoReply::Dead { taken: false, death })
            }
        }
    }

    /// How the other end has closed the stream, if it has.
    fn said_last(&mut self) -> Option<Death> {
        let said = self.receive(self.next_call, &mut Reply::empty(), None);
        self.overdue = None;
        match *said.err()? {
            NoReply::Dead { death, .. } => Some(death),
            _ => None,
        }
    }

    #[cold]
    fn not_reopened(&self, none: NoStream) -> Box<NoReply> {
        Box::new(match none {
            NoStream::TimedOut => NoReply::TimedOut { published: false },
            NoStream::Dead(death) => NoReply::Dead { taken: false, death },
            NoStream::Refused(reason) | NoStream::Unreachable(reason) => {
                let reason = format!("the lane could not be opened again: {reason}");
                NoReply::Dead { taken: false, death: Death { reason, peer_closed: false } }
            }
        })
    }

    fn last_words(&self, pause: &Pause, waits: bool) -> Death {
        end_if_severed(&self.connection, pause);
        if waits && matches!(&self.line, Line::Open(open) | Line::Closing(open) if open.stream.is_local()) {
            self.connection.hear_why();
        }
        match self.connection.end() {
            Some(death) if !matches!(pause, Pause::Severed(_)) => death.clone(),
            Some(_) => Death { reason: format!("the lane ended: {pause}"), peer_closed: false },
            // Whoever was silent for too long has closed nothing.
            None => {
                let peer_closed = matches!(pause, Pause::Closed);
                Death { reason: format!("the lane ended: {pause}"), peer_closed }
            }
        }
    }

    /// Waits for the reply to the call, or only looks whether it is there.
    fn receive(
        &mut self,
        call_id: u32,
        reply: &mut Reply,
        mut until: Option<&mut Until>,
    ) -> Result<(), Box<NoReply>> {
        let is_closing = matches!(self.line, Line::Closing(_));
        let (Line::Open(open) | Line::Closing(open)) = &mut self.line else {
            return Err(Box::new(NoReply::TimedOut { published: true }));
        };
        let Open { stream, reader, first } = open;
        let patience = &mut self.patience;
        let max = self.connection.limits().receive_max;
        // Whoever sends little and often must not keep us beyond the deadline, nor where nobody waits for him.
        let mut pieces = 0;
        let header = loop {
            let more = |room: &mut [u8]| {
                pieces += 1;
                match &mut until {
                    Some(until) if pieces == 1 => patience.receive(stream, room, until),
                    Some(until) => match until.is_over() {
                        true => Err(Pause::TimedOut),
                        false => stream.receive(room, until),
                    },
                    None if pieces > GLANCE => Err(Pause::TimedOut),
                    None => stream.receive_now(room),
                }
            };
            match reader.next(&mut reply.message, max, self.connection.pool(), more) {
                Ok(ping @ Header { kind: Kind::Ping, .. }) => {
                    if let Err(bad) = claim(stream, reader, ping) {
                        return Err(self.broken(&bad.into()));
                    }
                }
                Ok(header) => break header,
                Err(Cut::Pause(Pause::TimedOut)) => {
                    self.overdue = Some(call_id);
                    return Err(Box::new(NoReply::TimedOut { published: true }));
                }
                Err(Cut::Pause(Pause::Descriptors(bad))) => return Err(self.broken(&bad.into())),
                Err(Cut::Pause(pause)) => {
                    let death = self.last_words(&pause, until.is_some());
                    self.ended(&pause);
                    return Err(Box::new(NoReply::Dead { taken: true, death }));
                }
                Err(broken) => return Err(self.broken(&broken.into())),
            }
        };
        let descriptors = match claim(stream, reader, header) {
            Ok(descriptors) => descriptors,
            Err(bad) => return Err(self.broken(&bad.into())),
        };
        if header.kind == Kind::GoAway {
            let taken = call_id.wrapping_sub(*first) < header.call_id;
            // Who was told that no more comes says so too, and goes nowhere.
            if !is_closing {
                self.connection.goes_away();
            }
            self.closed();
            return Err(Box::new(NoReply::Dead { taken, death: shutting_down() }));
        }
        reply.descriptors = descriptors;
        self.take(header, call_id, reply).map_err(|broken| self.broken(&broken))?;
        self.connection.set_done(self.lane, self.next_call);
        Ok(())
    }

    fn take(&self, header: Header, call_id: u32, reply: &mut Reply) -> Result<(), Broken> {
        if self.overdue == Some(call_id) {
            // Nobody waits for it: a large one is not looked at.
            self.connection.receive_late(header, &mut reply.message)?;
        } else {
            receive_block(&self.connection, header, &mut reply.message)?;
        }
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
    fn broken(&mut self, broken: &Broken) -> Box<NoReply> {
        self.line = Line::Closed;
        end(&self.connection, broken);
        Box::new(NoReply::Dead { taken: true, death: self.connection.last_words() })
    }
}

/// A clock that costs a few ns, and is some ms late.
fn coarse_now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// Ends the connection: the peer broke the protocol, or this process has no descriptor left.
#[cold]
fn end(connection: &Connection, broken: &Broken) {
    match broken {
        Broken::Descriptors(bad) if bad.is_ours() => connection.give_up(bad.to_string()),
        _ => drop(connection.poison(broken)),
    }
}

/// How many descriptors there are, if the stream takes so many, and any.
fn may_send(descriptors: &[OwnedFd], stream: &LaneStream) -> Result<usize, EncodeError> {
    if descriptors.is_empty() {
        return Ok(0);
    }
    check_number(descriptors)?;
    let why = "this connection goes over a network; use shm:, uds: or inproc: for this call";
    let refused = || EncodeError::Descriptors(why.into());
    stream.carries_descriptors().then_some(descriptors.len()).ok_or_else(refused)
}

#[cold]
fn lacking(error: &std::io::Error) -> EncodeError {
    EncodeError::Descriptors(explain(error).into())
}

/// The descriptors of the frame that was just received.
fn claim(stream: &LaneStream, reader: &Reader, header: Header) -> Result<Descriptors, BadDescriptors> {
    match may_have_descriptors(header) {
        true => stream.claim(header.descriptors(), !reader.is_empty()),
        false => Err(BadDescriptors::Unwanted),
    }
}

/// Pieces that are read to see whether an overdue reply has come. A caller who has another call to make does that, and
/// they may be nothing but pings, some hundred in each.
const GLANCE: u32 = 4;

/// Under TLS a stream that was cut proves nothing about what the other end did: the connection ends, and not the lane alone.
fn end_if_severed(connection: &Connection, pause: &Pause) {
    if let Pause::Severed(_) = pause {
        connection.die(Death { reason: format!("the lane ended: {pause}"), peer_closed: false });
    }
}

/// Completes a message that lies in a block.
fn receive_block(
    connection: &Arc<Connection>,
    header: Header,
    message: &mut Message,
) -> Result<(), Box<BadBlock>> {
    match header.flags & FLAG_BLOCK {
        0 => {
            connection.received(header.length);
            Ok(())
        }
        _ => {
            let at = BlockRef::from_words(message.words_mut());
            connection.receive_block(header.block, header.length, at, Part::Message, message)
        }
    }
}

//! The serving end of a lane of one byte stream.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Incoming, given};
use super::{Broken, claim, end, end_if_severed, lacking, may_send, receive_block};
use crate::connection::{Connection, LaneStream};
use crate::message::{Draft, Encode, EncodeError};
use crate::slot::{HEADER, Header, Kind};
use crate::stream::{Cut, Patience, Pause, Reader};
use crate::sys::futex::{Until, yield_now};
use crate::sys::shortage::is_shortage;

/// Pings in a row that are taken without a pause: no signs of life come so close together, and whoever has nothing else to say is
/// not to take our cores from others.
const PINGS: u32 = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// Pieces of what is of no use to anybody that are read at once: more than a socket holds.
const USELESS: u32 = 256;

/// One-way calls between two turns for others: they come many at a time, and nothing makes their lane wait.
const TURN_EVERY: u32 = 16;

/// The serving end.
#[derive(Debug)]
pub(in crate::lane) struct Server {
    connection: Arc<Connection>,
    stream: LaneStream,
    reader: Reader,
    patience: Patience,
    draft: Draft,
    /// Messages that were taken.
    taken: u32,
}

impl Server {
    /// The serving end of `lane` over `stream`; the peer is told.
    pub(in crate::lane) fn new(
        connection: &Arc<Connection>,
        lane: u32,
        mut stream: LaneStream,
    ) -> Result<Self, EncodeError> {
        let draft = connection.draft()?;
        let header = Header { call_id: 1, block: lane, ..Header::new(Kind::LaneOpen) };
        stream.answer(connection, header);
        let connection = Arc::clone(connection);
        let (reader, patience) = (Reader::default(), Patience::default());
        Ok(Self { connection, stream, reader, patience, draft, taken: 0 })
    }

    pub(in crate::lane) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the next request. False when no more will come.
    pub(in crate::lane) fn next(&mut self, incoming: &mut Incoming) -> bool {
        match self.take(incoming) {
            Ok(true) => self.connection.death().is_none(),
            Ok(false) => false,
            Err(broken) => {
                end(&self.connection, &broken);
                false
            }
        }
    }

    fn take(&mut self, incoming: &mut Incoming) -> Result<bool, Broken> {
        let Self { connection, stream, reader, patience, .. } = self;
        let max = connection.limits().receive_max;
        let mut pings = 0_u32;
        let header = loop {
            let more = |room: &mut [u8]| patience.receive(stream, room, &mut Until::never());
            match reader.next(&mut incoming.message, max, connection.pool(), more) {
                Ok(ping @ Header { kind: Kind::Ping, .. }) => {
                    drop(claim(stream, reader, ping)?);
                    pings = pings.wrapping_add(1);
                    if pings.is_multiple_of(PINGS) {
                        std::thread::sleep(PAUSE);
                    }
                }
                Ok(header) => break header,
                Err(Cut::Pause(Pause::Descriptors(bad))) => return Err(bad.into()),
                Err(Cut::Pause(pause)) => {
                    end_if_severed(connection, &pause);
                    tracing::trace!(%pause, "a lane ends");
                    return Ok(false);
                }
                Err(broken) => return Err(broken.into()),
            }
        };
        let Header { call_id, method, kind, timeout_ms, .. } = header;
        if !matches!(kind, Kind::Request | Kind::OneWay) {
            return Err(Broken::Kind(kind));
        }
        incoming.descriptors = claim(stream, reader, header)?;
        receive_block(connection, header, &mut incoming.message)?;
        self.taken = self.taken.wrapping_add(1);
        if kind == Kind::OneWay && self.taken.is_multiple_of(TURN_EVERY) {
            yield_now();
        }
        patience.follows(header.length);
        incoming.call_id = call_id;
        incoming.method = method;
        incoming.oneway = kind == Kind::OneWay;
        incoming.timeout_ms = timeout_ms;
        incoming.answered = false;
        Ok(true)
    }

    /// Encodes and sends a reply, and lets the value go between the two.
    pub(in crate::lane) fn reply<V: Deref<Target: Encode + Sized>>(
        &mut self,
        call_id: u32,
        kind: Kind,
        value: V,
        recursive: bool,
        descriptors: Option<&mut Vec<OwnedFd>>,
        let_go: impl FnOnce(V),
    ) -> Result<(), EncodeError> {
        let count = may_send(given(&descriptors), &self.stream)?;
        let encoded = self.connection.encode_frame(&*value, recursive, &mut self.draft)?;
        let_go(value);
        let header = Header { call_id, ..Header::new(kind) }.with_descriptors(count);
        let sent =
            self.stream.send_with(encoded.bytes(header, &mut self.draft), descriptors, &mut Until::never());
        self.draft.clear();
        match sent {
            Ok(()) => encoded.sent(),
            Err((0, Pause::System(error))) if is_shortage(&error) => return Err(lacking(&error)),
            Err((_, pause)) => tracing::debug!(%pause, "nobody waits for a reply any more"),
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let bytes: [u8; HEADER] = Header { call_id: self.taken, ..Header::new(Kind::GoAway) }.to_frame();
        self.stream.send_now(&bytes);
        self.stream.end_sending();
        // What was not taken must not make the system reset the connection, which could overtake the goaway.
        let mut scratch = [0; 4096];
        (0..USELESS).any(|_| self.stream.receive_now(&mut scratch).is_err());
    }
}

//! The serving end of a lane of rings.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Incoming, Next, Patience, check_number};
use super::{Broken, take_descriptors, wait_for};
use crate::connection::{Connection, Death, Encoded};
use crate::message::{Encode, EncodeError};
use crate::shm::consumer::{Consumer, Wait};
use crate::shm::producer::Producer;
use crate::shm::segment::Side;
use crate::slot::{BadHeader, Header, Kind};
use crate::sys::futex::{Stop, Until};

/// How long a reply may wait for the caller to give memory back, or to read its socket.
const REPLY_MEMORY: Duration = Duration::from_secs(1);

/// The serving end.
#[derive(Debug)]
pub(in crate::lane) struct Server {
    connection: Arc<Connection>,
    lane: u32,
    producer: Producer<Side>,
    consumer: Consumer<Side>,
}

impl Server {
    /// The serving end of `lane`; `None` if there is no such lane.
    pub(in crate::lane) fn new(connection: &Arc<Connection>, lane: u32) -> Option<Self> {
        let (producer, consumer) = connection.rings(lane)?;
        Some(Self { connection: Arc::clone(connection), lane, producer, consumer })
    }

    /// The connection that the lane belongs to.
    #[inline(always)]
    pub(in crate::lane) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits for the next request, as `patience` says.
    #[inline(always)]
    pub(in crate::lane) fn next(&mut self, incoming: &mut Incoming, patience: Patience) -> Next {
        if !self.consumer.ready() {
            match self.wait(patience) {
                Ok(Wait::Ready) => {}
                other => return self.not_ready(other),
            }
        }
        // Not taken at all, if the end is known; taken and not run, if it comes meanwhile.
        if !self.connection.may_run(self.lane) {
            return Next::Ended;
        }
        match self.take(incoming) {
            Ok(()) if self.connection.may_run(self.lane) => Next::Request,
            Ok(()) => Next::Ended,
            Err(broken) => self.poisoned(&broken),
        }
    }

    #[inline(always)]
    fn wait(&mut self, patience: Patience) -> Result<Wait, BadHeader> {
        self.tell_the_sleeping();
        let Some(stop) = self.connection.stop(self.lane) else { return Ok(Wait::Stopped) };
        match patience {
            Patience::Alone => self.consumer.wait(stop, &mut Until::never()),
            Patience::UntilCrowded => self.consumer.wait_until_crowded(stop),
            Patience::InTurns => self.consumer.wait_in_turns(stop),
            Patience::Asleep => self.consumer.wait_asleep(stop, &mut Until::never()),
            Patience::None if !stop.is_set() => Ok(Wait::Crowded),
            // What was published before the stop is still served.
            Patience::None => Ok(if self.consumer.ready() { Wait::Ready } else { Wait::Stopped }),
        }
    }

    #[cold]
    fn not_ready(&self, wait: Result<Wait, BadHeader>) -> Next {
        match wait {
            Ok(Wait::Crowded) => Next::Nothing,
            Ok(_) => Next::Ended,
            Err(bad) => self.poisoned(&bad.into()),
        }
    }

    /// Whether a request is there, or none will come any more.
    #[inline(always)]
    pub(in crate::lane) fn is_due(&self) -> bool {
        self.consumer.ready() || self.connection.stop(self.lane).is_none_or(Stop::is_set)
    }

    /// The next waits find out anew whether others want the core.
    pub(in crate::lane) fn forget_crowd(&mut self) {
        self.consumer.forget_crowd();
    }

    #[cold]
    fn poisoned(&self, broken: &Broken) -> Next {
        self.connection.poison(broken);
        Next::Ended
    }

    /// Says that the request taken last is finished, after its reply was published, if it has one.
    #[inline(always)]
    pub(in crate::lane) fn finish(&mut self) {
        self.consumer.finish();
    }

    /// Encodes and publishes a reply, and lets the value go between the two.
    ///
    /// # Errors
    /// [`EncodeError`]: nothing was published. A connection that has ended is no error: nobody waits for the reply.
    #[inline(always)]
    pub(in crate::lane) fn reply<V: Deref<Target: Encode + Sized>>(
        &mut self,
        call_id: u32,
        kind: Kind,
        value: V,
        recursive: bool,
        descriptors: &[OwnedFd],
        let_go: impl FnOnce(V),
    ) -> Result<(), EncodeError> {
        check_number(descriptors)?;
        if !matches!(self.producer.try_claim(), Ok(true))
            && let Err(death) = self.wait_for_credit()
        {
            tracing::debug!(%death, "nobody waits for a reply any more");
            return Ok(());
        }
        let mut until = Until::after(REPLY_MEMORY);
        let before = |until: &mut Until, value| {
            if !descriptors.is_empty() {
                self.connection.hand_over(self.lane, call_id, descriptors, until)?;
            }
            let_go(value);
            Ok(())
        };
        let slot = self.producer.claimed();
        let Encoded { length, flags, block } =
            self.connection.encode(value, recursive, &mut until, slot, before)?;
        let header = Header { call_id, flags, length, block, ..Header::new(kind) };
        self.producer.publish_written(header.with_descriptors(descriptors.len()));
        // What the handler returned is dropped after this, which may take long.
        self.producer.wake_seen_sleeper();
        Ok(())
    }

    #[cold]
    fn wait_for_credit(&mut self) -> Result<(), Box<Death>> {
        let connection = Arc::clone(&self.connection);
        let until = &mut Until::never();
        let wait = |stop| wait_for(Producer::try_claim, &mut self.producer, stop, until);
        match connection.stop(self.lane).map(wait) {
            Some(Ok(Wait::Ready)) => Ok(()),
            Some(Err(bad)) => Err(Box::new(connection.poison(&bad))),
            Some(Ok(_)) | None => Err(Box::new(connection.last_words())),
        }
    }

    #[inline(always)]
    fn take(&mut self, incoming: &mut Incoming) -> Result<(), Broken> {
        // The caller waits for the reply now, and so polls the line that it will lie in.
        self.producer.expect_to_publish();
        let header = self.consumer.take(incoming.message.words_mut())?;
        let Header { call_id, method, kind, timeout_ms, length, .. } = header;
        self.consumer.follows(length);
        if !matches!(kind, Kind::Request | Kind::OneWay) {
            return Err(Broken::Kind(kind));
        }
        self.connection.receive(header, &mut incoming.message)?;
        if header.descriptors() > 0 {
            incoming.descriptors = take_descriptors(&self.connection, self.lane, header)?;
        }
        incoming.call_id = call_id;
        incoming.method = method;
        incoming.oneway = kind == Kind::OneWay;
        incoming.timeout_ms = timeout_ms;
        incoming.answered = false;
        Ok(())
    }

    /// Wakes the caller if it sleeps on a reply or for want of credits.
    #[inline(always)]
    pub(in crate::lane) fn tell_the_sleeping(&mut self) {
        self.producer.tell_the_sleeping(&mut self.consumer);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell_the_sleeping();
    }
}

//! The client's side of a call: encode, lease a lane, call, decode.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shmrpc_transport::callers::{NoLane, Seat, Session};
use shmrpc_transport::connection::{Blob, BlobMut, Death, Loaned};
use shmrpc_transport::lane::{NoReply, Outgoing, Reply};
use shmrpc_transport::message::Message as Payload;
use shmrpc_transport::message::{EncodeError, Number, View};
use shmrpc_transport::slot::Kind;
use shmrpc_transport::sys::futex::{Until, in_ms};

use crate::arg::Args;
use crate::blob::Loan;
use crate::context::TransportInfo;
use crate::descriptor::{DescriptorWire, not_among};
use crate::dial::Known;
use crate::dispatch::Failure;
use crate::error::{CallError, Outcome};
use crate::link::Link;
use crate::{Message, Schema};

use awaited::{Awaited, BlobFrom, Handed, Owned};

mod awaited;

/// A connection to one service, with the options of this handle. Cheap to clone.
///
/// What generated code calls has no name of [`Client`](crate::Client)'s: rustc would offer `kv.0.view()` to whoever has not
/// imported that trait.
#[derive(Clone)]
pub struct Channel {
    link: Arc<Link>,
    timeout: Duration,
    /// The same, as it travels.
    timeout_ms: u32,
}

/// Before the third attempt, and at most. The second one is made at once.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Why an attempt to call failed.
enum Failed {
    /// Nothing ran, and another attempt may succeed.
    Again(Death),
    /// Trying again would not help, or is not ours to decide.
    Final(CallError),
}

impl Channel {
    pub(crate) fn new(link: Link, timeout: Duration) -> Self {
        Self { link: Arc::new(link), timeout, timeout_ms: in_ms(timeout) }
    }

    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { link: Arc::clone(&self.link), timeout, timeout_ms: in_ms(timeout) }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn transport(&self) -> TransportInfo {
        self.link.transport()
    }

    /// Calls a method that has no error of its own.
    #[inline]
    pub fn call<A: Args, R: Message>(&self, method: u16, args: &A) -> Result<R, CallError> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => reply.message.decode::<R>().map_err(|invalid| bad_reply(&invalid)),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<R, E>`.
    #[inline]
    pub fn call_fallible<A: Args, R: Message, E: Message>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<R, CallError<E>> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => reply.message.decode::<R>().map_err(|invalid| bad_reply(&invalid).widen()),
            _ => Err(service_error(&reply)),
        }
    }

    /// Calls a method that has no error of its own, and leaves the result where it arrived.
    #[inline]
    pub fn call_view<A: Args, R: Message>(&self, method: u16, args: &A) -> Result<View<R>, CallError> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => reply.message.into_view::<R>().map_err(|invalid| bad_reply(&invalid)),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<R, E>`, and leaves the result where it arrived.
    #[inline]
    pub fn call_view_fallible<A: Args, R: Message, E: Message>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<View<R>, CallError<E>> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => reply.message.into_view::<R>().map_err(|invalid| bad_reply(&invalid).widen()),
            _ => Err(service_error(&reply)),
        }
    }

    /// Sends a one-way call. `Ok` means that it is on its way, not that it has run.
    #[inline]
    pub fn send<A: Args>(&self, method: u16, args: &A) -> Result<(), CallError> {
        self.check_process().map_err(|error| *error)?;
        let mut until = Until::after(self.timeout);
        let sent = self.attempt_to_send(method, args, &mut until);
        let Err(failed) = sent else { return Ok(()) };
        self.again(*failed, &mut until, |until| self.attempt_to_send(method, args, until))
            .map_err(|error| *error)
    }

    fn attempt_to_send<A: Args>(&self, method: u16, args: &A, until: &mut Until) -> Result<(), Box<Failed>> {
        let mut lease = self.link.callers.lease(until).map_err(|none| self.no_lane(*none))?;
        let Some(Seat { lane, session }) = lease.seat() else { return Err(nowhere()) };
        let id = self.id(session, method)?;
        let prepared = args.prepare(session.connection());
        prepared.map_err(|error| self.no_reply::<A>(NoReply::NotEncoded(error), session.end().is_some()))?;
        let mut handed = args.descriptors();
        let descriptors = handed.as_mut();
        let sent = lane.send(
            Outgoing { method: id, value: args, recursive: A::RECURSIVE, descriptors, discard: None },
            until,
        );
        let ended = sent.is_err() && session.end().is_some();
        if sent.is_ok() {
            lease.sent_oneway();
        }
        lease.end();
        args.settle(sent.is_ok());
        sent.map_err(|none| self.no_reply::<A>(*none, ended))
    }

    /// Errors are boxed here and below, so that the way of a call that succeeds moves a pointer at most.
    #[inline(always)]
    fn transact<A: Args>(&self, method: u16, args: &A, reply: &mut Reply) -> Result<(), Box<CallError>> {
        self.transact_at(method, args, reply, &mut Owned)
    }

    /// The same; `result` is told over which connection the reply came.
    #[inline(always)]
    fn transact_at<A: Args, R: Awaited>(
        &self,
        method: u16,
        args: &A,
        reply: &mut Reply,
        result: &mut R,
    ) -> Result<(), Box<CallError>> {
        self.check_process()?;
        let mut until = Until::after(self.timeout);
        if R::HOLDS {
            // What came too late is given up, at the latest, when somebody asks for the next one.
            self.link.callers.tidy(&mut until);
        }
        let called = self.attempt(method, args, reply, &mut until, result);
        match called {
            Ok(()) => {
                if reply.kind == Kind::Failure {
                    // The server may have lacked what late replies hold.
                    self.link.callers.tidy(&mut until);
                }
                Ok(())
            }
            Err(failed) => self.transact_again(*failed, method, args, reply, &mut until, result),
        }
    }

    #[cold]
    #[inline(never)]
    fn transact_again<A: Args, R: Awaited>(
        &self,
        failed: Failed,
        method: u16,
        args: &A,
        reply: &mut Reply,
        until: &mut Until,
        result: &mut R,
    ) -> Result<(), Box<CallError>> {
        self.again(failed, until, |until| self.attempt(method, args, reply, until, result))
    }

    #[inline(always)]
    fn attempt<A: Args, R: Awaited>(
        &self,
        method: u16,
        args: &A,
        reply: &mut Reply,
        until: &mut Until,
        result: &mut R,
    ) -> Result<(), Box<Failed>> {
        let mut lease = self.link.callers.lease(until).map_err(|none| self.no_lane(*none))?;
        let Some(Seat { lane, session }) = lease.seat() else { return Err(nowhere()) };
        let id = self.id(session, method)?;
        let prepared = args.prepare(session.connection());
        prepared.map_err(|error| self.no_reply::<A>(NoReply::NotEncoded(error), session.end().is_some()))?;
        let mut handed = args.descriptors();
        let descriptors = handed.as_mut();
        let request =
            Outgoing { method: id, value: args, recursive: A::RECURSIVE, descriptors, discard: R::DISCARD };
        let called = lane.call(request, self.timeout_ms, reply, until);
        let mut ended = false;
        match &called {
            Ok(()) => {
                result.came_over(session.connection());
                lease.got_reply();
            }
            Err(none) => {
                ended = session.end().is_some();
                if none.was_published() {
                    lease.set_aside();
                }
            }
        }
        lease.end();
        args.settle(match &called {
            // Whoever refuses a call has let go of its blobs.
            Ok(()) => !(A::BLOBS && is_refused(reply)),
            Err(none) => none.was_published(),
        });
        called.map_err(|none| self.no_reply::<A>(*none, ended))
    }

    /// Tries again, on another connection if the last one has ended, as long as nothing ran and the time is not over.
    #[cold]
    fn again(
        &self,
        mut failed: Failed,
        until: &mut Until,
        mut attempt: impl FnMut(&mut Until) -> Result<(), Box<Failed>>,
    ) -> Result<(), Box<CallError>> {
        let mut pause = Duration::ZERO;
        loop {
            let reason = match failed {
                Failed::Again(death) => death.reason,
                Failed::Final(error) => return Err(Box::new(error)),
            };
            self.recover(reason, until, &mut pause)?;
            match attempt(until) {
                Ok(()) => return Ok(()),
                Err(error) => failed = *error,
            }
        }
    }

    /// Returns when another attempt is worth it.
    fn recover(&self, reason: String, until: &mut Until, pause: &mut Duration) -> Result<(), Box<CallError>> {
        let not_run = |reason| Box::new(CallError::Disconnected { reason, outcome: Outcome::NotRun });
        if !self.link.reconnect || until.is_over() {
            return Err(not_run(reason));
        }
        if !pause.is_zero() {
            std::thread::sleep(until.left().map_or(*pause, |left| left.min(*pause)));
        }
        *pause = (*pause * 2).clamp(PAUSE, PAUSE_MAX);
        match self.link.callers.session().end() {
            Some(_) => self.link.revive(&reason, until).map_err(not_run),
            // It lives, or nobody knows better yet.
            None => Ok(()),
        }
    }

    /// Memory to send, for at most as long as a call may take.
    pub(crate) fn blob<T: Number + Default>(&self, length: usize) -> Result<BlobMut<T>, CallError> {
        self.check_process().map_err(|error| *error)?;
        let (until, mut pause) = (&mut Until::after(self.timeout), Duration::ZERO);
        loop {
            let session = self.link.callers.session();
            let error = match session.end() {
                Some(death) if self.link.reconnect => death.reason,
                _ => match session.connection().blob(length, until) {
                    Ok(blob) => return Ok(blob),
                    Err(error) if self.link.reconnect && session.end().is_some() => error.to_string(),
                    Err(error) => return Err(error.into()),
                },
            };
            self.recover(error, until, &mut pause).map_err(|error| *error)?;
        }
    }

    /// A blob, as it travels in the arguments of a call.
    pub fn loan<T: Number>(&self, blob: impl Into<Blob<T>>) -> Loan<T> {
        Loan(Loaned::new(blob.into()))
    }

    /// Calls a method that returns a blob and has no error of its own.
    pub fn call_blob<A: Args, T: Number + Schema>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<Blob<T>, CallError> {
        let (mut reply, mut from) = (Reply::empty(), BlobFrom::<T>::new());
        self.transact_at(method, args, &mut reply, &mut from).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => from.receive(&reply),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<Blob<T>, E>`.
    pub fn call_blob_fallible<A: Args, T: Number + Schema, E: Message>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<Blob<T>, CallError<E>> {
        let (mut reply, mut from) = (Reply::empty(), BlobFrom::<T>::new());
        self.transact_at(method, args, &mut reply, &mut from).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => from.receive(&reply).map_err(CallError::widen),
            _ => Err(service_error(&reply)),
        }
    }

    /// Where a forked child stops.
    #[inline(always)]
    fn check_process(&self) -> Result<(), Box<CallError>> {
        match self.link.process.is_current() {
            true => Ok(()),
            false => Err(Box::new(CallError::Forked)),
        }
    }

    /// Calls a method that returns a descriptor and has no error of its own.
    pub fn call_descriptor<A: Args>(&self, method: u16, args: &A) -> Result<OwnedFd, CallError> {
        let mut reply = Reply::empty();
        self.transact_at(method, args, &mut reply, &mut Handed).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => descriptor_in(&mut reply),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<OwnedFd, E>`.
    pub fn call_descriptor_fallible<A: Args, E: Message>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<OwnedFd, CallError<E>> {
        let mut reply = Reply::empty();
        self.transact_at(method, args, &mut reply, &mut Handed).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => descriptor_in(&mut reply).map_err(CallError::widen),
            _ => Err(service_error(&reply)),
        }
    }

    /// The server's id of a method.
    #[inline(always)]
    fn id(&self, session: &Session<Known>, method: u16) -> Result<u16, Box<Failed>> {
        match session.known().methods.get(usize::from(method)) {
            Some(Some(id)) => Ok(*id),
            _ => Err(Box::new(Failed::Final(self.unknown(method)))),
        }
    }

    #[cold]
    fn unknown(&self, method: u16) -> CallError {
        let name = self.link.names.get(usize::from(method)).copied().unwrap_or("?");
        CallError::UnknownMethod(name.to_owned())
    }

    #[cold]
    fn no_lane(&self, none: NoLane) -> Box<Failed> {
        let overloaded = |text| Failed::Final(CallError::Overloaded(text));
        Box::new(match none {
            NoLane::Refused(reason) => {
                overloaded(format!("the server serves no lane to this client: {reason}"))
            }
            NoLane::TimedOut => overloaded(format!(
                "for {:?} every lane was in use, or the server did not answer when asked for one more, or a one-way \
                 call before this one did not end",
                self.timeout
            )),
            NoLane::Dead(death) => Failed::Again(death),
        })
    }

    /// `ended` tells whether the connection has.
    #[cold]
    fn no_reply<A: Args>(&self, none: NoReply, ended: bool) -> Box<Failed> {
        let outcome = |maybe| if maybe { Outcome::Unknown } else { Outcome::NotRun };
        Box::new(match none {
            // The descriptors went with the attempt, so there is no other one.
            NoReply::Dead { taken: false, death: Death { reason, .. } } if A::DESCRIPTORS => {
                Failed::Final(CallError::Disconnected { reason, outcome: Outcome::NotRun })
            }
            NoReply::NotEncoded(EncodeError::Descriptors(reason)) if A::DESCRIPTORS && ended => {
                Failed::Final(CallError::Disconnected { reason: reason.into(), outcome: Outcome::NotRun })
            }
            NoReply::NotEncoded(error) if A::DESCRIPTORS => Failed::Final(error.into()),
            NoReply::NotEncoded(error) if ended => {
                Failed::Again(Death { reason: error.to_string(), peer_closed: false })
            }
            NoReply::NotEncoded(error) => Failed::Final(error.into()),
            NoReply::TimedOut { published } => Failed::Final(CallError::DeadlineExceeded {
                timeout: self.timeout,
                outcome: outcome(published),
            }),
            NoReply::Dead { taken: false, death } => Failed::Again(death),
            NoReply::Dead { taken: true, death: Death { reason, .. } } => {
                Failed::Final(CallError::Disconnected { reason, outcome: Outcome::Unknown })
            }
        })
    }
}

/// Never: a lease has a lane.
#[cold]
fn nowhere() -> Box<Failed> {
    Box::new(Failed::Again(Death { reason: "the lane was empty".into(), peer_closed: false }))
}

impl fmt::Debug for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Channel")
            .field("link", &self.link)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The descriptor that is the result.
fn descriptor_in(reply: &mut Reply) -> Result<OwnedFd, CallError> {
    let at = reply.message.access::<DescriptorWire>().map_err(|invalid| bad_reply(&invalid))?;
    if let Some(lost) = reply.descriptors.lost() {
        return Err(bad_reply(&lost));
    }
    let came = &mut reply.descriptors;
    came.take(at).ok_or_else(|| bad_reply(&not_among(at, came)))
}

#[cold]
fn bad_reply(invalid: &dyn fmt::Display) -> CallError {
    CallError::BadReply(invalid.to_string())
}

#[cold]
fn service_error<E: Message>(reply: &Reply) -> CallError<E> {
    if reply.kind == Kind::ServiceError {
        return match reply.message.decode::<E>() {
            Ok(error) => CallError::Service(error),
            Err(invalid) => bad_reply(&invalid).widen(),
        };
    }
    failure(reply).widen()
}

/// Whether the server has said that it did not run the call.
fn is_refused(reply: &Reply) -> bool {
    reply.kind == Kind::Failure && failure(reply).outcome() == Outcome::NotRun
}

#[cold]
fn failure(reply: &Reply) -> CallError {
    let message: &Payload = &reply.message;
    if reply.kind != Kind::Failure {
        return CallError::BadReply(
            "the server answered with an error that this method does not have".into(),
        );
    }
    match message.decode::<(u32, String)>() {
        Ok((code, text)) => Failure::from_code(code).into_error(text),
        Err(invalid) => bad_reply(&invalid),
    }
}

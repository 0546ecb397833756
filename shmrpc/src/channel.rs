//! The client's side of a call: encode, lease a lane, call, decode.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shmrpc_transport::callers::{Callers, NoLane};
use shmrpc_transport::connection::{Blob, BlobMut};
use shmrpc_transport::lane::{NoReply, Outgoing, Reply};
use shmrpc_transport::message::Message as Payload;
use shmrpc_transport::message::{Number, View};
use shmrpc_transport::slot::Kind;
use shmrpc_transport::sys::fork;
use shmrpc_transport::sys::futex::Until;

use crate::arg::Args;
use crate::blob::{BlobWire, Loan};
use crate::context::TransportInfo;
use crate::descriptor::{DescriptorWire, not_among};
use crate::dispatch::Failure;
use crate::error::{CallError, Outcome};
use crate::{Message, Schema};

/// A connection to one service, with the options of this handle. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    link: Arc<Link>,
    timeout: Duration,
    /// The same, as it travels.
    timeout_ms: u32,
}

/// What all clones of a client share.
pub(crate) struct Link {
    pub(crate) callers: Callers,
    /// The server's ids, by the method's index in the trait.
    pub(crate) methods: Box<[Option<u16>]>,
    /// Names for errors, by the method's index in the trait.
    pub(crate) names: Box<[&'static str]>,
    pub(crate) transport: TransportInfo,
    pub(crate) process: fork::Generation,
}

impl Channel {
    pub(crate) fn new(link: Link, timeout: Duration) -> Self {
        Self { link: Arc::new(link), timeout, timeout_ms: timeout_ms(timeout) }
    }

    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { link: Arc::clone(&self.link), timeout, timeout_ms: timeout_ms(timeout) }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn transport(&self) -> &TransportInfo {
        &self.link.transport
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
    pub fn view<A: Args, R: Message>(&self, method: u16, args: &A) -> Result<View<R>, CallError> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => reply.message.into_view::<R>().map_err(|invalid| bad_reply(&invalid)),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<R, E>`, and leaves the result where it arrived.
    #[inline]
    pub fn view_fallible<A: Args, R: Message, E: Message>(
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
        let mut until = Until::after(self.timeout);
        let method = self.id(method).map_err(|error| *error)?;
        let descriptors = args.descriptors();
        let request = Outgoing { method, value: args, recursive: A::RECURSIVE, descriptors };
        let mut lease = self.link.callers.lease(&mut until).map_err(|none| *self.no_lane(*none))?;
        let sent = lease.lane().send(request, &mut until);
        if sent.is_ok() {
            lease.sent_oneway();
        }
        lease.end();
        args.settle(sent.is_ok());
        sent.map_err(|none| *self.no_reply(*none))
    }

    /// Errors are boxed here and below, so that the way of a call that succeeds moves a pointer at most.
    #[inline(always)]
    fn transact<A: Args>(&self, method: u16, args: &A, reply: &mut Reply) -> Result<(), Box<CallError>> {
        let mut until = Until::after(self.timeout);
        let method = self.id(method)?;
        let descriptors = args.descriptors();
        let request = Outgoing { method, value: args, recursive: A::RECURSIVE, descriptors };
        let mut lease = self.link.callers.lease(&mut until).map_err(|none| self.no_lane(*none))?;
        let called = lease.lane().call(request, self.timeout_ms, reply, &mut until);
        if called.is_ok() {
            lease.got_reply();
        }
        lease.end();
        args.settle(match &called {
            Ok(()) => true,
            Err(none) => none.was_published(),
        });
        called.map_err(|none| self.no_reply(*none))
    }

    /// Memory to send, for at most as long as a call may take.
    pub(crate) fn blob<T: Number + Default>(&self, length: usize) -> Result<BlobMut<T>, CallError> {
        if !self.link.process.is_current() {
            return Err(CallError::Forked);
        }
        Ok(self.link.callers.connection().blob(length, &mut Until::after(self.timeout))?)
    }

    /// A blob, as it travels in the arguments of a call of this channel.
    pub fn loan<T: Number>(&self, blob: impl Into<Blob<T>>) -> Loan {
        Loan(self.link.callers.connection().loan(blob.into()))
    }

    /// Calls a method that returns a blob and has no error of its own.
    pub fn call_blob<A: Args, T: Number + Schema>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<Blob<T>, CallError> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| *error)?;
        match reply.kind {
            Kind::Reply => self.blob_in::<T>(&reply),
            _ => Err(failure(&reply)),
        }
    }

    /// Calls a method that returns `Result<Blob<T>, E>`.
    pub fn call_blob_fallible<A: Args, T: Number + Schema, E: Message>(
        &self,
        method: u16,
        args: &A,
    ) -> Result<Blob<T>, CallError<E>> {
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => self.blob_in::<T>(&reply).map_err(CallError::widen),
            _ => Err(service_error(&reply)),
        }
    }

    fn blob_in<T: Number + Schema>(&self, reply: &Reply) -> Result<Blob<T>, CallError> {
        let wire = reply.message.access::<BlobWire<T>>().map_err(|invalid| bad_reply(&invalid))?;
        self.link.callers.connection().receive_blob(wire).map_err(|bad| bad_reply(&bad))
    }

    /// Descriptors that came too late are closed, at the latest, when somebody asks for the next one.
    fn tidy(&self) {
        if self.link.process.is_current() {
            self.link.callers.tidy();
        }
    }

    /// Calls a method that returns a descriptor and has no error of its own.
    pub fn call_descriptor<A: Args>(&self, method: u16, args: &A) -> Result<OwnedFd, CallError> {
        self.tidy();
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| *error)?;
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
        self.tidy();
        let mut reply = Reply::empty();
        self.transact(method, args, &mut reply).map_err(|error| error.widen())?;
        match reply.kind {
            Kind::Reply => descriptor_in(&mut reply).map_err(CallError::widen),
            _ => Err(service_error(&reply)),
        }
    }

    /// The server's id of a method; also where a forked child stops.
    #[inline(always)]
    fn id(&self, method: u16) -> Result<u16, Box<CallError>> {
        if !self.link.process.is_current() {
            return Err(Box::new(CallError::Forked));
        }
        match self.link.methods.get(usize::from(method)) {
            Some(Some(id)) => Ok(*id),
            _ => Err(Box::new(self.unknown(method))),
        }
    }

    #[cold]
    fn unknown(&self, method: u16) -> CallError {
        let name = self.link.names.get(usize::from(method)).copied().unwrap_or("?");
        CallError::UnknownMethod(name.to_owned())
    }

    #[cold]
    fn no_lane(&self, none: NoLane) -> Box<CallError> {
        Box::new(match none {
            NoLane::Refused(reason) => {
                CallError::Overloaded(format!("the server serves no lane to this client: {reason}"))
            }
            NoLane::TimedOut => CallError::Overloaded(format!(
                "for {:?} every lane was in use, or the server did not answer when asked for one more, or a one-way \
                 call before this one did not end",
                self.timeout
            )),
            NoLane::Dead(death) => CallError::Disconnected { reason: death.reason, outcome: Outcome::NotRun },
        })
    }

    #[cold]
    fn no_reply(&self, none: NoReply) -> Box<CallError> {
        let outcome = |maybe| if maybe { Outcome::Unknown } else { Outcome::NotRun };
        Box::new(match none {
            NoReply::NotEncoded(error) => error.into(),
            NoReply::TimedOut { published } => {
                CallError::DeadlineExceeded { timeout: self.timeout, outcome: outcome(published) }
            }
            NoReply::Dead { taken, death } => {
                CallError::Disconnected { reason: death.reason, outcome: outcome(taken) }
            }
        })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Channel")
            .field("endpoint", &self.link.transport.endpoint)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The time limit as it travels: at least 1 ms; 0, for ever, if it does not fit.
#[inline(always)]
fn timeout_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis().max(1)).unwrap_or(0)
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

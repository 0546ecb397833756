//! The server's side of a call: validate, run the handler, encode its result.

use std::any::Any;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};

use shmrpc_transport::connection::{Blob, Loaned};
use shmrpc_transport::lane::{Incoming, ServingLane};
use shmrpc_transport::message::{Encode, EncodeError, Held, Invalid, Number};
use shmrpc_transport::slot::Kind;

use crate::Message;
use crate::arg::{Rejected, Values};
use crate::blob::Loan;
use crate::context::Context;
use crate::descriptor::DescriptorWire;
use crate::error::CallError;
use crate::schema::ServiceSchema;

/// Something that can be served. `#[shmrpc::service]` generates an implementation, such as `KvServer`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service",
    label = "wrap what implements the trait, such as `KvServer::new({Self})`",
    note = "`#[shmrpc::service]` on a trait `Kv` makes `KvServer`, which is generic over what implements `Kv`"
)]
pub trait Service: Send + Sync + 'static {
    #[doc(hidden)]
    fn schema(&self) -> ServiceSchema;

    #[doc(hidden)]
    fn dispatch(&self, method: u16, request: Request<'_>) -> Answered;
}

/// A call on its way into a handler.
#[derive(Debug)]
pub struct Request<'a> {
    pub(crate) lane: &'a mut ServingLane,
    pub(crate) incoming: &'a mut Incoming,
    pub(crate) context: &'a Context,
}

/// What a handler returned, to be dropped when it is encoded.
struct Returned<T>(T);

impl<T> Deref for Returned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Proof that a request was answered, or needed no answer.
#[derive(Debug)]
pub struct Answered(());

/// How a call failed outside its handler. The numbers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Panicked = 1,
    UnknownMethod = 2,
    BadArguments = 3,
    Overloaded = 4,
    BadReply = 5,
}

impl Failure {
    /// Reads a peer's number. What a later version adds is an answer that we cannot read.
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Panicked,
            2 => Self::UnknownMethod,
            3 => Self::BadArguments,
            4 => Self::Overloaded,
            _ => Self::BadReply,
        }
    }

    pub(crate) fn into_error(self, text: String) -> CallError {
        match self {
            Self::Panicked => CallError::Panicked(text),
            Self::UnknownMethod => CallError::UnknownMethod(text),
            Self::BadArguments => CallError::BadArguments(text),
            Self::Overloaded => CallError::Overloaded(text),
            Self::BadReply => CallError::BadReply(text),
        }
    }
}

impl Request<'_> {
    /// Reads the arguments and runs a handler on them. What it returns may be made of values that have room.
    #[inline(always)]
    fn run<A: Message, T>(
        &self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> T,
    ) -> Result<(T, Option<Held>), Invalid> {
        let args = self.incoming.message.access::<A>()?;
        let values = Values::of(&self.incoming.message, self.context.connection());
        let returned = handler(args, self.context, &values);
        Ok((returned, values.into_held()))
    }

    /// Runs a handler that has no error of its own.
    #[inline(always)]
    pub fn unary<A: Message, R: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<R, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(result), held)) => self.reply(held, Kind::Reply, result, R::RECURSIVE),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that returns a result.
    #[inline(always)]
    pub fn fallible<A: Message, R: Message, E: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<Result<R, E>, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(Ok(result)), held)) => self.reply(held, Kind::Reply, result, R::RECURSIVE),
            Ok((Ok(Err(error)), held)) => self.reply(held, Kind::ServiceError, error, E::RECURSIVE),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that returns a blob.
    pub fn blob<A: Message, T: Number>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<Blob<T>, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(blob), _)) => self.reply_blob(blob),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that returns a blob or an error.
    pub fn blob_fallible<A: Message, T: Number, E: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<Result<Blob<T>, E>, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(Ok(blob)), _)) => self.reply_blob(blob),
            Ok((Ok(Err(error)), held)) => self.reply(held, Kind::ServiceError, error, E::RECURSIVE),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that returns a descriptor.
    pub fn descriptor<A: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<OwnedFd, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(fd), _)) => self.reply_descriptor(fd),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that returns a descriptor or an error.
    pub fn descriptor_fallible<A: Message, E: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<Result<OwnedFd, E>, Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(Ok(fd)), _)) => self.reply_descriptor(fd),
            Ok((Ok(Err(error)), held)) => self.reply(held, Kind::ServiceError, error, E::RECURSIVE),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Runs a handler that nobody waits for.
    #[inline(always)]
    pub fn oneway<A: Message>(
        self,
        handler: impl FnOnce(&A::Archived, &Context, &Values<'_>) -> Result<(), Rejected>,
    ) -> Answered {
        match self.run::<A, _>(handler) {
            Ok((Ok(()), _)) => Answered(()),
            Ok((Err(rejected), _)) => self.rejected(rejected),
            Err(invalid) => self.unread(&invalid),
        }
    }

    /// Answers a call to a method that the service does not have.
    #[cold]
    pub fn unknown_method(self) -> Answered {
        self.fail(Failure::UnknownMethod, "an id that this server did not give".into())
    }

    #[inline(always)]
    fn reply<T: Encode>(self, held: Option<Held>, kind: Kind, value: T, recursive: bool) -> Answered {
        match held {
            // What the handler returned is dropped after the reply, which may take long.
            None => self.reply_with(kind, &value, recursive, None),
            Some(held) => self.reply_and_let_go(held, kind, value, recursive),
        }
    }

    /// Replies with what may be made of values that have room. A reply may wait for the client as long as that likes, so the room
    /// goes back when nothing waits any more; the value before it, and both before the reply says so.
    #[inline(never)]
    fn reply_and_let_go<T: Encode>(self, held: Held, kind: Kind, value: T, recursive: bool) -> Answered {
        let Self { lane, incoming, context: _ } = self;
        if incoming.oneway {
            return Answered(());
        }
        let message = &mut incoming.message;
        let mut gone = Ok(());
        let let_go = |value: Returned<T>| {
            gone = panic::catch_unwind(AssertUnwindSafe(|| drop(value)));
            message.clear();
            drop(held);
        };
        match lane.reply_with(incoming.call_id, kind, Returned(value), recursive, None, let_go) {
            Ok(()) => incoming.answered = true,
            Err(error) => not_encoded(lane, incoming, &error),
        }
        // It is a result all the same.
        gone.map_or_else(|thrown| panic::resume_unwind(thrown), Answered)
    }

    #[inline(always)]
    fn reply_with<T: Encode>(
        self,
        kind: Kind,
        value: &T,
        recursive: bool,
        descriptors: Option<&mut Vec<OwnedFd>>,
    ) -> Answered {
        let Self { lane, incoming, context: _ } = self;
        // The arguments' memory goes back before the reply says so, so that the caller's next call finds it free.
        incoming.message.clear();
        if incoming.oneway {
            return Answered(());
        }
        match lane.reply_with(incoming.call_id, kind, value, recursive, descriptors, |_| {}) {
            Ok(()) => incoming.answered = true,
            Err(error) => not_encoded(lane, incoming, &error),
        }
        Answered(())
    }

    fn reply_descriptor(self, fd: OwnedFd) -> Answered {
        self.reply_with(Kind::Reply, &DescriptorWire::RESULT, false, Some(&mut vec![fd]))
    }

    fn reply_blob<T: Number>(self, blob: Blob<T>) -> Answered {
        let Self { lane, incoming, context } = self;
        let loan = Loan(Loaned::new(blob));
        let prepared = loan.0.prepare(context.connection());
        incoming.message.clear();
        if incoming.oneway {
            return Answered(());
        }
        match prepared.and_then(|()| lane.reply(incoming.call_id, Kind::Reply, &loan, false)) {
            Ok(()) => {
                loan.0.settle(true);
                incoming.answered = true;
            }
            Err(error) => not_encoded(lane, incoming, &error),
        }
        Answered(())
    }

    #[cold]
    fn rejected(self, rejected: Rejected) -> Answered {
        match rejected {
            Rejected::Type(reason) => self.fail(Failure::BadArguments, reason),
            Rejected::Room(reason) => self.fail(Failure::Overloaded, reason),
        }
    }

    #[cold]
    fn unread(self, invalid: &Invalid) -> Answered {
        let failure = match invalid {
            Invalid::Bytes { .. } => Failure::BadArguments,
            Invalid::NoRoom { .. }
            | Invalid::NoRoomHere { .. }
            | Invalid::NoRoomForAll { .. }
            | Invalid::NoRoomForValues { .. }
            | Invalid::NoMemory { .. } => Failure::Overloaded,
        };
        self.fail(failure, invalid.to_string())
    }

    #[cold]
    fn fail(self, failure: Failure, text: String) -> Answered {
        fail(self.lane, self.incoming, failure, text);
        Answered(())
    }
}

#[cold]
fn not_encoded(lane: &mut ServingLane, incoming: &mut Incoming, error: &EncodeError) {
    fail(lane, incoming, Failure::BadReply, error.to_string());
}

/// Bytes of text that a failure carries at most.
const TEXT_MAX: usize = 1024;
/// What a failure says when no block can be had: with its code it fits into a slot.
const SHORT: &str = "no memory; drop some views";
/// The same, when the peer takes no message as large as the failure.
const TOO_LONG: &str = "raise max_message to see why";

/// Answers a call with a failure.
#[cold]
pub(crate) fn fail(lane: &mut ServingLane, incoming: &mut Incoming, failure: Failure, mut text: String) {
    incoming.message.clear();
    if incoming.oneway {
        tracing::warn!(peer = %lane.connection().peer(), ?failure, text, "a one-way call failed");
        return;
    }
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    let code = failure as u32;
    let mut say = |text| lane.reply(incoming.call_id, Kind::Failure, &(code, text), false);
    let sent = say(text).or_else(|error| {
        // A call without an answer keeps its caller waiting and costs its lane. This needs no memory.
        let short = if matches!(error, EncodeError::TooLarge { .. }) { TOO_LONG } else { SHORT };
        // Over a stream even that may be more than the peer takes.
        say(short.to_owned()).or_else(|_| say(String::new()))
    });
    match sent {
        Ok(()) => incoming.answered = true,
        Err(error) => tracing::warn!(%error, "a failure could not be reported"),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

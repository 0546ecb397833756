//! What can go wrong, and what may have happened then.

use std::convert::Infallible;
use std::time::Duration;
use std::{fmt, io};

use shmrpc_transport::message::EncodeError;
use shmrpc_transport::rendezvous::MeetError;
use shmrpc_transport::sys::shortage::explain;
use shmrpc_transport::tls::TlsError;

use crate::endpoint::EndpointError;

/// What may have happened to a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The handler did not run and never will: calling again is safe.
    NotRun,
    /// The handler ran, once.
    Ran,
    /// The handler may have run, or may still run, once.
    Unknown,
}

/// A call that failed. `E` is the service's own error.
///
/// | variant | when | [`outcome`](CallError::outcome) |
/// | --- | --- | --- |
/// | `Service` | the handler returned its own error | `Ran` |
/// | `Panicked` | the handler panicked; the server goes on, unless it was built with `panic = "abort"` | `Ran` |
/// | `BadReply` | the handler ran, but its result could not be sent or read | `Ran` |
/// | `BadArguments` | the server could not validate or read the arguments | `NotRun` |
/// | `UnknownMethod` | the server has no such method | `NotRun` |
/// | `Overloaded` | no lane: the server's limits, or all lanes in use, or one more not opened, until the deadline; or no room or no memory at the server for a copy of large arguments, or for values made of them; or too many descriptors wait there | `NotRun` |
/// | `NotEncoded` | the arguments are too large or too deep, or no send memory is left, or their descriptors cannot go this way | `NotRun` |
/// | `DeadlineExceeded` | the time was over | `NotRun` before publishing, else `Unknown` |
/// | `Disconnected` | the connection ended with the call; or the client could not connect again | `NotRun` if the server is known not to have taken the call, else `Unknown` |
/// | `Forked` | this process was forked from the one that connected | `NotRun` |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Infallible> {
    /// The service's own error.
    #[error("{0}")]
    Service(E),
    /// The handler panicked with this message.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// The handler ran, but its result could not be sent or read.
    #[error("the call ran, but its result is lost: {0}")]
    BadReply(String),
    /// The server could not read the arguments.
    #[error("the server refused the arguments: {0}")]
    BadArguments(String),
    /// The server has no such method.
    #[error("the server has no method `{0}`; it may be older than this client")]
    UnknownMethod(String),
    /// The server or this connection has no room for the call now.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The arguments could not be encoded.
    #[error("{0}")]
    NotEncoded(String),
    /// The time was over.
    #[error("no reply within {timeout:?} ({outcome:?}); raise it with `with_timeout` if the method is slow")]
    DeadlineExceeded {
        /// The call's time limit.
        timeout: Duration,
        /// Whether the handler may have run.
        outcome: Outcome,
    },
    /// The connection ended. If the outcome is [`Outcome::NotRun`], the client could not connect again in time, or was told
    /// not to.
    #[error("disconnected ({outcome:?}): {reason}")]
    Disconnected {
        /// Why.
        reason: String,
        /// Whether the handler may have run.
        outcome: Outcome,
    },
    /// This process was forked from the one that connected; the connection belongs to the parent.
    #[error("this client belongs to the parent process; connect again after fork")]
    Forked,
}

impl<E> CallError<E> {
    /// What may have happened: whether calling again is safe.
    ///
    /// ```
    /// use shmrpc::prelude::*;
    /// let error: CallError = CallError::Overloaded("64 lanes in use".into());
    /// assert_eq!(error.outcome(), Outcome::NotRun);
    /// ```
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Service(_) | Self::Panicked(_) | Self::BadReply(_) => Outcome::Ran,
            Self::BadArguments(_)
            | Self::UnknownMethod(_)
            | Self::Overloaded(_)
            | Self::NotEncoded(_)
            | Self::Forked => Outcome::NotRun,
            Self::DeadlineExceeded { outcome, .. } | Self::Disconnected { outcome, .. } => *outcome,
        }
    }
}

impl CallError {
    /// The same failure of a method that has an error of its own.
    pub(crate) fn widen<E>(self) -> CallError<E> {
        match self {
            Self::Service(never) => match never {},
            Self::Panicked(text) => CallError::Panicked(text),
            Self::BadReply(text) => CallError::BadReply(text),
            Self::BadArguments(text) => CallError::BadArguments(text),
            Self::UnknownMethod(text) => CallError::UnknownMethod(text),
            Self::Overloaded(text) => CallError::Overloaded(text),
            Self::NotEncoded(text) => CallError::NotEncoded(text),
            Self::DeadlineExceeded { timeout, outcome } => CallError::DeadlineExceeded { timeout, outcome },
            Self::Disconnected { reason, outcome } => CallError::Disconnected { reason, outcome },
            Self::Forked => CallError::Forked,
        }
    }
}

impl From<EncodeError> for CallError {
    fn from(error: EncodeError) -> Self {
        Self::NotEncoded(error.to_string())
    }
}

/// A client that could not connect. `Debug` prints the text, too: a `main` that returns the error is to show it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not one.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The server could not be reached or refused.
    #[error("cannot connect to {endpoint}: {error}")]
    Meet {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        error: MeetError,
    },
    /// This side has no TLS, or its certificates cannot be used.
    #[error("cannot connect to {endpoint}: {error}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        error: TlsError,
    },
    /// No endpoint of the list could be reached.
    #[error("no endpoint could be reached: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    All(Vec<ConnectError>),
    /// The server's answer makes no sense.
    #[error("the server at {endpoint} answered with a method table that makes no sense: {reason}")]
    Answer {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
}

impl ConnectError {
    /// Whether time alone does not mend it.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Endpoint(_) | Self::Answer { .. } | Self::Tls { .. } => true,
            Self::Meet { error, .. } => error.is_lasting(),
            Self::All(errors) => errors.iter().all(Self::is_lasting),
        }
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A server that could not start. `Debug` prints the text, as that of [`ConnectError`] does.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The endpoint is not one.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The system refused.
    #[error("cannot listen at {endpoint}: {}", explain(error))]
    Listen {
        /// The endpoint.
        endpoint: String,
        /// What the system said.
        error: io::Error,
    },
    /// This side has no TLS, or its certificates cannot be used.
    #[error("cannot listen at {endpoint}: {error}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What is wrong.
        error: TlsError,
    },
    /// Nothing to serve, or nowhere.
    #[error("{0}")]
    Incomplete(&'static str),
    /// Two services have one name.
    #[error("two services are named {0}; rename one of the traits, or serve them at two endpoints")]
    Duplicate(&'static str),
    /// The signal handler could not be set.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    /// A forked child cannot shut its parent's server down.
    #[error("this server belongs to the parent of this forked process; shut it down there")]
    Forked,
    /// Calls were still in flight when the time to shut down was over.
    #[error("{} still busy after {timeout:?}; their calls were cut off", if *lanes == 1 { "1 lane was".into() } else { format!("{lanes} lanes were") })]
    StillBusy {
        /// Lanes whose handlers had not returned.
        lanes: usize,
        /// The time they had.
        timeout: Duration,
    },
}

impl fmt::Debug for ServeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

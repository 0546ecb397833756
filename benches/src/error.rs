//! Why a measurement could not be made.

use std::{fmt, io, num::ParseIntError};

/// Why a measurement could not be made.
#[derive(Debug)]
pub enum Error {
    /// The kernel refused something.
    Io(io::Error),
    /// The peer process said or did something unexpected.
    Peer(String),
    /// The subject, shmrpc, failed a call.
    Subject(String),
    /// The command line is wrong.
    Usage(String),
}

/// What a step of a measurement gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "the kernel refused: {error}"),
            Error::Peer(text) => write!(f, "the peer process: {text}"),
            Error::Subject(text) => write!(f, "shmrpc: {text}"),
            Error::Usage(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<nix::Error> for Error {
    fn from(error: nix::Error) -> Error {
        Error::Io(error.into())
    }
}

impl From<ParseIntError> for Error {
    fn from(error: ParseIntError) -> Error {
        Error::Peer(format!("sent a word that is not a number: {error}"))
    }
}

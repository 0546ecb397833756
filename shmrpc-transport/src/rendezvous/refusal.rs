//! Why a peer is not let in, and whether asking again later may help.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

use super::MeetError;
use crate::slot::{Header, Kind};
use crate::sys::socket::abstract_name;
use crate::tls::Broken;

/// Why a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the peer to read.
    pub reason: String,
    /// Whether time alone does not mend it.
    pub is_lasting: bool,
}

impl Refusal {
    /// One that lasts.
    pub fn lasting(reason: String) -> Self {
        Self { reason, is_lasting: true }
    }

    /// How it travels.
    pub(super) fn header(&self) -> Header {
        Header { call_id: self.is_lasting.into(), ..Header::new(Kind::Failure) }
    }
}

/// One that may not last.
impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), is_lasting: false }
    }
}

impl From<MeetError> for Refusal {
    fn from(error: MeetError) -> Self {
        let is_lasting = error.is_lasting();
        let reason = match error {
            MeetError::Refused(reason) | MeetError::Unwelcome(reason) => reason,
            other => other.to_string(),
        };
        Self { reason, is_lasting }
    }
}

impl MeetError {
    /// Whether time alone does not mend it.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NotAllowed { .. } | Self::Unwelcome(_) | Self::Hello(_) | Self::Unsealed { .. } => true,
            Self::Memory(error) => !error.is_ours(),
            Self::Tls { is_lasting, .. } => *is_lasting,
            Self::NoAddress { each, .. } => each.iter().all(|(_, error)| error.is_lasting()),
            Self::Nobody { error, .. } | Self::NoHost { error, .. } => {
                error.kind() == io::ErrorKind::PermissionDenied
            }
            Self::NoName { .. }
            | Self::Refused(_)
            | Self::StillHeld { .. }
            | Self::TimedOut(_)
            | Self::System { .. }
            // It may be that a server ended in the middle of it.
            | Self::Ended(_) => false,
        }
    }
}

impl From<Refusal> for MeetError {
    fn from(Refusal { reason, is_lasting }: Refusal) -> Self {
        if is_lasting { Self::Unwelcome(reason) } else { Self::Refused(reason) }
    }
}

/// No way to a socket, and what to do.
pub(super) fn nobody(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{path} may not be used by this user: {error}; a server lets other users in by `.allow(..)`, if they may enter its \
             directory"
        ),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => format!(
            "nobody listens at {path}: {error}; is the endpoint right, and is the server running, as the same user?"
        ),
        _ => format!("nobody listens at {path}: {error}; is the server running, and as the same user?"),
    }
}

/// What keeps a path from being there at all: that it is in no directory. `None` if that is not so, or if it is no path but
/// an abstract name.
pub(super) fn in_no_directory(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|_| abstract_name(path).is_none())?;
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("there is no directory {}", folder.display()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotADirectory => None,
        _ => Some(format!("{} is no directory", folder.display())),
    }
}

/// No way to a host, and what to do.
pub(super) fn no_host(at: &str, error: &io::Error) -> String {
    match error.kind() {
        // It was not tried, and says what to do.
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => {
            format!("cannot reach {at}: {error}")
        }
        _ => format!("cannot reach {at}: {error}; is the server running there?"),
    }
}

/// No way to any address of a host. Whoever answered comes first: that says more.
pub(super) fn no_address(at: &str, each: &[(SocketAddr, MeetError)]) -> String {
    let (answered, silent): (Vec<_>, Vec<_>) = each
        .iter()
        .partition(|(_, error)| !matches!(error, MeetError::NoHost { .. } | MeetError::TimedOut(_)));
    let is_running = if answered.is_empty() { "; is the server running there?" } else { "" };
    let words = answered.into_iter().chain(silent).map(|(address, error)| match error {
        MeetError::NoHost { error, .. } => format!("at {address}: {error}"),
        error => format!("at {address}: {error}"),
    });
    format!("cannot reach {at}: {}{is_running}", words.collect::<Vec<_>>().join("; "))
}

/// A handshake of TLS that came to nothing.
impl From<Broken> for MeetError {
    fn from(broken: Broken) -> Self {
        let reason = match &broken {
            Broken::Plain => "this port does not speak TLS; if it is to be plain, connect with `tcp:`".into(),
            broken => broken.to_string(),
        };
        Self::Tls { reason, is_lasting: broken.is_lasting() }
    }
}

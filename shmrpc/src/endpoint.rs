//! Endpoints: `shm:NAME` and its relatives, and the directory where names live.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use shmrpc_transport::peers::PeerCredentials;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `shm:NAME`: a socket in this user's runtime directory, and shared memory.
    ShmName(String),
    /// `shm:/path`: a socket at this path, and shared memory.
    ShmPath(PathBuf),
}

/// A string that is no endpoint, or an endpoint that has no place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No scheme.
    #[error("`{0}` is no endpoint; write `shm:NAME` or `shm:/path`")]
    Scheme(String),
    /// A scheme of a later version.
    #[error("`{0}`: this version speaks `shm:` only; `uds:`, `tcp:` and `inproc:` are to come")]
    NotYet(String),
    /// A name that cannot be a file's.
    #[error(
        "`{0}`: a name has 1 to 64 letters, digits, `-`, `_` or `.`, and does not begin with `.`; for a path write `shm:/path`"
    )]
    Name(String),
    /// A path that a Unix socket cannot have.
    #[error(
        "`{path}` has {length} bytes, and a Unix socket's path has at most 107; set SHMRPC_RUNTIME_DIR or choose a shorter path"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// The runtime directory cannot be used.
    #[error(
        "the runtime directory {path} cannot be used: {reason}; set SHMRPC_RUNTIME_DIR to a directory that only you can enter"
    )]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(EndpointError::Scheme(text.to_owned()));
        };
        match scheme {
            "shm" if rest.starts_with('/') => Ok(Self::ShmPath(rest.into())),
            "shm" if is_name(rest) => Ok(Self::ShmName(rest.to_owned())),
            "shm" => Err(EndpointError::Name(text.to_owned())),
            "uds" | "tcp" | "tls" | "inproc" => Err(EndpointError::NotYet(text.to_owned())),
            _ => Err(EndpointError::Scheme(text.to_owned())),
        }
    }
}

fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(legal)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShmName(name) => write!(out, "shm:{name}"),
            Self::ShmPath(path) => write!(out, "shm:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// The endpoints of a comma-separated list.
    ///
    /// # Errors
    /// [`EndpointError`] for the first that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EndpointError> {
        text.split(',').map(str::parse).collect()
    }

    /// The path of the socket. Makes the runtime directory if `shm:NAME` needs it.
    pub(crate) fn socket(&self) -> Result<PathBuf, EndpointError> {
        let path = match self {
            Self::ShmPath(path) => path.clone(),
            Self::ShmName(name) => runtime_dir()?.join(name),
        };
        let length = path.as_os_str().len();
        if length > 107 { Err(EndpointError::TooLong { path, length }) } else { Ok(path) }
    }
}

/// `SHMRPC_RUNTIME_DIR`, else `XDG_RUNTIME_DIR/shmrpc`, else `/tmp/shmrpc-UID`; mode 0700 and ours.
fn runtime_dir() -> Result<PathBuf, EndpointError> {
    let own = PeerCredentials::own().uid;
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = named("SHMRPC_RUNTIME_DIR")
        .or_else(|| named("XDG_RUNTIME_DIR").map(|path| path.join("shmrpc")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/shmrpc-{own}")));
    let bad = |reason: String| EndpointError::RuntimeDir { path: path.clone(), reason };
    make_dir(&path).map_err(|error| bad(error.to_string()))?;
    let found = fs::symlink_metadata(&path).map_err(|error| bad(error.to_string()))?;
    if !found.is_dir() {
        return Err(bad("it is no directory".into()));
    }
    if found.uid() != own {
        return Err(bad(format!("it belongs to user {}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(bad(format!("others may enter it (mode {:o})", found.mode() & 0o777)));
    }
    Ok(path)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        for text in ["shm:kv", "shm:/run/kv.sock", "shm:a-b_c.1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse_list("shm:a, shm:/b").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert!(matches!(error("kv"), EndpointError::Scheme(_)));
        assert!(matches!(error("http:x"), EndpointError::Scheme(_)));
        assert!(matches!(error("tcp:127.0.0.1:80"), EndpointError::NotYet(_)));
        for bad in ["shm:", "shm:a/b", "shm:..", "shm:ä", "shm:a b"] {
            assert!(matches!(error(bad), EndpointError::Name(_)), "{bad}");
        }
        let long = Endpoint::ShmPath(format!("/{}", "x".repeat(107)).into());
        assert!(matches!(long.socket(), Err(EndpointError::TooLong { length: 108, .. })));
    }
}

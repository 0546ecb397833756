//! TLS 1.3 for `tls:`: who we are, whom we believe, and one TCP connection under TLS.
//!
//! Without the feature `tls` nothing speaks it, and whoever asks for it is told so.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(feature = "tls")]
pub use self::config::{Acceptor, Connector};
#[cfg(feature = "tls")]
pub(crate) use self::link::Link;
#[cfg(not(feature = "tls"))]
pub(crate) use self::none::Link;
#[cfg(not(feature = "tls"))]
pub use self::none::{Acceptor, Connector};

#[cfg(feature = "tls")]
mod config;
#[cfg(feature = "tls")]
mod link;
#[cfg(not(feature = "tls"))]
mod none;

/// Who this side is on a network, and whom it believes. The same on servers and clients: give it to the builder's `tls`.
///
/// ```
/// # use shmrpc_transport::tls::Tls;
/// let tls = Tls::with_roots("ca.pem").identity("kv.pem", "kv.key");
/// ```
///
/// Files are read once when the server starts, before it waits for its endpoints, and whenever the client connects.
#[derive(Debug, Clone)]
#[must_use]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nobody reads it without the feature"))]
pub struct Tls {
    pub(crate) roots: Pem,
    pub(crate) identity: Option<[Pem; 2]>,
    pub(crate) server_name: Option<String>,
    pub(crate) anybody: bool,
}

impl Tls {
    /// Believes whoever has a certificate that one of these has signed, directly or by others between them. On a server
    /// that decides which clients may talk; so let the roots be of an authority of your own that signs for nobody else.
    pub fn with_roots(roots: impl Into<Pem>) -> Self {
        Self { roots: roots.into(), identity: None, server_name: None, anybody: false }
    }

    /// What this side shows: its certificate, followed by those between it and a root if there are any; and the key.
    /// A server needs it; a client needs it unless the server does without.
    pub fn identity(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.identity = Some([chain.into(), key.into()]);
        self
    }

    /// The name, or the address, that the server's certificate has to be for, instead of the endpoint's HOST. For clients.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Lets in clients that show no certificate; one that is shown is checked all the same. Whoever reaches the port may talk
    /// then. For servers.
    pub fn allow_clients_without_certificate(mut self) -> Self {
        self.anybody = true;
        self
    }
}

/// Certificates, or a key, as PEM text: in a file, or here. A path becomes a file; bytes are the text itself.
#[derive(Clone)]
pub enum Pem {
    /// In a file.
    File(PathBuf),
    /// The text.
    Bytes(Vec<u8>),
}

#[cfg(feature = "tls")]
impl Pem {
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) if path.as_os_str().as_encoded_bytes().starts_with(b"-----BEGIN") => {
                Err(TlsError::NoPath)
            }
            Self::File(path) => {
                std::fs::read(path).map_err(|error| TlsError::Unreadable { path: path.clone(), error })
            }
        }
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Bytes(bytes) => write!(out, "the {} bytes of PEM that were given", bytes.len()),
        }
    }
}

/// Without the text: it may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl From<&str> for Pem {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<&Path> for Pem {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&[u8]> for Pem {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Pem {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// Why this side cannot speak TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The feature is off.
    #[error("this build of shmrpc has no TLS; in Cargo.toml add `features = [\"tls\"]` to shmrpc")]
    NotBuilt,
    /// The builder has no [`Tls`].
    #[error(
        "`tls:` needs certificates; say `.tls(Tls::with_roots(\"ca.pem\").identity(\"own.pem\", \"own.key\"))` on the builder"
    )]
    NotSaid,
    /// A server without a certificate.
    #[error("a server of `tls:` needs a certificate; say `.identity(\"own.pem\", \"own.key\")` on its `Tls`")]
    NoIdentity,
    /// PEM text where a path belongs.
    #[error("PEM text was given as a path; give its bytes (`.into_bytes()`) instead")]
    NoPath,
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something is not there.
    #[error("there is no {what} in {pem}")]
    Missing {
        /// A certificate or a private key.
        what: &'static str,
        /// Where.
        pem: Pem,
    },
    /// Something cannot be used.
    #[error("{pem} cannot be used: {reason}")]
    Unusable {
        /// Where it is.
        pem: Pem,
        /// Why.
        reason: String,
    },
    /// A key of another certificate.
    #[error("the key in {key} does not fit the certificate in {chain}")]
    OtherKey {
        /// The key.
        key: Pem,
        /// The certificate.
        chain: Pem,
    },
    /// A host that no certificate can be for.
    #[error(
        "no certificate can be for `{0}`; say with `.server_name(..)` on the `Tls` what the server's is for"
    )]
    Name(String),
}

/// Why a link carries no more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It ended, and nobody who has the keys said so.
    #[error("the link was cut: it ended without the close_notify of TLS")]
    Cut,
    /// The first bytes are none of TLS.
    #[error("the other end speaks no TLS")]
    Plain,
    /// One does not believe the other, or they have no TLS in common. Time alone does not mend that.
    #[error("{0}")]
    Unfit(String),
    /// The other end broke TLS, or had no place for us.
    #[error("{0}")]
    Tls(String),
    /// The system's error.
    #[error("the socket failed: {0}")]
    System(#[from] io::Error),
}

impl Broken {
    /// Whether time alone does not mend it: both are what they are, and said so.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Plain | Self::Unfit(_) => true,
            // A link that is cut may have been so by a server that ended in the middle of it.
            Self::Cut | Self::Tls(_) | Self::System(_) => false,
        }
    }
}

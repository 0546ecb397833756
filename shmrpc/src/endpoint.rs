//! Endpoints: `shm:NAME` and its relatives.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use shmrpc_transport::connection::Carrier;
use shmrpc_transport::peers::PeerCredentials;
use shmrpc_transport::rendezvous::net::HostPort;

use self::directory::{check, runtime_dir};

mod directory;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `shm:NAME`: a socket in this user's runtime directory, and shared memory.
    ShmName(String),
    /// `shm:/path`: a socket at this path, and shared memory.
    ShmPath(PathBuf),
    /// `uds:NAME`: the same socket as `shm:NAME`, and lanes of Unix sockets.
    UdsName(String),
    /// `uds:/path`: the same socket as `shm:/path`, and lanes of Unix sockets.
    UdsPath(PathBuf),
    /// `uds:@NAME`: a socket in the abstract namespace, which no directory protects: anybody may take the name, and only
    /// who is at the other end tells.
    UdsAbstract(String),
    /// `tcp:HOST:PORT`: lanes of TCP connections. An IPv6 address stands in brackets, with the interface behind it if it is
    /// of one link: `tcp:[fe80::1%eth0]:80`.
    Tcp(HostPort),
    /// `tls:HOST:PORT`: the same under TLS 1.3, with certificates on both sides. Needs the feature `tls`, and `tls(..)` on the
    /// builder.
    Tls(HostPort),
    /// `inproc:NAME`: a server of this process, for tests. No socket, no memory to share; all else is the same.
    Inproc(String),
}

/// A string that is no endpoint, or an endpoint that has no place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nothing at all, as behind a comma that is too many.
    #[error("there is an empty endpoint in `{0}`: write one, or take away the comma")]
    Empty(String),
    /// No scheme.
    #[error(
        "`{0}` is no endpoint; write `shm:NAME`, `shm:/path`, `uds:NAME`, `uds:/path`, `uds:@NAME`, `tcp:HOST:PORT`, \
         `tls:HOST:PORT` or `inproc:NAME`"
    )]
    Scheme(String),
    /// No host and port.
    #[error(
        "`{text}`: {reason}; write `tcp:HOST:PORT` or `tls:HOST:PORT`, an IPv6 address as `tcp:[::1]:PORT`"
    )]
    HostPort {
        /// The endpoint.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A name that is none.
    #[error(
        "{text:?}: {reason}; a name has 1 to 64 letters, digits, `-`, `_` or `.`, neither begins with `.` nor ends with `.lock`; for a path write `shm:/path`"
    )]
    Name {
        /// The endpoint.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path with a NUL, which no file can have.
    #[error("{path:?} has a NUL at byte {at}; no file has such a path")]
    Nul {
        /// The path.
        path: PathBuf,
        /// The bytes before it.
        at: usize,
    },
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
            "shm" | "uds" if rest.starts_with('/') => match rest.find('\0') {
                Some(at) => Err(EndpointError::Nul { path: rest.into(), at }),
                None if scheme == "shm" => Ok(Self::ShmPath(rest.into())),
                None => Ok(Self::UdsPath(rest.into())),
            },
            "uds" if let Some(name) = rest.strip_prefix('@') => match why_no_name(name) {
                Some(reason) => Err(EndpointError::Name { text: text.to_owned(), reason }),
                None => Ok(Self::UdsAbstract(name.to_owned())),
            },
            "shm" | "uds" => match why_no_name(rest) {
                Some(reason) => Err(EndpointError::Name { text: text.to_owned(), reason }),
                None if scheme == "shm" => Ok(Self::ShmName(rest.to_owned())),
                None => Ok(Self::UdsName(rest.to_owned())),
            },
            "tcp" | "tls" => match host_port(rest) {
                Some(at) if scheme == "tcp" => Ok(Self::Tcp(at)),
                Some(at) => Ok(Self::Tls(at)),
                None => {
                    Err(EndpointError::HostPort { text: text.to_owned(), reason: why_no_host_port(rest) })
                }
            },
            "inproc" => match why_no_name(rest) {
                Some(reason) => Err(EndpointError::Name { text: text.to_owned(), reason }),
                None => Ok(Self::Inproc(rest.to_owned())),
            },
            _ => Err(EndpointError::Scheme(text.to_owned())),
        }
    }
}

fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').filter(|inside| is_ipv6(inside))?,
        None => host,
    };
    let bare = text.starts_with('[') || !host.contains(':');
    let legal = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '/' | ',');
    // As it is written again.
    let plain = port == "0" || !port.starts_with(['0', '+']);
    let sound = bare && plain && !host.is_empty() && host.chars().all(legal);
    Some(HostPort { host: host.to_owned(), port: port.parse().ok()? }).filter(|_| sound)
}

fn why_no_host_port(text: &str) -> &'static str {
    let port = text.rsplit_once(':').map_or("", |(_, port)| port);
    if text.starts_with("//") {
        "no `//` stands before the host"
    } else if !port.is_empty()
        && port.bytes().all(|digit| digit.is_ascii_digit())
        && port.parse::<u16>().is_err()
    {
        "a port is at most 65535"
    } else {
        "it names no host and port"
    }
}

/// An IPv6 address, alone or with the interface that leads to its link: `fe80::1%eth0`, `fe80::1%2`.
fn is_ipv6(text: &str) -> bool {
    let (address, interface) = text.split_once('%').unwrap_or((text, "1"));
    // What the system has names for.
    let sound = (1..=15).contains(&interface.len()) && !interface.contains(['%', '[', ']']);
    sound && address.parse::<Ipv6Addr>().is_ok()
}

/// Bytes of a name, at most.
const NAME_MAX: usize = 64;

fn why_no_name(text: &str) -> Option<String> {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if text.is_empty() {
        Some("it has no name".into())
    } else if let Some((at, letter)) = text.char_indices().find(|(_, letter)| !legal(*letter)) {
        Some(format!("{letter:?} at byte {at} of the name"))
    } else if text.len() > NAME_MAX {
        Some(format!("the name has {} bytes", text.len()))
    } else if text.starts_with('.') {
        Some("the name begins with `.`".into())
    } else if text.ends_with(".lock") {
        Some("the lock of another name would have this one".into())
    } else {
        None
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShmName(name) => write!(out, "shm:{name}"),
            Self::ShmPath(path) => write!(out, "shm:{}", path.display()),
            Self::UdsName(name) => write!(out, "uds:{name}"),
            Self::UdsPath(path) => write!(out, "uds:{}", path.display()),
            Self::UdsAbstract(name) => write!(out, "uds:@{name}"),
            Self::Tcp(at) => write!(out, "tcp:{at}"),
            Self::Tls(at) => write!(out, "tls:{at}"),
            Self::Inproc(name) => write!(out, "inproc:{name}"),
        }
    }
}

impl Endpoint {
    /// The endpoints of a comma-separated list.
    ///
    /// # Errors
    /// [`EndpointError`] for the first that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EndpointError> {
        let parse = |endpoint: &str| match endpoint.trim() {
            "" => Err(EndpointError::Empty(text.to_owned())),
            endpoint => endpoint.parse(),
        };
        text.split(',').map(parse).collect()
    }

    /// Where a server listens. Makes the runtime directory if it is needed and not there.
    pub(crate) fn to_listen(&self) -> Result<Address, EndpointError> {
        self.address(|dir| match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        })
    }

    /// Where a client connects, which makes nothing.
    pub(crate) fn to_connect(&self) -> Result<Address, EndpointError> {
        self.address(|_| Ok(()))
    }

    fn address(&self, make: impl Fn(&Path) -> io::Result<()>) -> Result<Address, EndpointError> {
        let (path, carrier) = match self {
            Self::Tcp(at) => return Ok(Address::Tcp(at.clone())),
            Self::Tls(at) => return Ok(Address::Tls(at.clone())),
            Self::Inproc(name) => return Ok(Address::Inside(name.clone())),
            Self::UdsAbstract(name) => (format!("@{name}").into(), Carrier::Streams),
            Self::ShmPath(path) => (path.clone(), Carrier::Rings),
            Self::UdsPath(path) => (path.clone(), Carrier::Streams),
            Self::ShmName(name) => (in_runtime_dir(name, make)?, Carrier::Rings),
            Self::UdsName(name) => (in_runtime_dir(name, make)?, Carrier::Streams),
        };
        let length = path.as_os_str().len();
        if length > PATH_MAX {
            Err(EndpointError::TooLong { path, length })
        } else {
            Ok(Address::Unix(path, carrier))
        }
    }
}

/// An endpoint as the transport knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket's path, and what lanes are to be made of.
    Unix(PathBuf, Carrier),
    /// A TCP port.
    Tcp(HostPort),
    /// One that speaks TLS.
    Tls(HostPort),
    /// A name inside this process.
    Inside(String),
}

fn in_runtime_dir(name: &str, make: impl Fn(&Path) -> io::Result<()>) -> Result<PathBuf, EndpointError> {
    let own = PeerCredentials::own().uid;
    let dir = runtime_dir(|name| std::env::var_os(name), own);
    check(&dir, own, make).map_err(|reason| EndpointError::RuntimeDir { path: dir.clone(), reason })?;
    Ok(dir.join(name))
}

/// Bytes of a Unix socket's path, less the zero at its end (unix(7)).
const PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        let unix = ["shm:kv", "shm:/run/kv.sock", "shm:a-b_c.1", "uds:kv", "uds:/run/kv.sock", "uds:@kv"];
        let net = [
            "tcp:127.0.0.1:0",
            "tcp:localhost:80",
            "tcp:[::1]:65535",
            "tcp:[fe80::1%eth0]:80",
            "tls:[fe80::1%2]:80",
            "tcp:[fe80::1%a23456789012345]:80",
            "tls:[::1]:1",
            "tls:kv.example:7",
            "inproc:kv",
        ];
        for text in unix.into_iter().chain(net) {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse_list("shm:a, shm:/b").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert!(matches!(error("kv"), EndpointError::Scheme(_)));
        assert!(matches!(error("http:x"), EndpointError::Scheme(_)));
        for bad in [
            "tcp:",
            "tcp:80",
            "tcp::80",
            "tcp:host",
            "tcp:host:65536",
            "tcp:::1:80",
            "tcp:[::1:80",
            "tcp:[x]:80",
            "tcp:[x%eth0]:80",
            "tcp:[fe80::1%]:80",
            "tcp:[fe80::1%a%b]:80",
            "tcp:[fe80::1%a]b]:80",
            "tcp:[fe80::1%a/b]:80",
            "tcp:[fe80::1%a2345678901234567]:80",
            "tcp:fe80::1%eth0:80",
            "tcp:a:+1",
            "tcp:a:01",
            "tls:",
            "tls:a",
        ] {
            assert!(matches!(error(bad), EndpointError::HostPort { .. }), "{bad}");
        }
        for (bad, why) in [
            ("tcp://a:80", "no `//` stands before the host"),
            ("tcp:a:65536", "a port is at most 65535"),
            ("tcp:a:080", "it names no host and port"),
            ("tls:a:", "it names no host and port"),
        ] {
            assert!(matches!(error(bad), EndpointError::HostPort { reason, .. } if reason == why), "{bad}");
        }
        for bad in ["", "shm:a,", ",shm:a", "shm:a, ,shm:b"] {
            assert!(matches!(Endpoint::parse_list(bad), Err(EndpointError::Empty(list)) if list == bad));
        }
        for (bad, why) in [
            ("shm:", "it has no name"),
            ("uds:@@a", "'@' at byte 0 of the name"),
            ("shm:a/b", "'/' at byte 1 of the name"),
            ("shm:../kv", "'/' at byte 2 of the name"),
            ("shm:..", "the name begins with `.`"),
            ("shm:a\0b", "'\\0' at byte 1 of the name"),
            ("shm:ä", "'ä' at byte 0 of the name"),
            ("shm:a b", "' ' at byte 1 of the name"),
            ("shm:kv.lock", "the lock of another name would have this one"),
            (&format!("shm:{}", "x".repeat(65)), "the name has 65 bytes"),
        ] {
            let text = error(bad).to_string();
            assert!(text.contains(why) && text.contains("1 to 64") && !text.contains('\0'), "{text}");
        }
        assert_eq!(
            error("shm:/tmp/a\0b").to_string(),
            r#""/tmp/a\0b" has a NUL at byte 6; no file has such a path"#
        );
    }

    #[test]
    fn a_path_too_long_for_a_socket_says_how_long() {
        let path = |length: usize| Endpoint::ShmPath(format!("/{}", "x".repeat(length - 1)).into());
        assert!(path(107).to_listen().is_ok() && path(107).to_connect().is_ok());
        for error in [path(108).to_listen().unwrap_err(), path(108).to_connect().unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("has 108 bytes") && text.contains("at most 107"), "{text}");
        }
    }
}

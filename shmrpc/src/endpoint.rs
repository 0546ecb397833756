//! Endpoints: `shm:NAME` and its relatives, and the directory where names live.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use shmrpc_transport::connection::Carrier;
use shmrpc_transport::peers::PeerCredentials;
use shmrpc_transport::rendezvous::net::HostPort;

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
    /// No scheme.
    #[error(
        "`{0}` is no endpoint; write `shm:NAME`, `shm:/path`, `uds:NAME`, `uds:/path`, `uds:@NAME`, `tcp:HOST:PORT`, \
         `tls:HOST:PORT` or `inproc:NAME`"
    )]
    Scheme(String),
    /// No host and port.
    #[error(
        "`{0}` names no host and port; write `tcp:HOST:PORT` or `tls:HOST:PORT`, an IPv6 address as `tcp:[::1]:PORT`"
    )]
    HostPort(String),
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
                None => Err(EndpointError::HostPort(text.to_owned())),
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
        text.split(',').map(str::parse).collect()
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

/// `SHMRPC_RUNTIME_DIR`, else `XDG_RUNTIME_DIR/shmrpc`, else `/tmp/shmrpc-UID`.
fn runtime_dir(variable: impl Fn(&str) -> Option<OsString>, own: u32) -> PathBuf {
    // By components: a slash at the end would make the system follow a symbolic link.
    let named = |name| {
        let value = variable(name).filter(|value| !value.is_empty())?;
        Some(Path::new(&value).components().collect::<PathBuf>())
    };
    named("SHMRPC_RUNTIME_DIR")
        .or_else(|| named("XDG_RUNTIME_DIR").map(|path| path.join("shmrpc")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/shmrpc-{own}")))
}

/// Makes the runtime directory, and says why it cannot be used: what is in it has to be ours, and stay ours.
fn check(dir: &Path, own: u32, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), String> {
    let (true, Some(parent)) = (dir.is_absolute(), dir.parent()) else {
        return Err("it is no absolute path below `/`".into());
    };
    check_way(parent, own)?;
    make(dir).map_err(|error| format!("it cannot be made: {error}"))?;
    match fs::symlink_metadata(dir) {
        // Nobody serves there. To connect says so in its own words.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(found) => check_dir(&found, own),
    }
}

/// Whether it is a directory that only we can use.
fn check_dir(found: &fs::Metadata, own: u32) -> Result<(), String> {
    let mode = found.mode() & 0o777;
    if found.is_symlink() {
        Err("it is a symbolic link".into())
    } else if !found.is_dir() {
        Err("it is no directory".into())
    } else if found.uid() != own {
        Err(format!("it belongs to user {}, and we are user {own}", found.uid()))
    } else if mode & 0o077 != 0 {
        Err(format!("others may enter it (its mode is {mode:04o}, and 0700 is needed)"))
    } else if mode != 0o700 {
        Err(format!("we may not use it (its mode is {mode:04o}, and 0700 is needed)"))
    } else {
        Ok(())
    }
}

/// Symbolic links on the way to the runtime directory, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Whether nobody but us and root can exchange anything on the way from `/` to what is in `dir`: each directory and each
/// link. Ends where something is not there.
fn check_way(dir: &Path, own: u32) -> Result<(), String> {
    let steps = |path: &Path| {
        let steps = path.components().rev().map(|step| step.as_os_str().to_owned());
        steps.collect::<Vec<_>>()
    };
    let strangers_are_known = all_users_have_numbers();
    // What is still to go, the next step last.
    let (mut rest, mut at, mut links) = (steps(dir), PathBuf::from("/"), 0);
    while let Some(step) = rest.pop() {
        // `/` leads to the root again, and `..` upwards: links may have both.
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(step);
        let found = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|error| format!("{}: {error}", next.display()))?,
        };
        check_step(&found, own, strangers_are_known)
            .map_err(|reason| format!("{} {reason}", next.display()))?;
        if found.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(format!("{} is behind more than {LINKS_MAX} symbolic links", next.display()));
            }
            let target = fs::read_link(&next).map_err(|error| format!("{}: {error}", next.display()))?;
            rest.extend(steps(&target));
        } else {
            at = next;
        }
    }
    Ok(())
}

/// Whether every user has a number in our user namespace. If not, those that have none share one.
fn all_users_have_numbers() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let lengths = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    // Without /proc, as if it were so: that refuses more.
    map.is_empty() || lengths.sum::<u64>() >= u32::MAX.into()
}

/// Whether nobody but us and root can exchange this directory's entries, or this link.
fn check_step(found: &fs::Metadata, own: u32, strangers_are_known: bool) -> Result<(), String> {
    /// Whoever has no number in our user namespace, as the owner of the system's directories in a container.
    const UNKNOWN: u32 = 65_534;
    let mode = found.mode() & 0o7777;
    let owner = found.uid();
    if ![own, 0].contains(&owner) && (owner != UNKNOWN || strangers_are_known) {
        return Err(format!("belongs to user {owner}, who could exchange it"));
    }
    // A link's mode means nothing. In a sticky directory everybody can exchange only what is his own.
    if found.is_symlink() || mode & 0o1000 != 0 || mode & 0o022 == 0 {
        return Ok(());
    }
    let who = if mode & 0o002 != 0 { "everybody" } else { "a group" };
    Err(format!("may be written by {who}, who could exchange it (its mode is {mode:04o}, not sticky)"))
}

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
            assert!(matches!(error(bad), EndpointError::HostPort(_)), "{bad}");
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

    #[test]
    fn the_runtime_directory_is_the_first_that_is_set() {
        let with = |ours: &str, xdg: &str| {
            let (ours, xdg) = (OsString::from(ours), OsString::from(xdg));
            runtime_dir(
                |name| match name {
                    "SHMRPC_RUNTIME_DIR" => Some(ours.clone()),
                    "XDG_RUNTIME_DIR" => Some(xdg.clone()),
                    _ => None,
                },
                1000,
            )
        };
        assert_eq!(with("/a", "/b"), Path::new("/a"));
        assert_eq!(with("/a/link/", "").as_os_str(), "/a/link", "a slash at the end follows a link");
        assert_eq!(with("", "/b"), Path::new("/b/shmrpc"));
        assert_eq!(with("", ""), Path::new("/tmp/shmrpc-1000"));
        assert_eq!(runtime_dir(|_| None, 7), Path::new("/tmp/shmrpc-7"));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let found = fs::metadata("/").unwrap();
        let (owner, other) = (found.uid(), found.uid() + 1);
        let error = check_dir(&found, other).unwrap_err();
        assert_eq!(error, format!("it belongs to user {owner}, and we are user {other}"));
        // Root may own a parent of anybody's; another user may not.
        let own = fs::metadata("/proc/self").unwrap();
        let (owner, other) = (own.uid(), own.uid() + 1);
        let refused = format!("belongs to user {owner}, who could exchange it");
        let expected = if owner == 0 { Ok(()) } else { Err(refused) };
        assert_eq!(check_step(&own, other, true), expected);
    }
}

//! Who is at the other end, and sets of such users.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

/// A process of this host, by the kernel's word at the time it said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in our pid namespace; `None` if it has none there. Another process may have it later:
    /// [`PeerInfo::pidfd`] does not change hands.
    pub pid: Option<i32>,
    /// Effective user id in our user namespace; there the kernel's overflow id, mostly 65534, is whoever has no number.
    pub uid: u32,
    /// Effective group id, likewise.
    pub gid: u32,
}

impl PeerCredentials {
    /// Those of this process.
    pub fn own() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self::said(nix::unistd::getpid().as_raw(), uid.as_raw(), gid.as_raw())
    }

    /// As the kernel says them: 0 is no process id.
    pub(crate) fn said(pid: i32, uid: u32, gid: u32) -> Self {
        Self { pid: (pid != 0).then_some(pid), uid, gid }
    }
}

/// Who is at the other end of a connection: a process of this host, or an address of a network.
///
/// A process has [credentials](PeerInfo::credentials), an address has none: there is no number that stands for nobody, so
/// a peer over TCP is never taken for some user.
///
/// ```
/// # fn may_write(peer: &shmrpc_transport::peers::PeerInfo) -> bool {
/// // Root, and nobody from a network.
/// peer.credentials().is_some_and(|who| who.uid == 0)
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PeerInfo {
    origin: Origin,
    party: Party,
}

#[derive(Debug, Clone)]
enum Origin {
    Process { credentials: PeerCredentials, pidfd: Option<Arc<OwnedFd>> },
    Network { address: SocketAddr, certificate: Option<Certificate> },
}

/// As DER. In a log its length is enough.
#[derive(Clone)]
struct Certificate(Arc<[u8]>);

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a certificate of {} bytes", self.0.len())
    }
}

impl PeerInfo {
    /// What the kernel said when the peer said hello. `pidfd` stands for that process.
    pub(crate) fn new(credentials: PeerCredentials, pidfd: Option<OwnedFd>) -> Self {
        let party = Party::new(&credentials, pidfd.as_ref());
        Self { origin: Origin::Process { credentials, pidfd: pidfd.map(Arc::new) }, party }
    }

    /// Somebody at an address, of whom the kernel says no more.
    pub(crate) fn remote(address: SocketAddr, certificate: Option<Arc<[u8]>>) -> Self {
        let party = Party::at(address.ip());
        Self { origin: Origin::Network { address, certificate: certificate.map(Certificate) }, party }
    }

    /// Process, user and group, as they were when it said hello. `None` if it came over a network: by TCP or TLS, from this
    /// host too.
    pub fn credentials(&self) -> Option<&PeerCredentials> {
        match &self.origin {
            Origin::Process { credentials, .. } => Some(credentials),
            Origin::Network { .. } => None,
        }
    }

    /// A descriptor that stands for its process and for no other (`pidfd_open(2)`): to signal it, to wait for its
    /// end. `None` over a network, inside this process, and where the kernel gives none.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.shared_pidfd().map(|pidfd| pidfd.as_fd())
    }

    /// The same, to keep.
    pub(crate) fn shared_pidfd(&self) -> Option<&Arc<OwnedFd>> {
        match &self.origin {
            Origin::Process { pidfd, .. } => pidfd.as_ref(),
            Origin::Network { .. } => None,
        }
    }

    /// Where it is, if it came over a network.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.origin {
            Origin::Process { .. } => None,
            Origin::Network { address, .. } => Some(*address),
        }
    }

    /// The certificate that it has shown, which a root of ours has signed, as DER: over TLS, else `None`, and for a client
    /// that a server let in without.
    pub fn certificate(&self) -> Option<&[u8]> {
        match &self.origin {
            Origin::Process { .. } => None,
            Origin::Network { certificate, .. } => certificate.as_ref().map(|certificate| &*certificate.0),
        }
    }

    /// Under whose name it counts where there are limits.
    #[doc(hidden)]
    pub fn party(&self) -> Party {
        self.party
    }
}

/// For people: a process and its user, or an address.
impl fmt::Display for PeerInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Process { credentials: PeerCredentials { pid: Some(pid), uid, .. }, .. } => {
                write!(out, "process {pid} of user {uid}")
            }
            Origin::Process { credentials: PeerCredentials { pid: None, uid, .. }, .. } => {
                write!(out, "a process of user {uid} in another pid namespace")
            }
            Origin::Network { address, .. } => address.fmt(out),
        }
    }
}

/// A process and its user, where there are limits for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    process: Process,
    /// `None` if it is of no user of this host that we know.
    uid: Option<u32>,
}

/// Tells one process from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// By its id in our pid namespace.
    Id(i32),
    /// It has no id there: by its pidfd's inode.
    Inode(u64),
    /// Before Linux 6.9 all pidfds have the same one: all such processes of this user are one.
    OfUser(u32),
    /// On a network: all processes at an address are one, and all addresses of an IPv6 host's /64.
    At(IpAddr),
    /// The system says nothing of them: they are one.
    Unknown,
}

impl Party {
    /// By the kernel's word, and by a descriptor of the process if there is one.
    pub(crate) fn new(by: &PeerCredentials, pidfd: Option<&OwnedFd>) -> Self {
        let process = match by.pid {
            None => pidfd.and_then(inode).map_or(Process::OfUser(by.uid), Process::Inode),
            Some(pid) => Process::Id(pid),
        };
        Self { process, uid: Some(by.uid) }
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self::new(&PeerCredentials::own(), None)
    }

    /// Somebody of whom the system says nothing.
    pub(crate) fn unknown() -> Self {
        Self { process: Process::Unknown, uid: None }
    }

    /// All that is at an address of a network. An IPv6 host may have all addresses of its /64, and counts by that.
    pub(crate) fn at(address: IpAddr) -> Self {
        let address = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        Self { process: Process::At(address), uid: None }
    }

    /// The process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Its user; `None` if it has none on this host that we know.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }
}

/// `PID_FS_MAGIC` (linux/magic.h): the file system of pidfds, where each process has an inode of its own. Linux 6.9.
const PIDFS: u64 = 0x5049_4446;

/// The number that only descriptors of this process have while it lives. `None` before Linux 6.9.
fn inode(pidfd: &OwnedFd) -> Option<u64> {
    let FsType(kind) = fstatfs(pidfd).ok()?.filesystem_type();
    let own = u64::try_from(kind).is_ok_and(|kind| kind == PIDFS);
    if own { fstat(pidfd).ok().map(|found| found.st_ino) } else { None }
}

/// A set of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// The user that this process runs as.
    SameUser,
    /// These user ids.
    Users(Vec<u32>),
    /// Everybody.
    Any,
    /// Nobody.
    Nobody,
}

impl Peers {
    /// Whether the set contains the peer's user.
    pub fn contains(&self, peer: &PeerCredentials) -> bool {
        match self {
            Self::SameUser => peer.uid == PeerCredentials::own().uid,
            Self::Users(uids) => uids.contains(&peer.uid),
            Self::Any => true,
            Self::Nobody => false,
        }
    }

    /// Whether the set contains anybody besides this user.
    pub(crate) fn reaches_beyond(&self, uid: u32) -> bool {
        match self {
            Self::SameUser | Self::Nobody => false,
            Self::Users(uids) => uids.iter().any(|member| *member != uid),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameUser => out.write_str("the same user"),
            Self::Users(uids) => write!(out, "users {uids:?}"),
            Self::Any => out.write_str("any user"),
            Self::Nobody => out.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_contain_whom_they_name() {
        let own = PeerCredentials::own();
        let other = PeerCredentials { uid: own.uid + 1, ..own };
        assert!(Peers::SameUser.contains(&own) && !Peers::SameUser.contains(&other));
        assert!(Peers::Users(vec![other.uid]).contains(&other) && !Peers::Users(vec![]).contains(&own));
        assert!(Peers::Any.contains(&other) && !Peers::Nobody.contains(&own));
    }

    #[test]
    fn whoever_is_on_a_network_is_nobody_here() {
        let peer = PeerInfo::remote(([127, 0, 0, 1], 7000).into(), Some(Arc::from([1, 2, 3])));
        assert_eq!(peer.credentials(), None);
        assert!(peer.pidfd().is_none());
        assert_eq!((peer.party().uid(), peer.to_string()), (None, "127.0.0.1:7000".to_owned()));
        let text = format!("{peer:?}");
        assert!(text.contains("a certificate of 3 bytes") && !text.contains("id: Some"), "{text}");

        let here = PeerInfo::new(PeerCredentials::said(12, 0, 0), None);
        assert_eq!((here.address(), here.certificate()), (None, None));
        assert_eq!(here.to_string(), "process 12 of user 0");
        let hidden = PeerInfo::new(PeerCredentials::said(0, 7, 7), None);
        assert_eq!(hidden.to_string(), "a process of user 7 in another pid namespace");
    }

    #[test]
    fn an_ipv6_host_is_one_whichever_of_its_addresses_it_takes() {
        let at = |address: &str| Party::at(address.parse().unwrap());
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        // As a socket for both kinds says an IPv4 address.
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("::ffff:192.0.2.1"), at("::ffff:192.0.2.2"));
    }

    #[test]
    fn processes_without_an_id_are_told_apart_if_the_kernel_can() {
        let hidden = PeerCredentials::said(0, 7, 7);
        assert_eq!(hidden.pid, None);
        let of_user = Party { process: Process::OfUser(7), uid: Some(7) };
        assert_eq!(Party::new(&hidden, None), of_user);
        // A descriptor from before Linux 6.9, as good as.
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Party::new(&hidden, Some(&file.into())), of_user);

        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let child_id = i32::try_from(child.id()).unwrap();
        let own_id = PeerCredentials::own().pid.unwrap();
        let [own, again, other] = [own_id, own_id, child_id]
            .map(|pid| Party::new(&hidden, Some(&crate::sys::process::open(pid).unwrap())));
        assert_eq!(own, again);
        match own.process {
            Process::Inode(_) => assert_ne!(own, other),
            process => assert_eq!((process, other), (Process::OfUser(7), of_user)),
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

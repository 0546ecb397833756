//! Who is at the other end, and sets of such users.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

/// A process, by the kernel's word at the time it said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id, in our pid namespace.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl PeerCredentials {
    /// Those of this process.
    pub fn own() -> Self {
        Self {
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }
}

/// Who is at the other end of a connection: a process of this host, or an address.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    credentials: PeerCredentials,
    pidfd: Option<Arc<OwnedFd>>,
    address: Option<SocketAddr>,
    certificate: Option<Certificate>,
    party: Party,
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
        Self { credentials, pidfd: pidfd.map(Arc::new), address: None, certificate: None, party }
    }

    /// Somebody at an address, of whom the kernel says no more.
    pub(crate) fn remote(address: SocketAddr, certificate: Option<Arc<[u8]>>) -> Self {
        let certificate = certificate.map(Certificate);
        let nobody = PeerCredentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let party = Party::at(address.ip());
        Self { credentials: nobody, pidfd: None, address: Some(address), certificate, party }
    }

    /// Where it is, if it came over a network. Then there are no credentials: its process id is 0, its user and group
    /// `u32::MAX`, which nobody has.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The certificate that it has shown, which a root of ours has signed, as DER: over TLS, else `None`, and for a client
    /// that a server let in without.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_ref().map(|certificate| &*certificate.0)
    }

    /// Under whose name it counts where there are limits.
    pub fn party(&self) -> Party {
        self.party
    }

    /// Its ids, as they were when it said hello.
    pub fn credentials(&self) -> &PeerCredentials {
        &self.credentials
    }

    /// Process id, in our pid namespace; 0 if it has none there. Another process may have it later:
    /// [`PeerInfo::pidfd`] does not change hands.
    pub fn pid(&self) -> i32 {
        self.credentials.pid
    }

    /// Effective user id.
    pub fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// Effective group id.
    pub fn gid(&self) -> u32 {
        self.credentials.gid
    }

    /// The same as [`PeerInfo::pidfd`], to keep.
    pub(crate) fn shared_pidfd(&self) -> Option<&Arc<OwnedFd>> {
        self.pidfd.as_ref()
    }

    /// A descriptor that stands for this process and for no other (`pidfd_open(2)`): to signal it, to wait for its
    /// end. `None` where the kernel gives none.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|pidfd| pidfd.as_fd())
    }
}

/// A process and its user, where there are limits for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    process: Process,
    uid: u32,
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
    /// On a network: all processes at an address are one.
    At(IpAddr),
}

impl Party {
    /// By the kernel's word, and by a descriptor of the process if there is one.
    pub(crate) fn new(by: &PeerCredentials, pidfd: Option<&OwnedFd>) -> Self {
        let process = match by.pid {
            0 => pidfd.and_then(inode).map_or(Process::OfUser(by.uid), Process::Inode),
            pid => Process::Id(pid),
        };
        Self { process, uid: by.uid }
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self::new(&PeerCredentials::own(), None)
    }

    /// Somebody of whom the system says nothing.
    pub(crate) fn unknown() -> Self {
        Self::new(&PeerCredentials { pid: 0, uid: u32::MAX, gid: u32::MAX }, None)
    }

    /// All that is at an address of a network.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self { process: Process::At(address), uid: u32::MAX }
    }

    /// The process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Its user.
    pub fn uid(&self) -> u32 {
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
    fn processes_without_an_id_are_told_apart_if_the_kernel_can() {
        let hidden = PeerCredentials { pid: 0, uid: 7, gid: 7 };
        let of_user = Party { process: Process::OfUser(7), uid: 7 };
        assert_eq!(Party::new(&hidden, None), of_user);
        // A descriptor from before Linux 6.9, as good as.
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Party::new(&hidden, Some(&file.into())), of_user);

        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let child_id = i32::try_from(child.id()).unwrap();
        let [own, again, other] = [PeerCredentials::own().pid, PeerCredentials::own().pid, child_id]
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

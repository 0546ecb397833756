//! Who is at the other end, and sets of such users.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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
}

impl PeerInfo {
    /// What the kernel said when the peer said hello. `pidfd` stands for that process.
    pub(crate) fn new(credentials: PeerCredentials, pidfd: Option<OwnedFd>) -> Self {
        Self { credentials, pidfd: pidfd.map(Arc::new), address: None }
    }

    /// Somebody at an address, of whom the kernel says no more.
    pub(crate) fn remote(address: SocketAddr) -> Self {
        let nobody = PeerCredentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
        Self { credentials: nobody, pidfd: None, address: Some(address) }
    }

    /// Where it is, if it came over a network. Then there are no credentials: its process id is 0, its user and group
    /// `u32::MAX`, which nobody has.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
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
}

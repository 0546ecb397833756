//! Who is at the other end, and sets of such users.

use std::fmt;

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

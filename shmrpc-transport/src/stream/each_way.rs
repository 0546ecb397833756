//! A Unix socket each way: each side receives from an end that it made, and that nobody else ever had. There it has the kernel
//! refuse descriptors, and needs no room for them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use super::{Medium, Stream};
use crate::sys::beside::{pass_descriptors, urgent_bytes_too};
use crate::sys::closing::Facing;

/// The second socket of a stream, and which way it is.
#[derive(Debug)]
pub(crate) enum EachWay {
    /// An end of a [pair of our own](pair_of_own).
    Receiving(Facing<OwnedFd>),
    /// What the peer gave.
    Sending(Facing<OwnedFd>),
}

/// Where is received.
#[inline(always)]
pub(super) fn ear<'a>(fd: &'a Facing<OwnedFd>, other: &'a OnceLock<EachWay>) -> &'a Facing<OwnedFd> {
    match other.get() {
        Some(EachWay::Receiving(fd)) => fd,
        Some(EachWay::Sending(_)) | None => fd,
    }
}

/// Where is sent.
#[inline(always)]
pub(super) fn mouth<'a>(fd: &'a Facing<OwnedFd>, other: &'a OnceLock<EachWay>) -> &'a Facing<OwnedFd> {
    match other.get() {
        Some(EachWay::Sending(fd)) => fd,
        Some(EachWay::Receiving(_)) | None => fd,
    }
}

/// An end that takes no descriptors, to receive from, and the other one, to be given away. None if the kernel cannot refuse them,
/// or has no pair of sockets left.
pub(crate) fn pair_of_own() -> Option<[OwnedFd; 2]> {
    let (near, far) = UnixStream::pair().ok()?;
    urgent_bytes_too(&near).ok()?;
    pass_descriptors(near.as_fd(), false).then(|| [near.into(), far.into()])
}

impl Stream {
    /// Whether the kernel can refuse descriptors here.
    pub(crate) fn can_refuse_descriptors(&self) -> bool {
        self.pass_descriptors(true)
    }

    /// No more descriptors come. What is there already is still to be read, and so are those beside it.
    pub(crate) fn refuse_descriptors(&self) -> bool {
        self.pass_descriptors(false)
    }

    fn pass_descriptors(&self, wanted: bool) -> bool {
        matches!(&self.medium, Medium::Socket { fd, .. } if pass_descriptors(fd.as_fd(), wanted))
    }

    /// Has another socket for one way from now on. Where it receives, descriptors are refused, and all that came before is read.
    pub(crate) fn go(&self, each_way: EachWay) {
        if let Medium::Socket { other, .. } = &self.medium {
            let first = other.set(each_way);
            debug_assert!(first.is_ok(), "it goes each way already");
        }
    }
}
